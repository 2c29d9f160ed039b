/* SPDX-License-Identifier: Apache-2.0 */
/* What a device has beyond the feature floor and kernels can make use of: asked for once, and enabled as it was found.
 */
#ifndef SCORIA_DEVICE_FEATURES_H
#define SCORIA_DEVICE_FEATURES_H

#include <volk.h>

#include "scoria.h"

/* VK_KHR_cooperative_matrix, which the headers of Debian 12 do not have. */
#ifndef VK_KHR_cooperative_matrix
#define VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME "VK_KHR_cooperative_matrix"
#define VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR ((VkStructureType)1000506000)
#define VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR ((VkStructureType)1000506001)
#define VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_PROPERTIES_KHR ((VkStructureType)1000506002)
#define VK_COMPONENT_TYPE_FLOAT16_KHR 0
#define VK_COMPONENT_TYPE_FLOAT32_KHR 1
#define VK_SCOPE_SUBGROUP_KHR 3

typedef struct VkPhysicalDeviceCooperativeMatrixFeaturesKHR {
    VkStructureType sType;
    void *pNext;
    VkBool32 cooperativeMatrix, cooperativeMatrixRobustBufferAccess;
} VkPhysicalDeviceCooperativeMatrixFeaturesKHR;

typedef struct VkPhysicalDeviceCooperativeMatrixPropertiesKHR {
    VkStructureType sType;
    void *pNext;
    VkShaderStageFlags cooperativeMatrixSupportedStages;
} VkPhysicalDeviceCooperativeMatrixPropertiesKHR;

typedef struct VkCooperativeMatrixPropertiesKHR {
    VkStructureType sType;
    void *pNext;
    uint32_t MSize, NSize, KSize, AType, BType, CType, ResultType;
    VkBool32 saturatingAccumulation;
    uint32_t scope;
} VkCooperativeMatrixPropertiesKHR;

typedef VkResult(VKAPI_PTR *PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)(VkPhysicalDevice, uint32_t *,
                                                                                   VkCooperativeMatrixPropertiesKHR *);
#endif

struct device_features {
    VkPhysicalDeviceFeatures2 core; /* the first of a chain of those below that the device knows */
    VkPhysicalDeviceVulkan11Features v11;
    VkPhysicalDeviceVulkan12Features v12;
    VkPhysicalDeviceShaderIntegerDotProductFeaturesKHR integer_dot;
    VkPhysicalDeviceSubgroupSizeControlFeaturesEXT size_control;
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix;
#ifdef VK_NV_cooperative_matrix2 /* kernels that need it are left out by a program built with older headers */
    VkPhysicalDeviceCooperativeMatrix2FeaturesNV matrix_2;
#endif
    const char *extensions[8]; /* to be enabled */
    uint32_t n_extensions;
    bool has_budget, has_host_memory; /* VK_EXT_memory_budget, VK_EXT_external_memory_host */
};

/* Fills *f, which stays where it is: its chain points into it. The device has Vulkan 1.2. */
void device_features_find(struct device_features *f, VkPhysicalDevice physical);

/* What of this users are told and variants ask for; info->subgroup_size and shared_bytes are known. */
void device_features_describe(struct sc_device_info *info, const struct device_features *f, VkPhysicalDevice physical);

#endif
