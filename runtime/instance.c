/* SPDX-License-Identifier: Apache-2.0 */
#include "instance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device_features.h"

bool instance_create(VkInstance *instance, struct sc_error *e)
{
    if (volkInitialize() != VK_SUCCESS)
        return sc_fail(
            e, SC_NO_DEVICE,
            "no Vulkan loader on this machine: install libvulkan1 and your GPU's driver (on Debian and Ubuntu: "
            "mesa-vulkan-drivers, or NVIDIA's own package)");
    VkApplicationInfo app = {
        .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
        .pApplicationName = "scoria",
        .pEngineName = "scoria",
        .apiVersion = VK_API_VERSION_1_3, /* of the newest kernels; 1.2 of a device is enough */
    };
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &app};
    VkResult result = vkCreateInstance(&info, NULL, instance);
    if (result == VK_ERROR_INCOMPATIBLE_DRIVER)
        return sc_fail(
            e, SC_NO_DEVICE,
            "no Vulkan driver on this machine: install your GPU's (on Debian and Ubuntu: mesa-vulkan-drivers, or "
            "NVIDIA's own package)");
    if (result != VK_SUCCESS)
        return sc_fail(e, SC_NO_DEVICE, "Vulkan could not start (error %d)", (int)result);
    volkLoadInstanceOnly(*instance);
    return true;
}

bool instance_devices(VkInstance instance, VkPhysicalDevice **devices, uint32_t *n_devices, struct sc_error *e)
{
    uint32_t n = 0;
    VkResult result = vkEnumeratePhysicalDevices(instance, &n, NULL);
    if (result != VK_SUCCESS || n == 0)
        return sc_fail(e, SC_NO_DEVICE,
                       "Vulkan finds no device on this machine: install your GPU's driver (on Debian and Ubuntu: "
                       "mesa-vulkan-drivers, or NVIDIA's own package)");
    VkPhysicalDevice *list = calloc(n, sizeof(*list));
    if (!list)
        return sc_fail_memory(e, "the list of devices");
    result = vkEnumeratePhysicalDevices(instance, &n, list);
    if ((result != VK_SUCCESS && result != VK_INCOMPLETE) || n == 0) {
        free(list);
        return sc_fail(e, SC_NO_DEVICE, "Vulkan could not list its devices (error %d)", (int)result);
    }
    *devices = list;
    *n_devices = n;
    return true;
}

uint32_t device_queue_family(VkPhysicalDevice physical)
{
    VkQueueFamilyProperties families[32];
    uint32_t n = 32, graphics = UINT32_MAX;
    vkGetPhysicalDeviceQueueFamilyProperties(physical, &n, families);
    for (uint32_t i = 0; i < n; i++) {
        if (!(families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) || families[i].queueCount == 0)
            continue;
        if (!(families[i].queueFlags & VK_QUEUE_GRAPHICS_BIT))
            return i; /* a desktop's display keeps the graphics queue */
        if (graphics == UINT32_MAX)
            graphics = i;
    }
    return graphics;
}

uint32_t device_transfer_family(VkPhysicalDevice physical)
{
    VkQueueFamilyProperties families[32];
    uint32_t n = 32;
    vkGetPhysicalDeviceQueueFamilyProperties(physical, &n, families);
    for (uint32_t i = 0; i < n; i++)
        if ((families[i].queueFlags & VK_QUEUE_TRANSFER_BIT) &&
            !(families[i].queueFlags & (VK_QUEUE_COMPUTE_BIT | VK_QUEUE_GRAPHICS_BIT)) && families[i].queueCount > 0)
            return i;
    return UINT32_MAX;
}

static enum sc_device_kind kind_of(VkPhysicalDeviceType type)
{
    switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return SC_DEVICE_INTEGRATED;
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return SC_DEVICE_DISCRETE;
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: return SC_DEVICE_VIRTUAL;
    case VK_PHYSICAL_DEVICE_TYPE_CPU: return SC_DEVICE_CPU;
    default: return SC_DEVICE_OTHER;
    }
}

/* The first requirement that the device misses, "" if it has them all. */
static const char *missing(VkPhysicalDevice physical, const VkPhysicalDeviceProperties *p,
                           const VkPhysicalDeviceVulkan11Properties *p11, const struct device_features *f)
{
    if (p->apiVersion < VK_API_VERSION_1_2)
        return "its driver offers less than Vulkan 1.2";
    const VkSubgroupFeatureFlags subgroup = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_ARITHMETIC_BIT;
    if (!f->v12.bufferDeviceAddress)
        return "it has no bufferDeviceAddress";
    if (!f->v12.timelineSemaphore)
        return "it has no timeline semaphores";
    if (!(p11->subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) ||
        (p11->subgroupSupportedOperations & subgroup) != subgroup)
        return "its compute shaders have no subgroup arithmetic";
    if (p11->subgroupSize < 4)
        return "its subgroups have fewer than 4 lanes";
    if (p->limits.maxComputeWorkGroupInvocations < 256 || p->limits.maxComputeWorkGroupSize[0] < 256 ||
        p->limits.maxComputeSharedMemorySize < 16384)
        return "its workgroups are smaller than 256 threads or 16 KiB of shared memory";
    if (device_queue_family(physical) == UINT32_MAX)
        return "it has no compute queue";
    return "";
}

void device_describe(VkPhysicalDevice physical, uint32_t index, struct sc_device_info *info)
{
    memset(info, 0, sizeof(*info));
    VkPhysicalDeviceProperties basic;
    vkGetPhysicalDeviceProperties(physical, &basic);
    info->index = index;
    info->kind = kind_of(basic.deviceType);
    info->vendor_id = basic.vendorID;
    info->device_id = basic.deviceID;
    info->api_version = basic.apiVersion;
    info->max_workgroup_size = basic.limits.maxComputeWorkGroupInvocations;
    info->shared_bytes = basic.limits.maxComputeSharedMemorySize;
    snprintf(info->name, sizeof(info->name), "%.*s", (int)sizeof(basic.deviceName), basic.deviceName);
    info->has_transfer_queue = device_transfer_family(physical) != UINT32_MAX;

    struct device_features features = {0};
    if (basic.apiVersion >= VK_API_VERSION_1_2)
        device_features_find(&features, physical);
    const bool has_budget = features.has_budget;

    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    VkPhysicalDeviceMemoryProperties2 memory = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
                                                .pNext = has_budget ? &budget : NULL};
    if (basic.apiVersion >= VK_API_VERSION_1_1)
        vkGetPhysicalDeviceMemoryProperties2(physical, &memory);
    for (uint32_t i = 0; i < memory.memoryProperties.memoryHeapCount; i++) {
        const VkMemoryHeap *heap = &memory.memoryProperties.memoryHeaps[i];
        if (!(heap->flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) || heap->size <= info->memory_bytes)
            continue;
        info->memory_bytes = heap->size;
        info->free_bytes =
            has_budget && budget.heapBudget[i] > budget.heapUsage[i] ? budget.heapBudget[i] - budget.heapUsage[i] : 0;
    }

    VkPhysicalDeviceVulkan12Properties p12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES};
    VkPhysicalDeviceVulkan11Properties p11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES,
                                              .pNext = &p12};
    VkPhysicalDeviceProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &p11};
    if (basic.apiVersion >= VK_API_VERSION_1_2) {
        vkGetPhysicalDeviceProperties2(physical, &p);
        snprintf(info->driver, sizeof(info->driver), "%s %s", p12.driverName, p12.driverInfo);
        info->has_ballot = p11.subgroupSupportedOperations & VK_SUBGROUP_FEATURE_BALLOT_BIT;
        info->subgroup_size = p11.subgroupSize;
        device_features_describe(info, &features, physical);
    }
    snprintf(info->unusable, sizeof(info->unusable), "%s", missing(physical, &basic, &p11, &features));
}

bool sc_devices(struct sc_device_info **devices, size_t *n_devices, struct sc_error *e)
{
    VkInstance instance;
    VkPhysicalDevice *physical = NULL;
    struct sc_device_info *infos = NULL;
    uint32_t n = 0;
    if (!instance_create(&instance, e))
        return false;
    if (!instance_devices(instance, &physical, &n, e))
        goto done;
    infos = calloc(n, sizeof(*infos));
    if (!infos) {
        sc_fail_memory(e, "the list of devices");
        goto done;
    }
    for (uint32_t i = 0; i < n; i++)
        device_describe(physical[i], i, &infos[i]);
    *devices = infos;
    *n_devices = n;
done:
    free(physical);
    vkDestroyInstance(instance, NULL);
    return infos != NULL;
}
