/* SPDX-License-Identifier: Apache-2.0 */
#include "variants.h"

#include <string.h>

#include "gpu.h"

/* Its place among sc_types, which the kernels' `type` counts. */
static int type_index(enum sc_type type)
{
    size_t n;
    const struct sc_type_info *types = sc_types(&n);
    size_t i = 0;
    while (i + 1 < n && types[i].type != type)
        i++;
    return (int)i;
}

/* Of a line of the kernel table, the kernel for this type; N_KERNELS: the line has none. */
static enum kernel find_kernel(enum kernel first, enum sc_type type)
{
    const int index = type_index(type);
    enum kernel k = first;
    if (kernel_infos[k].type < 0)
        return k;
    while (k + 1 < N_KERNELS && kernel_infos[k].type < index && kernel_infos[k + 1].type > kernel_infos[k].type)
        k++;
    return kernel_infos[k].type == index ? k : N_KERNELS;
}

enum kernel kernel_of_type(enum kernel first, enum sc_type type)
{
    const enum kernel k = find_kernel(first, type);
    return k < N_KERNELS ? k : first;
}

bool variant_has_type(const struct variant *v, enum sc_type type)
{
    return find_kernel(v->kernel, type) < N_KERNELS;
}

struct program variant_program(const struct variant *v, enum sc_type type)
{
    struct program program = {.kernel = kernel_of_type(v->kernel, type), .subgroup_size = v->subgroup_size};
    memcpy(program.constants, v->constants, sizeof(program.constants));
    return program;
}

bool variant_is_usable(const struct gpu *gpu, enum family family, uint32_t variant, enum sc_type type)
{
    uint32_t n;
    const struct variant *v = &family_variants(family, &n)[variant];
    const struct choices *choices = &gpu->choices;
    return variant < n && variant_has_type(v, type) && !variant_lacks(v, &gpu->info) &&
           !(choices->findings.failed[family][variant] >> type & 1) &&
           (v->rounding == ROUNDS_NOTHING || choices->may_round);
}

enum family family_timed(enum family family)
{
    if (family == FAMILY_MATMUL_EXACT)
        return FAMILY_MATMUL_FEW;
    return family >= FAMILY_QKV && family <= FAMILY_ROUTER ? FAMILY_MATVEC : family;
}

const struct variant *variant_of(const struct gpu *gpu, enum family family, enum sc_type type, uint32_t rows,
                                 uint32_t cols)
{
    uint32_t n, i = 0;
    const struct variant *variants = family_variants(family, &n);
    if (gpu->choices.forced[family])
        return &variants[gpu->choices.forced[family] - 1];
    const struct findings *f = &gpu->choices.findings;
    for (uint32_t k = 0; k < f->n_tuned && !gpu->choices.ignores_tuned; k++) {
        const struct tuned *t = &f->tuned[k];
        if (t->family == family_timed(family) && t->type == type && t->rows == rows && t->cols == cols &&
            (f->passed[family][t->variant] >> type & 1) && variant_is_usable(gpu, family, t->variant, type))
            return &variants[t->variant];
    }
    while (i + 1 < n && !variant_is_usable(gpu, family, i, type))
        i++;
    return &variants[i];
}
