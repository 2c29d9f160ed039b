/* SPDX-License-Identifier: Apache-2.0 */
#include "pipeline_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Ahead of the driver's bytes: drivers trust what they are given, so a damaged file must not reach them. */
struct header {
    char magic[8];
    uint64_t size_bytes;
    uint64_t hash;
};

static const char MAGIC[8] = {'S', 'C', 'P', 'I', 'P', 'E', '0', '1'};
enum { MAX_CACHE_BYTES = 256 << 20 };

/* FNV-1a, 64 bit */
static uint64_t hash_of(const uint8_t *bytes, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ bytes[i]) * 0x100000001b3u;
    return h;
}

/* Makes every folder of `path` up to its last slash. */
static void make_folders(char *path)
{
    for (char *p = path + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(path, 0700);
            *p = '/';
        }
}

static void set_path(struct gpu *gpu, const char *cache_dir)
{
    char dir[3800];
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n;
    if (cache_dir)
        n = snprintf(dir, sizeof(dir), "%s", cache_dir);
    else if (xdg && xdg[0] == '/')
        n = snprintf(dir, sizeof(dir), "%s/scoria", xdg);
    else if (home && home[0] == '/')
        n = snprintf(dir, sizeof(dir), "%s/.cache/scoria", home);
    else
        n = 0;
    gpu->cache_path[0] = 0;
    if (n <= 0 || (size_t)n >= sizeof(dir))
        return;
    VkPhysicalDeviceProperties p;
    vkGetPhysicalDeviceProperties(gpu->physical, &p);
    char uuid[2 * VK_UUID_SIZE + 1];
    for (uint32_t i = 0; i < VK_UUID_SIZE; i++)
        snprintf(uuid + 2 * i, 3, "%02x", p.pipelineCacheUUID[i]);
    snprintf(gpu->cache_path, sizeof(gpu->cache_path), "%s/pipelines-%04x-%04x-%s.bin", dir, p.vendorID, p.deviceID,
             uuid);
}

/* The driver's bytes out of the file, NULL if there are none to trust. The caller frees. */
static uint8_t *read_file(const char *path, size_t *size_bytes)
{
    FILE *f = path[0] ? fopen(path, "rb") : NULL;
    if (!f)
        return NULL;
    struct header h;
    uint8_t *bytes = NULL;
    if (fread(&h, sizeof(h), 1, f) == 1 && memcmp(h.magic, MAGIC, sizeof(MAGIC)) == 0 && h.size_bytes > 0 &&
        h.size_bytes <= MAX_CACHE_BYTES && (bytes = malloc((size_t)h.size_bytes)) != NULL) {
        *size_bytes = (size_t)h.size_bytes;
        if (fread(bytes, 1, *size_bytes, f) != *size_bytes || hash_of(bytes, *size_bytes) != h.hash) {
            free(bytes);
            bytes = NULL;
        }
    }
    fclose(f);
    return bytes;
}

bool pipeline_cache_load(struct gpu *gpu, const char *cache_dir, struct sc_error *e)
{
    set_path(gpu, cache_dir);
    size_t size_bytes = 0;
    uint8_t *bytes = read_file(gpu->cache_path, &size_bytes);
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
    if (bytes && gpu->vk.vkGetPipelineCacheData(gpu->device, gpu->cache, &size_bytes, bytes) == VK_SUCCESS) {
        struct header h = {.size_bytes = size_bytes, .hash = hash_of(bytes, size_bytes)};
        memcpy(h.magic, MAGIC, sizeof(MAGIC));
        char temporary[sizeof(gpu->cache_path) + 24];
        snprintf(temporary, sizeof(temporary), "%s.%ld", gpu->cache_path, (long)getpid());
        make_folders(temporary);
        FILE *f = fopen(temporary, "wb");
        if (f) {
            const bool written = fwrite(&h, sizeof(h), 1, f) == 1 && fwrite(bytes, 1, size_bytes, f) == size_bytes;
            if (fclose(f) != 0 || !written || rename(temporary, gpu->cache_path) != 0)
                remove(temporary);
        }
    }
    free(bytes);
}
