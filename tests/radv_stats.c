/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What AMD's compiler makes of our kernels: creates a compute pipeline of every SPIR-V file named on the
 * command line and prints the driver's version and one row of its statistics for each. Exit status 1 if a pipeline
 * cannot be made or spills registers. Meant for RADV without hardware (tools/with-driver radv-navi21 radv_stats *.spv),
 * which compiles but cannot run; tools/check-shaders-amd loops over the families.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <volk.h>

enum { MAX_EXTENSIONS = 512, MAX_STATISTICS = 64, PUSH_CONSTANT_BYTES = 128 };

struct gpu {
    VkInstance instance;
    VkPhysicalDevice physical;
    VkDevice device;
    VkPipelineLayout layout;
    VkPhysicalDeviceFeatures2 features;
    VkPhysicalDeviceVulkan11Features features11;
    VkPhysicalDeviceVulkan12Features features12;
    VkPhysicalDeviceVulkan13Features features13;
    bool has_cooperative_matrix;
    const char *family;
};

struct spirv {
    uint32_t *words; /* owned */
    size_t n_words;
};

static bool has_extension(VkPhysicalDevice physical, const char *name)
{
    static VkExtensionProperties extensions[MAX_EXTENSIONS];
    uint32_t n = MAX_EXTENSIONS;
    if (vkEnumerateDeviceExtensionProperties(physical, NULL, &n, extensions) != VK_SUCCESS)
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(extensions[i].extensionName, name) == 0)
            return true;
    return false;
}

/* Takes the first device with all its features; says on stderr what failed. A failure ends the program. */
static bool gpu_open(struct gpu *gpu)
{
    *gpu = (struct gpu){0};
    const char *family = getenv("RADV_FORCE_FAMILY");
    gpu->family = family ? family : "hardware";

    const VkApplicationInfo app = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_3};
    const VkInstanceCreateInfo instance_info = {
        .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
        .pApplicationInfo = &app,
    };
    if (volkInitialize() != VK_SUCCESS || vkCreateInstance(&instance_info, NULL, &gpu->instance) != VK_SUCCESS) {
        fprintf(stderr, "radv_stats: no Vulkan driver\n");
        return false;
    }
    volkLoadInstance(gpu->instance);

    uint32_t n = 1;
    if (vkEnumeratePhysicalDevices(gpu->instance, &n, &gpu->physical) < 0 || n == 0) {
        fprintf(stderr, "radv_stats: the driver shows no device\n");
        return false;
    }

    gpu->features13.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES;
    gpu->features12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
    gpu->features12.pNext = &gpu->features13;
    gpu->features11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES;
    gpu->features11.pNext = &gpu->features12;
    gpu->features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    gpu->features.pNext = &gpu->features11;
    vkGetPhysicalDeviceFeatures2(gpu->physical, &gpu->features);
    gpu->has_cooperative_matrix = has_extension(gpu->physical, "VK_KHR_cooperative_matrix");

    VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR statistics = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR,
        .pNext = &gpu->features,
        .pipelineExecutableInfo = VK_TRUE,
    };
    const char *extensions[] = {VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME, "VK_KHR_cooperative_matrix"};
    const float priority = 1;
    const VkDeviceQueueCreateInfo queue = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
        .queueCount = 1,
        .pQueuePriorities = &priority,
    };
    const VkDeviceCreateInfo device_info = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
        .pNext = &statistics,
        .queueCreateInfoCount = 1,
        .pQueueCreateInfos = &queue,
        .enabledExtensionCount = gpu->has_cooperative_matrix ? 2 : 1,
        .ppEnabledExtensionNames = extensions,
    };
    if (vkCreateDevice(gpu->physical, &device_info, NULL, &gpu->device) != VK_SUCCESS) {
        fprintf(stderr, "radv_stats: the device gives no statistics of pipelines\n");
        return false;
    }
    volkLoadDevice(gpu->device);

    const VkPushConstantRange range = {VK_SHADER_STAGE_COMPUTE_BIT, 0, PUSH_CONSTANT_BYTES};
    const VkPipelineLayoutCreateInfo layout_info = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
        .pushConstantRangeCount = 1,
        .pPushConstantRanges = &range,
    };
    return vkCreatePipelineLayout(gpu->device, &layout_info, NULL, &gpu->layout) == VK_SUCCESS;
}

static void gpu_close(struct gpu *gpu)
{
    vkDestroyPipelineLayout(gpu->device, gpu->layout, NULL);
    vkDestroyDevice(gpu->device, NULL);
    vkDestroyInstance(gpu->instance, NULL);
}

/* The first thing the kernel needs and the device lacks, or NULL. Words are checked: the file may be cut short. */
static const char *missing_feature(const struct gpu *gpu, const struct spirv *code)
{
    const struct {
        uint32_t capability;
        bool has;
        const char *name;
    } known[] = {
        {9, gpu->features12.shaderFloat16, "fp16"},
        {11, gpu->features.features.shaderInt64, "int64"},
        {22, gpu->features.features.shaderInt16, "int16"},
        {39, gpu->features12.shaderInt8, "int8"},
        {4433, gpu->features11.storageBuffer16BitAccess, "16-bit storage"},
        {4448, gpu->features12.storageBuffer8BitAccess, "8-bit storage"},
        {6019, gpu->features13.shaderIntegerDotProduct, "integer dot product"},
        {6022, gpu->has_cooperative_matrix, "cooperative matrix"},
    };
    const uint32_t op_capability = 17, header_words = 5;
    for (size_t i = header_words; i + 1 < code->n_words && (code->words[i] & 0xffff) == op_capability;
         i += code->words[i] >> 16) {
        for (size_t k = 0; k < sizeof known / sizeof *known; k++)
            if (known[k].capability == code->words[i + 1] && !known[k].has)
                return known[k].name;
        if (code->words[i + 1] >= 5430 && code->words[i + 1] <= 5440)
            return "cooperative matrix of NVIDIA";
        if (code->words[i] >> 16 == 0)
            break;
    }
    return NULL;
}

static bool read_spirv(const char *path, struct spirv *code)
{
    *code = (struct spirv){0};
    FILE *file = fopen(path, "rb");
    if (!file)
        return false;
    long size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    bool ok = size >= 20 && size % 4 == 0 && fseek(file, 0, SEEK_SET) == 0;
    if (ok) {
        code->n_words = (size_t)size / 4;
        code->words = malloc((size_t)size);
        ok = code->words && fread(code->words, 4, code->n_words, file) == code->n_words && code->words[0] == 0x07230203;
    }
    fclose(file);
    return ok;
}

static bool create_pipeline(const struct gpu *gpu, const struct spirv *code, VkPipeline *pipeline)
{
    const VkShaderModuleCreateInfo module_info = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
        .codeSize = code->n_words * 4,
        .pCode = code->words,
    };
    VkShaderModule module;
    if (vkCreateShaderModule(gpu->device, &module_info, NULL, &module) != VK_SUCCESS)
        return false;
    const VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .flags = VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR,
        .stage =
            {
                .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                .module = module,
                .pName = "main",
            },
        .layout = gpu->layout,
    };
    VkResult result = vkCreateComputePipelines(gpu->device, VK_NULL_HANDLE, 1, &info, NULL, pipeline);
    vkDestroyShaderModule(gpu->device, module, NULL);
    return result == VK_SUCCESS;
}

/* -1 if the driver does not tell. */
static int64_t statistic(const VkPipelineExecutableStatisticKHR *all, uint32_t n, const char *name)
{
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(all[i].name, name) == 0)
            return (int64_t)all[i].value.u64;
    return -1;
}

static void print_head(const struct gpu *gpu)
{
    VkPhysicalDeviceDriverProperties driver = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES};
    VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
                                              .pNext = &driver};
    vkGetPhysicalDeviceProperties2(gpu->physical, &properties);
    printf("driver: %s\n%-28s %-10s %7s %7s %7s %7s %7s %7s %7s %7s\n", driver.driverInfo, "kernel", "family", "VGPRs",
           "SGPRs", "spill-V", "spill-S", "scratch", "LDS", "code", "cycles");
}

/* Prints the row of one kernel; false if its pipeline cannot be made, spills, or tells nothing. */
static bool report(const struct gpu *gpu, const char *path)
{
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    printf("%-28.*s %-10s", (int)strcspn(name, "."), name, gpu->family);
    fflush(stdout); /* the compiler may crash */

    struct spirv code;
    VkPipeline pipeline = VK_NULL_HANDLE;
    bool ok = false;
    if (!read_spirv(path, &code)) {
        printf(" is not SPIR-V\n");
        goto out;
    }
    const char *missing = missing_feature(gpu, &code);
    if (missing) {
        printf(" has no %s\n", missing);
        ok = true;
        goto out;
    }
    if (!create_pipeline(gpu, &code, &pipeline)) {
        printf(" makes no pipeline of it\n");
        goto out;
    }

    VkPipelineExecutableStatisticKHR all[MAX_STATISTICS] = {0};
    for (uint32_t i = 0; i < MAX_STATISTICS; i++)
        all[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
    uint32_t n = MAX_STATISTICS;
    const VkPipelineExecutableInfoKHR executable = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR,
        .pipeline = pipeline,
    };
    if (vkGetPipelineExecutableStatisticsKHR(gpu->device, &executable, &n, all) != VK_SUCCESS) {
        printf(" gives no statistics\n");
        goto out;
    }
    static const char *const columns[] = {"VGPRs",        "SGPRs",    "Spilled VGPRs", "Spilled SGPRs",
                                          "Scratch size", "LDS size", "Code size",     "Inverse Throughput"};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        int64_t value = statistic(all, n, columns[i]);
        if (value >= 0)
            printf(" %7" PRId64, value);
        else
            printf(" %7s", "-");
    }
    ok = statistic(all, n, "Spilled VGPRs") == 0 && statistic(all, n, "Spilled SGPRs") == 0;
    printf("%s\n", ok ? "" : "  SPILLS");

out:
    vkDestroyPipeline(gpu->device, pipeline, NULL);
    free(code.words);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: radv_stats FILE.spv...\n");
        return 2;
    }
    struct gpu gpu;
    if (!gpu_open(&gpu))
        return 1;
    print_head(&gpu);
    bool ok = true;
    for (int i = 1; i < argc; i++)
        ok = report(&gpu, argv[i]) && ok;
    gpu_close(&gpu);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
