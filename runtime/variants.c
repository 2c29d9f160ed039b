/* SPDX-License-Identifier: Apache-2.0 */
#include "variants.h"

#include "types.h"

static bool everywhere(const struct sc_device_info *d)
{
    (void)d;
    return true;
}

/* Processors: their lanes do best with rows of their own, and the matmul broadcasts among 8 lanes. */
static bool on_processors(const struct sc_device_info *d)
{
    return d->kind == SC_DEVICE_CPU && d->min_subgroup_size >= 8 && d->has_ballot;
}

/* The best first; the last one runs everywhere. Tiles are those of the shaders. */
static const struct variant matvec[] = {
    {.name = "rows", .first = KERNEL_MATVEC_ROWS_F32, .tile_rows = 8, .runs_on = on_processors},
    {.name = "base", .first = KERNEL_MATVEC_F32, .tile_rows = 2, .runs_on = everywhere},
};

static const struct variant matmul[] = {
    {.name = "rows", .first = KERNEL_MATMUL_ROWS_F32, .tile_rows = 64, .tile_columns = 8, .runs_on = on_processors},
    {.name = "base", .first = KERNEL_MATMUL_F32, .tile_rows = 64, .tile_columns = 32, .runs_on = everywhere},
};

static const struct variant *const families[N_FAMILIES] = {[FAMILY_MATVEC] = matvec, [FAMILY_MATMUL] = matmul};

const struct variant *variant_of(const struct gpu *gpu, enum family family)
{
    const struct variant *v = families[family];
    while (!v->runs_on(&gpu->info))
        v++;
    return v;
}

enum kernel kernel_of_type(enum kernel first, enum sc_type type)
{
    size_t n;
    const struct sc_type_info *types = sc_types(&n);
    size_t i = 0;
    while (i + 1 < n && types[i].type != type)
        i++;
    return first + (enum kernel)i;
}
