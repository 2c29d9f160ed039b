/* SPDX-License-Identifier: Apache-2.0 */
#include "ram.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The number that stands behind `key` in a file of such lines ("" is before the first); 0 if it is not there. */
static uint64_t number_in(const char *folder, const char *file, const char *key)
{
    char path[4300], line[256];
    uint64_t value = 0;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), " %" SCNu64, &value) == 1)
            break;
    if (f)
        fclose(f);
    return value;
}

/* What the limit of one cgroup leaves: its folder, and how its version calls things. */
static uint64_t left_of(const char *folder, const char *limit_file, const char *usage_file, const char *prefix)
{
    const uint64_t limit = number_in(folder, limit_file, ""), usage = number_in(folder, usage_file, "");
    char active[32], inactive[32];
    if (limit == 0) /* "max" is no number */
        return UINT64_MAX;
    snprintf(active, sizeof active, "%sactive_file", prefix);
    snprintf(inactive, sizeof inactive, "%sinactive_file", prefix);
    const uint64_t files = number_in(folder, "memory.stat", active) + number_in(folder, "memory.stat", inactive);
    const uint64_t taken = usage > files ? usage - files : 0;
    return limit > taken ? limit - taken : 0;
}

/* The least that the limits of our cgroup and of all above it leave. */
static uint64_t left_of_cgroups(void)
{
    char line[4096], folder[4200];
    uint64_t least = UINT64_MAX;
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f)) {
        const bool v2 = strncmp(line, "0::/", 4) == 0;
        char *path = v2 ? line + 3 : strstr(line, ":memory:/");
        if (!path)
            continue;
        path += v2 ? 0 : strlen(":memory:");
        path[strcspn(path, "\n")] = 0;
        for (char *end = path + strlen(path); end >= path; end--) {
            if (*end != 0 && *end != '/')
                continue;
            *end = 0;
            snprintf(folder, sizeof folder, "/sys/fs/cgroup%s%s", v2 ? "" : "/memory", path);
            const uint64_t left = v2 ? left_of(folder, "memory.max", "memory.current", "")
                                     : left_of(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_");
            if (left < least)
                least = left;
        }
    }
    if (f)
        fclose(f);
    return least;
}

uint64_t ram_available(void)
{
    const uint64_t free_bytes = number_in("/proc", "meminfo", "MemAvailable:") * 1024;
    const uint64_t left = left_of_cgroups();
    return free_bytes && free_bytes < left ? free_bytes : left;
}
