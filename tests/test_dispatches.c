/* SPDX-License-Identifier: Apache-2.0 */
/* What a layer of one token costs in dispatches and barriers, as the program counts them: the design's 7 and 6. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "engine.h"
#include "gpu.h"
#include "trial.h"

enum { N_CTX = 16 };

/* Of a token's step in a model of so many layers, all of whose experts have slots. */
static struct sc_stats step_of(uint32_t n_layers, const char *type, bool dense, enum sc_kv_type kv_type)
{
    const struct model_spec spec = {.type = type,
                                    .d = 256,
                                    .ff = 256,
                                    .layers = n_layers,
                                    .heads = 4,
                                    .kv = 2,
                                    .experts = 8,
                                    .used = 2,
                                    .dense = dense,
                                    .n_ctx = N_CTX,
                                    .seed = 1};
    struct trial t;
    struct sc_stats stats;
    trial_init(&t, "dispatches", &spec, 2);
    struct sc_engine *engine = trial_engine(
        &t,
        (struct sc_engine_params){.n_ctx = N_CTX, .kv_type = kv_type, .cpu_experts = SC_CPU_OFF, .no_hot_set = true});
    engine->gpu->info.kind = SC_DEVICE_DISCRETE; /* processors have kernels of their own, which take a norm apart */
    struct sc_session *session = trial_session(&t, engine);
    trial_decode(&t, session, 2);
    sc_session_stats(session, &stats);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    trial_finish(&t);
    return stats;
}

/* One layer more costs so much more. */
static void test_a_layer_takes_few(void **state)
{
    static const struct {
        const char *type;
        bool dense;
        enum sc_kv_type kv_type;
        uint32_t n_dispatches, n_barriers;
    } cases[] = {
        {"q4_k", false, SC_KV_F16, 6, 6},
        {"q8_0", false, SC_KV_F32, 6, 6},
        {"q4_k_m", false, SC_KV_F16, 7, 6}, /* some v have a type of their own */
        {"q4_k", true, SC_KV_F16, 5, 5},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct sc_stats two = step_of(2, cases[i].type, cases[i].dense, cases[i].kv_type),
                              three = step_of(3, cases[i].type, cases[i].dense, cases[i].kv_type);
        const uint32_t n_dispatches = three.n_dispatches - two.n_dispatches,
                       n_barriers = three.n_barriers - two.n_barriers;
        print_message("%s%s: %u dispatches and %u barriers a layer\n", cases[i].type, cases[i].dense ? ", dense" : "",
                      n_dispatches, n_barriers);
        if (n_dispatches == 0 || n_dispatches > cases[i].n_dispatches || n_barriers == 0 ||
            n_barriers > cases[i].n_barriers)
            fail_msg("case %zu: %u dispatches and %u barriers a layer", i, n_dispatches, n_barriers);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_layer_takes_few)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
