/* SPDX-License-Identifier: Apache-2.0 */
/* The Vulkan instance and what its devices can do. */
#ifndef SCORIA_INSTANCE_H
#define SCORIA_INSTANCE_H

#include <volk.h>

#include "scoria.h"

/* Loads Vulkan and makes an instance; the caller destroys it with vkDestroyInstance. */
bool instance_create(VkInstance *instance, struct sc_error *e) SC_CHECK;

/* Sets *devices to the instance's devices, freed by the caller with free(); at least one. */
bool instance_devices(VkInstance instance, VkPhysicalDevice **devices, uint32_t *n_devices,
                      struct sc_error *e) SC_CHECK;

/* Fills *info; info->unusable says what the device lacks of the feature floor (DESIGN: decision 1). */
void device_describe(VkPhysicalDevice physical, uint32_t index, struct sc_device_info *info);

/* The device's compute queue family; UINT32_MAX if it has none. */
uint32_t device_queue_family(VkPhysicalDevice physical);

/* A family of queues that only copy, beside the others; UINT32_MAX if there is none. */
uint32_t device_transfer_family(VkPhysicalDevice physical);

#endif
