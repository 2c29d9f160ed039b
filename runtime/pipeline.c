/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu.h"

/*
 * A device whose driver refuses a kernel is not lost: another kernel may do. Mesa's Intel driver calls it a lack of the
 * host's memory when its compiler gives up.
 */
static bool check(const struct gpu *gpu, VkResult result, const char *what, struct sc_error *e)
{
    switch (result) {
    case VK_SUCCESS:
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
    case VK_ERROR_DEVICE_LOST: return gpu_check(gpu, result, what, e);
    default:
        return sc_fail(e, SC_UNSUPPORTED, "%s: the driver could not %s (error %d)", gpu->info.name, what, (int)result);
    }
}

static VkPipeline compile(struct gpu *gpu, const struct program *program, struct sc_error *e)
{
    const struct kernel_info *info = &kernel_infos[program->kernel];
    char what[96];
    snprintf(what, sizeof(what), "compile the kernel %s", info->name);

    VkShaderModuleCreateInfo module_info = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
        .codeSize = info->spirv_size_bytes,
        .pCode = info->spirv,
    };
    VkShaderModule module;
    if (!check(gpu, gpu->vk.vkCreateShaderModule(gpu->device, &module_info, NULL, &module), what, e))
        return VK_NULL_HANDLE;
    VkSpecializationMapEntry entries[N_CONSTANTS];
    uint32_t n_entries = 0;
    for (uint32_t i = 0; i < N_CONSTANTS; i++)
        if (program->constants[i])
            entries[n_entries++] = (VkSpecializationMapEntry){i, i * (uint32_t)sizeof(uint32_t), sizeof(uint32_t)};
    const VkSpecializationInfo specialization = {
        .mapEntryCount = n_entries,
        .pMapEntries = entries,
        .dataSize = sizeof(program->constants),
        .pData = program->constants,
    };
    const VkPipelineShaderStageRequiredSubgroupSizeCreateInfoEXT subgroup = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO_EXT,
        .requiredSubgroupSize = program->subgroup_size,
    };
    VkComputePipelineCreateInfo create = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                  .pNext = program->subgroup_size ? &subgroup : NULL,
                  .flags = program->subgroup_size ? VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT_EXT : 0,
                  .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                  .module = module,
                  .pName = "main",
                  .pSpecializationInfo = &specialization},
        .layout = gpu->layout,
    };
    VkPipeline handle = VK_NULL_HANDLE;
    VkResult result = gpu->vk.vkCreateComputePipelines(gpu->device, gpu->cache, 1, &create, NULL, &handle);
    gpu->vk.vkDestroyShaderModule(gpu->device, module, NULL);
    if (result == VK_SUCCESS && !handle)
        result = VK_ERROR_UNKNOWN; /* Intel's driver for Windows */
    return check(gpu, result, what, e) ? handle : VK_NULL_HANDLE;
}

VkPipeline gpu_pipeline(struct gpu *gpu, const struct program *program, struct sc_error *e)
{
    struct pipeline *p = gpu->pipelines[program->kernel];
    while (p && memcmp(&p->program, program, sizeof(*program)) != 0)
        p = p->next;
    if (p)
        return p->handle;
    p = calloc(1, sizeof(*p));
    if (!p) {
        sc_fail_memory(e, "a compiled kernel");
        return VK_NULL_HANDLE;
    }
    p->handle = compile(gpu, program, e);
    if (!p->handle) {
        free(p);
        return VK_NULL_HANDLE;
    }
    p->program = *program;
    p->next = gpu->pipelines[program->kernel];
    gpu->pipelines[program->kernel] = p;
    return p->handle;
}

void gpu_drop_pipelines(struct gpu *gpu)
{
    for (uint32_t i = 0; i < N_KERNELS; i++)
        for (struct pipeline *p = gpu->pipelines[i], *next; p; p = next) {
            next = p->next;
            gpu->vk.vkDestroyPipeline(gpu->device, p->handle, NULL);
            free(p);
        }
    memset(gpu->pipelines, 0, sizeof(gpu->pipelines));
}
