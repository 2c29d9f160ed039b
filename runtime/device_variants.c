/* SPDX-License-Identifier: Apache-2.0 */
/* What `scoria devices` tells of a device's kernels. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "findings.h"
#include "self_test.h"

/* What the usual files are made of, and caches; the first is tested unasked, since compiling takes most of the time. */
enum { N_TYPES = 4 };
static const enum sc_type WEIGHT_TYPES[N_TYPES] = {SC_Q4_K, SC_Q6_K, SC_Q8_0, SC_F32},
                          CACHE_TYPES[N_TYPES] = {SC_F16, SC_Q8_0, SC_F32, SC_F32};

static enum sc_type type_of(enum family family, uint32_t number)
{
    return family == FAMILY_ROWS ? SC_F32 : (family_has_cache(family) ? CACHE_TYPES : WEIGHT_TYPES)[number];
}

static uint32_t n_variants(enum family family)
{
    uint32_t n;
    (void)family_variants(family, &n);
    return n;
}

static bool test_everything(struct gpu *gpu, struct sc_error *e)
{
    struct findings *f = &gpu->choices.findings;
    memset(f->passed, 0, sizeof(f->passed));
    memset(f->failed, 0, sizeof(f->failed));
    for (enum family family = 0; family < N_FAMILIES; family++)
        for (uint32_t i = 0; i < n_variants(family); i++)
            for (uint32_t t = 0; t < N_TYPES; t++) {
                bool is_right;
                if (variant_is_usable(gpu, family, i, type_of(family, t)) &&
                    !self_test_variant(gpu, family, i, type_of(family, t), (struct listener){0}, &is_right, e))
                    return false;
            }
    return true;
}

static bool test_used(struct gpu *gpu, struct sc_error *e)
{
    uint32_t types[N_FAMILIES] = {0};
    for (enum family family = 0; family < N_FAMILIES; family++)
        types[family] = UINT32_C(1) << type_of(family, 0);
    return self_test(gpu, types, (struct listener){0}, e);
}

/* For how many of the matrices, or heads, that were timed it was the fastest. */
static uint32_t n_fastest(const struct findings *f, enum family family, uint32_t variant, uint32_t *n_timed)
{
    uint32_t n = 0;
    *n_timed = 0;
    for (uint32_t i = 0; i < f->n_tuned; i++)
        if (f->tuned[i].family == family) {
            ++*n_timed;
            n += f->tuned[i].variant == variant;
        }
    return n;
}

static bool is_first(const struct gpu *gpu, enum family family, uint32_t variant)
{
    for (uint32_t t = 0; t < N_TYPES; t++)
        if (variant_of(gpu, family, type_of(family, t), 0, 0) == &family_variants(family, &(uint32_t){0})[variant])
            return true;
    return false;
}

static void describe(struct sc_variant *out, const struct gpu *gpu, enum family family, uint32_t variant)
{
    const struct variant *v = &family_variants(family, &(uint32_t){0})[variant];
    const struct findings *f = &gpu->choices.findings;
    const char *lacks = variant_lacks(v, &gpu->info);
    uint32_t n_timed;
    const uint32_t n = n_fastest(f, family, variant, &n_timed);
    *out = (struct sc_variant){.family = family_names[family], .name = v->name};
    out->is_tested = f->passed[family][variant] && !f->failed[family][variant];
    if (lacks) {
        out->state = SC_VARIANT_LACKS;
        snprintf(out->why, sizeof(out->why), "needs %s", lacks);
    } else if (f->failed[family][variant]) {
        out->state = SC_VARIANT_WRONG;
        snprintf(out->why, sizeof(out->why), "this driver computes it wrongly, or fails at it");
    } else if (n > 0 || is_first(gpu, family, variant)) {
        out->state = SC_VARIANT_USED;
        if (n_timed)
            snprintf(out->why, sizeof(out->why), "the fastest for %u of %u %s that were timed", n, n_timed,
                     family_has_cache(family) ? "models' heads" : "matrices");
    } else {
        out->state = SC_VARIANT_SPARE;
        snprintf(out->why, sizeof(out->why), "%s",
                 v->rounding != ROUNDS_NOTHING && !gpu->choices.may_round ? "rounds activations, which only GPUs may do"
                 : n_timed                                                ? "was never the fastest when it was timed"
                                                                          : "comes behind what is used in the table");
    }
}

bool sc_device_variants(uint32_t index, const char *cache_dir, bool test_all, struct sc_variant **variants, size_t *n,
                        struct sc_error *e)
{
    char name[16];
    *variants = NULL;
    *n = 0;
    snprintf(name, sizeof(name), "%u", index);
    struct gpu *gpu = gpu_create(name, cache_dir, e);
    if (!gpu)
        return false;
    gpu->choices.may_round = gpu->info.kind != SC_DEVICE_CPU;
    findings_load(gpu, cache_dir);
    bool ok = (!test_all || test_everything(gpu, e)) && test_used(gpu, e);
    findings_save(gpu, cache_dir);
    *variants = ok ? calloc(N_FAMILIES * MAX_VARIANTS, sizeof(**variants)) : NULL;
    if (ok && !*variants)
        ok = sc_fail_memory(e, "the list of kernels");
    for (enum family family = 0; ok && family < N_FAMILIES; family++)
        for (uint32_t i = 0; i < n_variants(family); i++)
            describe(&(*variants)[(*n)++], gpu, family, i);
    gpu_destroy(gpu);
    return ok;
}
