/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* sched_getaffinity */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu_pool.h"

/* What a file "QUOTA PERIOD" of a cgroup allows, rounded up; 0: no limit, or no such file. */
static uint32_t quota_of(const char *path)
{
    unsigned long quota, period;
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    bool limited = fscanf(f, "%lu %lu", &quota, &period) == 2 && period > 0; /* "max" is no number */
    fclose(f);
    return limited ? (uint32_t)((quota + period - 1) / period) : 0;
}

/* The least quota of our cgroup (version 2) and of all above it; 0: none. */
static uint32_t cgroup_quota(void)
{
    char line[4096], path[4200];
    uint32_t least = 0;
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4) != 0)
            continue;
        line[strcspn(line, "\n")] = 0;
        for (char *end = line + strlen(line); end >= line + 3; end--) {
            if (*end != 0 && *end != '/')
                continue;
            *end = 0;
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", line + 3);
            uint32_t quota = quota_of(path);
            if (quota && (!least || quota < least))
                least = quota;
        }
    }
    if (f)
        fclose(f);
    return least;
}

uint32_t cpu_count(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
#endif
    uint32_t count = n > 0 ? (uint32_t)n : 1, quota = cgroup_quota();
    return quota && quota < count ? quota : count;
}
