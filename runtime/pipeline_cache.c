/* SPDX-License-Identifier: Apache-2.0 */
#include "pipeline_cache.h"

#include <stdio.h>
#include <stdlib.h>

#include "cache_file.h"

static const char MAGIC[] = "SCPIPE01";
enum { MAX_CACHE_BYTES = 256 << 20 };

static void set_path(struct gpu *gpu, const char *cache_dir)
{
    VkPhysicalDeviceProperties p;
    vkGetPhysicalDeviceProperties(gpu->physical, &p);
    char uuid[2 * VK_UUID_SIZE + 1], name[100];
    for (uint32_t i = 0; i < VK_UUID_SIZE; i++)
        snprintf(uuid + 2 * i, 3, "%02x", p.pipelineCacheUUID[i]);
    snprintf(name, sizeof(name), "pipelines-%04x-%04x-%s.bin", p.vendorID, p.deviceID, uuid);
    cache_file_path(gpu->cache_path, cache_dir, name);
}

bool pipeline_cache_load(struct gpu *gpu, const char *cache_dir, struct sc_error *e)
{
    set_path(gpu, cache_dir);
    size_t size_bytes = 0;
    uint8_t *bytes = cache_file_read(gpu->cache_path, MAGIC, MAX_CACHE_BYTES, &size_bytes);
    VkPipelineCacheCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO,
        .initialDataSize = bytes ? size_bytes : 0,
        .pInitialData = bytes,
    };
    VkResult result = gpu->vk.vkCreatePipelineCache(gpu->device, &info, NULL, &gpu->cache);
    if (result != VK_SUCCESS && bytes) {
        info.initialDataSize = 0;
        result = gpu->vk.vkCreatePipelineCache(gpu->device, &info, NULL, &gpu->cache);
    }
    free(bytes);
    gpu->cache_loaded_bytes = info.initialDataSize;
    return gpu_check(gpu, result, "create a pipeline cache", e);
}

void pipeline_cache_save(struct gpu *gpu)
{
    size_t size_bytes = 0;
    if (!gpu->cache || !gpu->cache_path[0] ||
        gpu->vk.vkGetPipelineCacheData(gpu->device, gpu->cache, &size_bytes, NULL) != VK_SUCCESS ||
        size_bytes <= gpu->cache_loaded_bytes || size_bytes > MAX_CACHE_BYTES)
        return;
    uint8_t *bytes = malloc(size_bytes);
    /* not being able to write is no error: the next start compiles again */
    if (bytes && gpu->vk.vkGetPipelineCacheData(gpu->device, gpu->cache, &size_bytes, bytes) == VK_SUCCESS)
        (void)cache_file_write(gpu->cache_path, MAGIC, bytes, size_bytes);
    free(bytes);
}
