/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu.h"

#include <stdio.h>

/* Specialization constants that kernels may declare. */
struct constants {
    uint32_t lanes_per_row; /* id 0 */
};

uint32_t gpu_lanes_per_row(const struct gpu *gpu)
{
    /* On a CPU a thread is a lane of a vector and every load a gather: the fewer share a row, the fewer sums to merge.
     */
    return gpu->info.kind == SC_DEVICE_CPU ? 2 : 32;
}

bool gpu_prepare_kernel(struct gpu *gpu, enum kernel kernel, struct sc_error *e)
{
    if (gpu->pipelines[kernel])
        return true;
    const struct kernel_info *info = &kernel_infos[kernel];
    char what[96];
    snprintf(what, sizeof(what), "compile the kernel %s", info->name);

    VkShaderModuleCreateInfo module_info = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
        .codeSize = info->spirv_size_bytes,
        .pCode = info->spirv,
    };
    VkShaderModule module;
    if (!gpu_check(gpu, gpu->vk.vkCreateShaderModule(gpu->device, &module_info, NULL, &module), what, e))
        return false;
    const struct constants constants = {.lanes_per_row = gpu_lanes_per_row(gpu)};
    const VkSpecializationMapEntry entries[] = {
        {.constantID = 0, .offset = offsetof(struct constants, lanes_per_row), .size = sizeof(uint32_t)},
    };
    const VkSpecializationInfo specialization = {
        .mapEntryCount = sizeof(entries) / sizeof(entries[0]),
        .pMapEntries = entries,
        .dataSize = sizeof(constants),
        .pData = &constants,
    };
    VkComputePipelineCreateInfo pipeline = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                  .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                  .module = module,
                  .pName = "main",
                  .pSpecializationInfo = &specialization},
        .layout = gpu->layout,
    };
    const bool ok = gpu_check(
        gpu, gpu->vk.vkCreateComputePipelines(gpu->device, gpu->cache, 1, &pipeline, NULL, &gpu->pipelines[kernel]),
        what, e);
    gpu->vk.vkDestroyShaderModule(gpu->device, module, NULL);
    return ok;
}
