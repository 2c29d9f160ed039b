/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts on a driver that says it were a GPU: kernels are timed for the model's own matrices and heads, a start goes on
 * where the one before it stopped, and none of it is asked for with --no-autotune.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine.h"
#include "findings.h"
#include "trial.h"

/* ---- the driver: the linker sends volk's loader through here ---- */

void __real_volkLoadInstanceOnly(VkInstance instance);
void __wrap_volkLoadInstanceOnly(VkInstance instance);

static PFN_vkGetPhysicalDeviceProperties get_properties;

static void VKAPI_CALL get_gpu_properties(VkPhysicalDevice device, VkPhysicalDeviceProperties *p)
{
    get_properties(device, p);
    p->deviceType = VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU;
}

void __wrap_volkLoadInstanceOnly(VkInstance instance)
{
    __real_volkLoadInstanceOnly(instance);
    get_properties = vkGetPhysicalDeviceProperties;
    vkGetPhysicalDeviceProperties = get_gpu_properties;
}

/* ---- tests ---- */

enum { MAX_STARTS = 30 };

static const struct model_spec spec = {.ff = 256, .layers = 1, .heads = 4, .kv = 1, .head_dim = 64, .type = "q8_0"};

static const struct tuned *find(const struct sc_engine *engine, enum family family, struct tensor key)
{
    const struct findings *f = &engine->gpu->choices.findings;
    for (uint32_t i = 0; i < f->n_tuned; i++)
        if (f->tuned[i].family == family && f->tuned[i].type == key.type && f->tuned[i].rows == key.rows &&
            f->tuned[i].cols == key.cols)
            return &f->tuned[i];
    return NULL;
}

/* Whether all variants were timed, or there was nothing to compare. */
static bool is_known(const struct sc_engine *engine, enum family family, struct tensor key)
{
    const struct tuned *t = find(engine, family, key);
    uint32_t n, n_usable = 0, n_left = 0;
    (void)family_variants(family, &n);
    for (uint32_t i = 0; i < n; i++) {
        const bool is_usable = variant_is_usable(engine->gpu, family, i, key.type);
        n_usable += is_usable;
        n_left += is_usable && t && i >= t->next;
    }
    return t ? n_left == 0 : n_usable < 2;
}

/* The variant that an engine takes is the first of the table, or the fastest that was found. */
static void check_choice(const struct sc_engine *engine, enum family family, struct tensor key, bool first)
{
    const struct tuned *t = find(engine, family, key);
    uint32_t n, want = 0;
    const struct variant *variants = family_variants(family, &n);
    while (want + 1 < n && !variant_is_usable(engine->gpu, family, want, key.type))
        want++;
    if (t && !first) {
        assert_true(t->seconds > 0);
        want = t->variant;
    }
    assert_ptr_equal(variant_of(engine->gpu, family, key.type, key.rows, key.cols), &variants[want]);
}

static void check_description(const struct sc_engine *engine)
{
    struct sc_variant *variants;
    struct sc_error e = {0};
    size_t n, n_heads = 0, n_matrices = 0;
    if (!sc_device_variants(engine->gpu->info.index, "", false, &variants, &n, &e))
        fail_msg("%s", e.text);
    for (size_t i = 0; i < n; i++) {
        n_heads += strcmp(variants[i].why, "the fastest for 1 of 1 models' heads that were timed") == 0;
        n_matrices += strstr(variants[i].why, "matrices that were timed") && variants[i].family[0] == 'm';
    }
    free(variants);
    assert_int_equal(n_heads, 2); /* attention of a token and of a prompt */
    assert_true(n_matrices > 0);
}

static void test_starts(void **state)
{
    (void)state;
    struct trial t;
    const struct sc_engine_params params = {.cache_dir = ""};
    struct sc_engine *engine;
    trial_init(&t, "start", &spec, 4);
    for (uint32_t i = 0, n_known = 0; n_known < 4; i++) {
        if (i == MAX_STARTS)
            fail_msg("after %u starts %u of 4 were known", i, n_known);
        engine = trial_engine(&t, params);
        const struct tensor heads = attention_key(SC_F16, (struct heads){.n = 4, .n_kv = 1, .dim = 64}),
                            gate = {.type = SC_Q8_0, .rows = 256, .cols = 256};
        const struct {
            enum family family;
            struct tensor key;
        } timed[] = {
            {FAMILY_ATTENTION, heads}, {FAMILY_ATTENTION_MANY, heads}, {FAMILY_MATVEC, gate}, {FAMILY_MATMUL, gate}};
        n_known = 0;
        for (uint32_t k = 0; k < 4; k++)
            n_known += is_known(engine, timed[k].family, timed[k].key);
        if (n_known == 4) {
            struct sc_engine_params plain = params;
            plain.no_autotune = true;
            struct sc_engine *untuned = trial_engine(&t, plain);
            for (uint32_t k = 0; k < 4; k++) {
                check_choice(engine, timed[k].family, timed[k].key, false);
                check_choice(untuned, timed[k].family, timed[k].key, true);
            }
            check_description(engine);
            sc_engine_destroy(untuned);
        }
        sc_engine_destroy(engine);
    }
    trial_finish(&t);
}

static void test_no_autotune(void **state)
{
    (void)state;
    struct trial t;
    trial_init(&t, "untuned", &spec, 4);
    struct sc_engine *engine = trial_engine(&t, (struct sc_engine_params){.cache_dir = "", .no_autotune = true});
    assert_int_equal(engine->gpu->choices.findings.n_tuned, 0);
    sc_engine_destroy(engine);
    trial_finish(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_autotune), cmocka_unit_test(test_starts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
