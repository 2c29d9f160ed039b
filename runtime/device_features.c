/* SPDX-License-Identifier: Apache-2.0 */
#include "device_features.h"

#include <stdlib.h>
#include <string.h>

#include "args.h"

enum { MAX_EXTENSIONS = 512, MAX_MATRICES = 256 };

struct extensions {
    VkExtensionProperties *list; /* NULL: could not be asked for, which counts as none */
    uint32_t n;
};

/* Whether the device has the extension; then it is one of those to be enabled. */
static bool take(struct device_features *f, const struct extensions *all, const char *name)
{
    for (uint32_t i = 0; i < all->n; i++)
        if (strcmp(all->list[i].extensionName, name) == 0) {
            f->extensions[f->n_extensions++] = name;
            return true;
        }
    return false;
}

static void ask(struct device_features *f, VkPhysicalDevice physical, const struct extensions *all)
{
    void **next = &f->core.pNext;
    f->core.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    f->v11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES;
    f->v12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
    f->integer_dot.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES_KHR;
    f->size_control.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT;
    f->matrix.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
    *next = &f->v11;
    f->v11.pNext = &f->v12;
    next = &f->v12.pNext;
    if (take(f, all, VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME)) {
        *next = &f->integer_dot;
        next = &f->integer_dot.pNext;
    }
    if (take(f, all, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME)) {
        *next = &f->size_control;
        next = &f->size_control.pNext;
    }
    if (take(f, all, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME)) {
        *next = &f->matrix;
        next = &f->matrix.pNext;
    }
#ifdef VK_NV_cooperative_matrix2
    f->matrix_2.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_2_FEATURES_NV;
    if (take(f, all, VK_NV_COOPERATIVE_MATRIX_2_EXTENSION_NAME))
        *next = &f->matrix_2;
#endif
    vkGetPhysicalDeviceFeatures2(physical, &f->core);
}

/* Only what kernels use is enabled: the rest may cost something, as robust access does. */
static void narrow(struct device_features *f)
{
    const VkPhysicalDeviceFeatures none = {0};
    f->core.features = none;
    f->v11 = (VkPhysicalDeviceVulkan11Features){
        .sType = f->v11.sType, .pNext = f->v11.pNext, .storageBuffer16BitAccess = f->v11.storageBuffer16BitAccess};
    f->v12 = (VkPhysicalDeviceVulkan12Features){
        .sType = f->v12.sType,
        .pNext = f->v12.pNext,
        .bufferDeviceAddress = f->v12.bufferDeviceAddress,
        .timelineSemaphore = f->v12.timelineSemaphore,
        .storageBuffer8BitAccess = f->v12.storageBuffer8BitAccess,
        .shaderFloat16 = f->v12.shaderFloat16,
        .shaderInt8 = f->v12.shaderInt8,
        .vulkanMemoryModel = f->v12.vulkanMemoryModel,
        .vulkanMemoryModelDeviceScope = f->v12.vulkanMemoryModelDeviceScope,
    };
    f->matrix.cooperativeMatrixRobustBufferAccess = VK_FALSE;
#ifdef VK_NV_cooperative_matrix2
    f->matrix_2 = (VkPhysicalDeviceCooperativeMatrix2FeaturesNV){
        .sType = f->matrix_2.sType,
        .pNext = f->matrix_2.pNext,
        .cooperativeMatrixWorkgroupScope = f->matrix_2.cooperativeMatrixWorkgroupScope,
        .cooperativeMatrixFlexibleDimensions = f->matrix_2.cooperativeMatrixFlexibleDimensions,
        .cooperativeMatrixPerElementOperations = f->matrix_2.cooperativeMatrixPerElementOperations,
    };
#endif
}

void device_features_find(struct device_features *f, VkPhysicalDevice physical)
{
    *f = (struct device_features){0};
    struct extensions all = {.list = calloc(MAX_EXTENSIONS, sizeof(*all.list)), .n = MAX_EXTENSIONS};
    if (!all.list || vkEnumerateDeviceExtensionProperties(physical, NULL, &all.n, all.list) < 0)
        all.n = 0;
    ask(f, physical, &all);
    narrow(f);
    f->has_budget = take(f, &all, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
    f->has_host_memory = take(f, &all, VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME);
    free(all.list);
}

/* The shapes of matrices of halves with fp32 sums, for a subgroup. */
static uint32_t matrix_shapes(VkPhysicalDevice physical)
{
    static const struct {
        uint32_t m, n, k;
        enum sc_matrix_shape shape;
    } known[] = {{16, 16, 16, SC_MATRIX_16X16X16}, {8, 16, 16, SC_MATRIX_8X16X16}, {8, 8, 8, SC_MATRIX_8X8X8}};
    const PFN_vkVoidFunction function =
        vkGetInstanceProcAddr(volkGetLoadedInstance(), "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
    const PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR list =
        (PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)function;
    VkCooperativeMatrixPropertiesKHR matrices[MAX_MATRICES];
    uint32_t n = MAX_MATRICES, shapes = 0;
    for (uint32_t i = 0; i < MAX_MATRICES; i++)
        matrices[i] = (VkCooperativeMatrixPropertiesKHR){.sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR};
    if (!list || list(physical, &n, matrices) < 0)
        return 0;
    for (uint32_t i = 0; i < n && i < MAX_MATRICES; i++) {
        const VkCooperativeMatrixPropertiesKHR *m = &matrices[i];
        if (m->AType != VK_COMPONENT_TYPE_FLOAT16_KHR || m->BType != VK_COMPONENT_TYPE_FLOAT16_KHR ||
            m->CType != VK_COMPONENT_TYPE_FLOAT32_KHR || m->ResultType != VK_COMPONENT_TYPE_FLOAT32_KHR ||
            m->scope != VK_SCOPE_SUBGROUP_KHR)
            continue;
        for (uint32_t k = 0; k < sizeof(known) / sizeof(known[0]); k++)
            if (m->MSize == known[k].m && m->NSize == known[k].n && m->KSize == known[k].k)
                shapes |= known[k].shape;
    }
    return shapes;
}

/* Whether matmul_cm2 can run. */
static bool has_matrix_2(const struct sc_device_info *info, const struct device_features *f, VkPhysicalDevice physical)
{
#ifdef VK_NV_cooperative_matrix2
    const uint32_t shared_bytes =
        (MATRIX_2_ROWS + MATRIX_2_MAX_COLUMNS) * MATRIX_2_STRIDE * 2 + MATRIX_2_MAX_COLUMNS * sizeof(uint32_t);
    VkPhysicalDeviceCooperativeMatrix2PropertiesNV limits = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_2_PROPERTIES_NV};
    VkPhysicalDeviceProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &limits};
    const PFN_vkVoidFunction function = vkGetInstanceProcAddr(
        volkGetLoadedInstance(), "vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV");
    const PFN_vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV list =
        (PFN_vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV)function;
    VkCooperativeMatrixFlexibleDimensionsPropertiesNV sizes[MAX_MATRICES];
    uint32_t n = MAX_MATRICES;
    for (uint32_t i = 0; i < MAX_MATRICES; i++)
        sizes[i] = (VkCooperativeMatrixFlexibleDimensionsPropertiesNV){
            .sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_FLEXIBLE_DIMENSIONS_PROPERTIES_NV};
    if (!f->matrix_2.cooperativeMatrixWorkgroupScope || !f->matrix_2.cooperativeMatrixFlexibleDimensions ||
        !f->matrix_2.cooperativeMatrixPerElementOperations || info->api_version < VK_API_VERSION_1_3 || !list ||
        list(physical, &n, sizes) < 0)
        return false;
    vkGetPhysicalDeviceProperties2(physical, &p);
    if (limits.cooperativeMatrixWorkgroupScopeMaxWorkgroupSize < MATRIX_2_THREADS ||
        limits.cooperativeMatrixFlexibleDimensionsMaxDimension < MATRIX_2_ROWS ||
        (uint64_t)limits.cooperativeMatrixWorkgroupScopeReservedSharedMemory + shared_bytes > info->shared_bytes)
        return false;
    for (uint32_t i = 0; i < n && i < MAX_MATRICES; i++) {
        const VkCooperativeMatrixFlexibleDimensionsPropertiesNV *m = &sizes[i];
        if (m->AType == VK_COMPONENT_TYPE_FLOAT16_KHR && m->BType == VK_COMPONENT_TYPE_FLOAT16_KHR &&
            m->CType == VK_COMPONENT_TYPE_FLOAT32_KHR && m->ResultType == VK_COMPONENT_TYPE_FLOAT32_KHR &&
            m->scope == VK_SCOPE_WORKGROUP_KHR && m->workgroupInvocations == MATRIX_2_THREADS && m->MGranularity &&
            m->NGranularity && m->KGranularity && MATRIX_2_ROWS % m->MGranularity == 0 &&
            MATRIX_2_COLUMNS % m->NGranularity == 0 && MATRIX_2_STEP % m->KGranularity == 0)
            return true;
    }
#else
    (void)info, (void)f, (void)physical;
#endif
    return false;
}

/* Whether the product of 4 packed signed bytes is an instruction, not made of others by the driver. */
static bool dot_is_fast(VkPhysicalDevice physical)
{
    VkPhysicalDeviceShaderIntegerDotProductPropertiesKHR dot = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_PROPERTIES_KHR};
    VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &dot};
    vkGetPhysicalDeviceProperties2(physical, &properties);
    return dot.integerDotProduct4x8BitPackedSignedAccelerated;
}

void device_features_describe(struct sc_device_info *info, const struct device_features *f, VkPhysicalDevice physical)
{
    VkPhysicalDeviceCooperativeMatrixPropertiesKHR matrix = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_PROPERTIES_KHR};
    VkPhysicalDeviceSubgroupSizeControlPropertiesEXT size = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES_EXT,
        .pNext = f->matrix.cooperativeMatrix ? &matrix : NULL};
    VkPhysicalDeviceProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
                                     .pNext = f->size_control.subgroupSizeControl ? &size : size.pNext};
    vkGetPhysicalDeviceProperties2(physical, &p);
    info->has_fp16 = f->v12.shaderFloat16 && f->v11.storageBuffer16BitAccess;
    info->has_int8 = f->v12.shaderInt8 && f->v12.storageBuffer8BitAccess;
    info->has_integer_dot = f->integer_dot.shaderIntegerDotProduct;
    info->has_fast_integer_dot = info->has_integer_dot && dot_is_fast(physical);
    info->min_subgroup_size = info->max_subgroup_size = info->subgroup_size;
    if (f->size_control.subgroupSizeControl) {
        info->min_subgroup_size = size.minSubgroupSize;
        info->max_subgroup_size = size.maxSubgroupSize;
    }
    info->has_subgroup_size_control = f->size_control.subgroupSizeControl && f->size_control.computeFullSubgroups &&
                                      size.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT;
    info->max_workgroup_subgroups = info->has_subgroup_size_control ? size.maxComputeWorkgroupSubgroups : 0;
    /* glslang's cooperative matrices are of the Vulkan memory model */
    if (f->v12.vulkanMemoryModel && matrix.cooperativeMatrixSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) {
        info->matrix_shapes = matrix_shapes(physical);
        info->has_matrix_2 = has_matrix_2(info, f, physical);
    }
}
