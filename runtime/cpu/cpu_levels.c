/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <string.h>

#include "cpu_kernels.h"
#include "types.h"

float cpu_half_floats[1 << 16];

static void fill_half_floats(void)
{
    for (uint32_t h = 0; h < 1 << 16; h++)
        cpu_half_floats[h] = sc_half_to_float((uint16_t)h);
}

static bool always(void)
{
    return true;
}

/* __builtin_cpu_supports also asks whether the operating system saves the registers. */
#if defined(__x86_64__)
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool has_avx512_vnni(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("bmi2");
}
#endif

/* best first */
static const struct {
    const struct cpu_kernels *kernels;
    bool (*is_supported)(void);
} levels[] = {
#if defined(__x86_64__)
    {&cpu_kernels_avx512_vnni, has_avx512_vnni},
    {&cpu_kernels_avx512, has_avx512},
    {&cpu_kernels_avx2, has_avx2},
#endif
    {&cpu_kernels_portable, always},
};

const struct cpu_kernels *cpu_kernels_find(const char *name, struct sc_error *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_half_floats);
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        bool supported = levels[i].is_supported();
        if (!name && supported)
            return levels[i].kernels;
        if (name && strcmp(name, levels[i].kernels->name) == 0) {
            if (supported)
                return levels[i].kernels;
            sc_fail(e, SC_UNSUPPORTED, "this processor cannot run the CPU kernels of level %s", name);
            return NULL;
        }
    }
    sc_fail(e, SC_INVALID_ARGUMENT, "there are no CPU kernels of level %s", name);
    return NULL;
}

uint32_t cpu_kernels_depth(const struct cpu_kernels *k, uint32_t n)
{
    /* dot: a chain a lane or two; multiply: a chain a lane, summed for each tile */
    uint32_t one = n / k->lanes;
    uint32_t tile_cols = n < CPU_TILE_COLS ? n : CPU_TILE_COLS;
    uint32_t many = tile_cols / k->lanes + n / CPU_TILE_COLS + 1;
    return (one > many ? one : many) + 6; /* the lanes' sums: at most 4 and 2 */
}

uint32_t cpu_fixed_depth(const struct cpu_kernels *k, uint32_t n)
{
    /* in a block: the offset, its sum, two sums, a conversion; then a chain of blocks, the lanes' sums, and the rest */
    return 5 + n / 256 + 4 + cpu_kernels_depth(k, n % 256);
}
