/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device_features.h"
#include "instance.h"
#include "pipeline_cache.h"

bool gpu_check(const struct gpu *gpu, VkResult result, const char *what, struct sc_error *e)
{
    switch (result) {
    case VK_SUCCESS: return true;
    case VK_ERROR_OUT_OF_HOST_MEMORY:
    case VK_ERROR_MEMORY_MAP_FAILED:
        return sc_fail(e, SC_OUT_OF_MEMORY, "%s: out of memory to %s", gpu->info.name, what);
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
        return sc_fail(e, SC_OUT_OF_DEVICE_MEMORY, "%s: out of device memory to %s", gpu->info.name, what);
    case VK_ERROR_DEVICE_LOST:
        return sc_fail(e, SC_DEVICE_LOST, "%s: the driver lost the device while asked to %s", gpu->info.name, what);
    default:
        return sc_fail(e, SC_DEVICE_LOST, "%s: the driver could not %s (error %d)", gpu->info.name, what, (int)result);
    }
}

static bool contains(const char *text, const char *part)
{
    const size_t n = strlen(part);
    for (; *text; text++) {
        size_t i = 0;
        while (i < n && text[i] && tolower((unsigned char)text[i]) == tolower((unsigned char)part[i]))
            i++;
        if (i == n)
            return true;
    }
    return false;
}

static int rank(enum sc_device_kind kind)
{
    switch (kind) {
    case SC_DEVICE_DISCRETE: return 4;
    case SC_DEVICE_INTEGRATED: return 3;
    case SC_DEVICE_VIRTUAL: return 2;
    case SC_DEVICE_OTHER: return 1;
    default: return 0; /* a CPU's Vulkan is slower than a CPU's own code: only when nothing else is there */
    }
}

/* "0: name, 1: name" for an error's sentence. */
static void list_names(VkPhysicalDevice *devices, uint32_t n, char *text, size_t size)
{
    size_t length = 0;
    text[0] = 0;
    for (uint32_t i = 0; i < n && length + 1 < size; i++) {
        struct sc_device_info info;
        device_describe(devices[i], i, &info);
        const int k = snprintf(text + length, size - length, "%s%u: %.80s", i ? ", " : "", i, info.name);
        length += k > 0 ? (size_t)k : 0;
    }
}

static bool choose_device(VkInstance instance, const char *device, VkPhysicalDevice *physical,
                          struct sc_device_info *chosen, struct sc_error *e)
{
    VkPhysicalDevice *devices;
    uint32_t n;
    if (!instance_devices(instance, &devices, &n, e))
        return false;

    char *end = NULL;
    const unsigned long index = device && isdigit((unsigned char)device[0]) ? strtoul(device, &end, 10) : 0;
    const bool by_index =
        end && *end == 0 && (index < n || end - device < 4 || end - device > 5); /* "4090" is a name */
    int best = -1;
    struct sc_device_info unusable = {0};
    for (uint32_t i = 0; i < n; i++) {
        struct sc_device_info info;
        device_describe(devices[i], i, &info);
        if (device && !(by_index ? index == i : contains(info.name, device)))
            continue;
        if (info.unusable[0])
            unusable = info;
        else if (best < rank(info.kind) || (best == rank(info.kind) && info.memory_bytes > chosen->memory_bytes)) {
            best = rank(info.kind);
            *chosen = info;
            *physical = devices[i];
        }
    }
    if (best < 0 && unusable.unusable[0])
        sc_fail(e, SC_NO_DEVICE, "%s cannot run Scoria: %s", unusable.name, unusable.unusable);
    else if (best < 0) {
        char names[360];
        list_names(devices, n, names, sizeof(names));
        sc_fail(e, SC_NO_DEVICE, "there is no device \"%.60s\"; there is %s", device ? device : "", names);
    }
    free(devices);
    return best >= 0;
}

bool sc_device_find(const char *device, struct sc_device_info *info, struct sc_error *e)
{
    VkInstance instance;
    VkPhysicalDevice physical;
    if (!instance_create(&instance, e))
        return false;
    const bool ok = choose_device(instance, device, &physical, info, e);
    vkDestroyInstance(instance, NULL);
    return ok;
}

/*
 * Bytes that imported host memory is aligned to; 0: the device cannot import any. Mesa's Intel driver takes memory that
 * may only be read, as a mapped file, but its kernel then pins it for writing, fails, and the device is lost.
 */
static uint64_t import_alignment(VkPhysicalDevice physical, const struct device_features *f)
{
    if (!f->has_host_memory)
        return 0;
    VkPhysicalDeviceDriverProperties driver = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES};
    VkPhysicalDeviceExternalMemoryHostPropertiesEXT host = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT, .pNext = &driver};
    VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &host};
    vkGetPhysicalDeviceProperties2(physical, &properties);
    return driver.driverID == VK_DRIVER_ID_INTEL_OPEN_SOURCE_MESA ? 0 : host.minImportedHostPointerAlignment;
}

static bool open_device(struct gpu *gpu, struct sc_error *e)
{
    /* integrated GPUs copy from RAM to RAM: a second queue would only take turns with the first */
    const uint32_t copies = gpu->info.kind == SC_DEVICE_INTEGRATED ? UINT32_MAX : device_transfer_family(gpu->physical);
    gpu->compute.family = device_queue_family(gpu->physical);
    gpu->compute.stages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
    gpu->transfer.family = copies == UINT32_MAX ? gpu->compute.family : copies;
    gpu->transfer.stages = VK_PIPELINE_STAGE_TRANSFER_BIT;
    struct device_features features;
    device_features_find(&features, gpu->physical);
    gpu->has_budget = features.has_budget;
    gpu->import_alignment = import_alignment(gpu->physical, &features);
    const float priority = 0.5f;
    VkDeviceQueueCreateInfo queues[2];
    for (uint32_t i = 0; i < 2; i++)
        queues[i] = (VkDeviceQueueCreateInfo){
            .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
            .queueFamilyIndex = i ? gpu->transfer.family : gpu->compute.family,
            .queueCount = 1,
            .pQueuePriorities = &priority,
        };
    VkDeviceCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
        .pNext = &features.core,
        .queueCreateInfoCount = gpu->transfer.family == gpu->compute.family ? 1 : 2,
        .pQueueCreateInfos = queues,
        .enabledExtensionCount = features.n_extensions,
        .ppEnabledExtensionNames = features.extensions,
    };
    if (!gpu_check(gpu, vkCreateDevice(gpu->physical, &info, NULL, &gpu->device), "open the device", e))
        return false;
    volkLoadDeviceTable(&gpu->vk, gpu->device);
    gpu->vk.vkGetDeviceQueue(gpu->device, gpu->compute.family, 0, &gpu->compute.handle);
    gpu->vk.vkGetDeviceQueue(gpu->device, gpu->transfer.family, 0, &gpu->transfer.handle);
    vkGetPhysicalDeviceMemoryProperties(gpu->physical, &gpu->memory);

    VkPhysicalDeviceMaintenance3Properties limits = {.sType =
                                                         VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES};
    VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
                                              .pNext = &limits};
    vkGetPhysicalDeviceProperties2(gpu->physical, &properties);
    gpu->max_allocation = limits.maxMemoryAllocationSize;
    return true;
}

static bool create_objects(struct gpu *gpu, struct sc_error *e)
{
    VkPushConstantRange range = {.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT, .size = 128};
    VkPipelineLayoutCreateInfo layout = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
        .pushConstantRangeCount = 1,
        .pPushConstantRanges = &range,
    };
    VkSemaphoreTypeCreateInfo type = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                      .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE};
    VkSemaphoreCreateInfo semaphore = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = &type};
    return gpu_check(gpu, gpu->vk.vkCreatePipelineLayout(gpu->device, &layout, NULL, &gpu->layout),
                     "create a pipeline layout", e) &&
           gpu_check(gpu, gpu->vk.vkCreateSemaphore(gpu->device, &semaphore, NULL, &gpu->compute.timeline),
                     "create a semaphore", e) &&
           gpu_check(gpu, gpu->vk.vkCreateSemaphore(gpu->device, &semaphore, NULL, &gpu->transfer.timeline),
                     "create a semaphore", e) &&
           gpu_check(gpu, gpu->vk.vkCreateSemaphore(gpu->device, &semaphore, NULL, &gpu->host_timeline),
                     "create a semaphore", e);
}

struct gpu *gpu_create(const char *device, const char *cache_dir, struct sc_error *e)
{
    struct gpu *gpu = calloc(1, sizeof(*gpu));
    if (!gpu) {
        sc_fail_memory(e, "the device");
        return NULL;
    }
    if (!instance_create(&gpu->instance, e) || !choose_device(gpu->instance, device, &gpu->physical, &gpu->info, e) ||
        !open_device(gpu, e) || !create_objects(gpu, e) || !pipeline_cache_load(gpu, cache_dir, e)) {
        gpu_destroy(gpu);
        return NULL;
    }
    /* until more is known: some milliseconds of a slow GPU, some tens of a processor */
    gpu->piece_work = gpu->info.kind == SC_DEVICE_CPU ? 1e8 : 1e9;
    return gpu;
}

void gpu_destroy(struct gpu *gpu)
{
    if (!gpu)
        return;
    if (gpu->device) {
        gpu->vk.vkDeviceWaitIdle(gpu->device);
        pipeline_cache_save(gpu);
        gpu_drop_pipelines(gpu);
        gpu->vk.vkDestroyPipelineCache(gpu->device, gpu->cache, NULL);
        gpu->vk.vkDestroyPipelineLayout(gpu->device, gpu->layout, NULL);
        gpu->vk.vkDestroySemaphore(gpu->device, gpu->compute.timeline, NULL);
        gpu->vk.vkDestroySemaphore(gpu->device, gpu->transfer.timeline, NULL);
        gpu->vk.vkDestroySemaphore(gpu->device, gpu->host_timeline, NULL);
        gpu->vk.vkDestroyDevice(gpu->device, NULL);
    }
    if (gpu->instance)
        vkDestroyInstance(gpu->instance, NULL);
    free(gpu);
}

uint64_t gpu_free_bytes(const struct gpu *gpu)
{
    struct sc_device_info now;
    device_describe(gpu->physical, gpu->info.index, &now);
    return gpu->has_budget ? now.free_bytes : now.memory_bytes; /* 0 free bytes are told, too */
}
