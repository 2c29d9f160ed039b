/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an engine decides by given rates: uploads are a thousand times as fast where the driver reads the mapped file in
 * place, and the micro-batch and who computes hang on that.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine.h"
#include "model_builder.h"
#include "placement.h"

enum { N_CTX = 128, MOST_ON_HOST = 64 };
/* What the driver takes of the file. */
enum imports { ALL_IMPORTS, NO_IMPORT, ONE_PAGE, N_IMPORTS };

static const struct model_spec spec = {
    .type = "f16", .d = 256, .ff = 2048, .experts = 16, .used = 2, .vocab = 320, .n_ctx = N_CTX, .seed = 21};
static char path[64];

/* The device computes a thousand times as fast as the CPU, and uploads are slower still. */
static const struct rates rates = {.device_read = 1e12,
                                   .device_expert = 1e12,
                                   .device_batch = 1e14,
                                   .host_read = 1e9,
                                   .host_expert = 1e9,
                                   .host_batch_small = 1e11,
                                   .host_batch = 1e11,
                                   .upload = 1e7,
                                   .transfer = 1e10,
                                   .round_trip = 1e-5,
                                   .device_beside_host = 1e12,
                                   .host_beside_device = 1e9,
                                   .transfer_beside_host = 1e10,
                                   .host_beside_transfer = 1e9};

static int write_model(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "decide-%ld.tmp.gguf", (long)getpid());
    return model_write(path, &spec) ? 0 : -1;
}

static int remove_model(void **state)
{
    (void)state;
    return unlink(path);
}

static PFN_vkGetMemoryHostPointerPropertiesEXT real_properties;
static uint32_t imports_left;

static VKAPI_ATTR VkResult VKAPI_CALL counted_properties(VkDevice d, VkExternalMemoryHandleTypeFlagBits type,
                                                         const void *pointer, VkMemoryHostPointerPropertiesEXT *out)
{
    if (!imports_left)
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    imports_left--;
    return real_properties(d, type, pointer, out);
}

/* An engine by these rates, with a budget that some experts do not fit in. */
static struct sc_engine *place(enum imports imports)
{
    struct sc_error e = {0};
    const struct sc_engine_params params = {.model_path = path, .cache_dir = "", .n_ctx = N_CTX, .no_hot_set = true};
    struct sc_engine *engine = engine_new(&params, &e);
    if (!engine || !engine_open_model(engine, false, &e) || !(engine->gpu = gpu_create(NULL, "", &e)) ||
        !(engine->pool = cpu_pool_create(2, &e)))
        fail_msg("%s", e.text);
    engine->rates = rates;
    engine->has_rates = true;
    real_properties = engine->gpu->vk.vkGetMemoryHostPointerPropertiesEXT;
    imports_left = imports == ONE_PAGE ? 1 : 0;
    if (imports != ALL_IMPORTS)
        engine->gpu->vk.vkGetMemoryHostPointerPropertiesEXT = counted_properties;
    if (!engine_decide(engine, 1u << 30, &e))
        fail_msg("%s", e.text);
    const struct sc_placement *p = &engine->placement;
    if (!engine_place(engine, p->minimum_bytes + p->n_experts_total / 4 * 3 * p->slot_bytes, &e))
        fail_msg("%s", e.text);
    assert_in_range(p->n_slots, 1, p->n_experts_total - 1);
    return engine;
}

static void test_reading_in_place(void **state)
{
    (void)state;
    for (enum imports imports = 0; imports < N_IMPORTS; imports++) {
        struct sc_engine *engine = place(imports);
        const bool can = engine->gpu->import_alignment != 0, in_place = can && imports == ALL_IMPORTS;
        const uint32_t n_batch = can && imports != NO_IMPORT ? N_CTX : MOST_ON_HOST;
        if (engine->reads_in_place != in_place || engine->params.n_batch != n_batch ||
            engine->path != (in_place ? PATH_DEVICE : PATH_BOTH))
            fail_msg("case %d: in place %d, a micro-batch of %u instead of %u, path %d", imports,
                     engine->reads_in_place, engine->params.n_batch, n_batch, engine->path);
        sc_engine_destroy(engine);
    }
}

/* Of q4_k and q6_k only the former lies on the device as in the file. */
static void test_mixed_types(void **state)
{
    const struct model_spec mixed = {.d = 256, .ff = 512, .layers = 4, .seed = 22};
    struct sc_engine_params params = {.cache_dir = "", .no_hot_set = true};
    struct sc_error e = {0};
    char mixed_path[80];
    double bytes[2] = {0};
    (void)state;
    snprintf(mixed_path, sizeof mixed_path, "mixed-%s", path);
    params.model_path = mixed_path;
    assert_true(model_write(mixed_path, &mixed));
    struct sc_engine *engine = engine_new(&params, &e);
    if (!engine || !engine_open_model(engine, false, &e))
        fail_msg("%s", e.text);
    unlink(mixed_path);
    for (uint32_t l = 0; l < mixed.layers; l++) {
        const struct expert_weights *x = &engine->weights.layers[l].experts[0];
        bytes[x->gate.type == SC_Q6_K] += (double)x->gate.size_bytes;
        bytes[x->up.type == SC_Q6_K] += (double)x->up.size_bytes;
        bytes[x->down.type == SC_Q6_K] += (double)x->down.size_bytes;
    }
    assert_true(bytes[0] > 0 && bytes[1] > 0);
    engine->rates = rates;
    engine->has_rates = true;
    for (int in_place = 0; in_place < 2; in_place++) {
        engine->reads_in_place = in_place;
        const double seconds = bytes[0] / (in_place ? rates.transfer : rates.upload) + bytes[1] / rates.upload;
        const double got = (bytes[0] + bytes[1]) / engine_cost(engine).upload;
        if (!(fabs(got - seconds) <= 1e-9 * seconds))
            fail_msg("in place %d: %g s instead of %g", in_place, got, seconds);
    }
    sc_engine_destroy(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reading_in_place), cmocka_unit_test(test_mixed_types)};
    return cmocka_run_group_tests(tests, write_model, remove_model);
}
