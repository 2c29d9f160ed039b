/* SPDX-License-Identifier: Apache-2.0 */
#include "cache_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Ahead of the content: drivers trust what they are given, so a damaged file must not reach them. */
struct header {
    char magic[8];
    uint64_t size_bytes;
    uint64_t hash;
};

uint64_t cache_hash(uint64_t hash, const void *bytes, size_t size_bytes)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < size_bytes; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

void cache_file_path(char path[CACHE_PATH_BYTES], const char *cache_dir, const char *name)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = 0;
    if (cache_dir && cache_dir[0])
        n = snprintf(path, CACHE_PATH_BYTES, "%s/%s", cache_dir, name);
    else if (!cache_dir && xdg && xdg[0] == '/')
        n = snprintf(path, CACHE_PATH_BYTES, "%s/scoria/%s", xdg, name);
    else if (!cache_dir && home && home[0] == '/')
        n = snprintf(path, CACHE_PATH_BYTES, "%s/.cache/scoria/%s", home, name);
    if (n <= 0 || n >= CACHE_PATH_BYTES)
        path[0] = 0;
}

uint8_t *cache_file_read(const char *path, const char *magic, size_t max_bytes, size_t *size_bytes)
{
    FILE *f = path[0] ? fopen(path, "rb") : NULL;
    if (!f)
        return NULL;
    struct header h;
    uint8_t *bytes = NULL;
    if (fread(&h, sizeof(h), 1, f) == 1 && memcmp(h.magic, magic, sizeof(h.magic)) == 0 && h.size_bytes > 0 &&
        h.size_bytes <= max_bytes && (bytes = malloc((size_t)h.size_bytes)) != NULL) {
        *size_bytes = (size_t)h.size_bytes;
        if (fread(bytes, 1, *size_bytes, f) != *size_bytes ||
            cache_hash(CACHE_HASH_START, bytes, *size_bytes) != h.hash) {
            free(bytes);
            bytes = NULL;
        }
    }
    fclose(f);
    return bytes;
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

bool cache_file_write(const char *path, const char *magic, const void *bytes, size_t size_bytes)
{
    struct header h = {.size_bytes = size_bytes, .hash = cache_hash(CACHE_HASH_START, bytes, size_bytes)};
    char temporary[CACHE_PATH_BYTES + 24];
    if (!path[0])
        return false;
    memcpy(h.magic, magic, sizeof(h.magic));
    snprintf(temporary, sizeof(temporary), "%s.%ld", path, (long)getpid());
    make_folders(temporary);
    FILE *f = fopen(temporary, "wb");
    if (!f)
        return false;
    const bool written = fwrite(&h, sizeof(h), 1, f) == 1 && fwrite(bytes, 1, size_bytes, f) == size_bytes &&
                         fflush(f) == 0 && fsync(fileno(f)) == 0;
    if (fclose(f) == 0 && written && rename(temporary, path) == 0)
        return true;
    remove(temporary);
    return false;
}
