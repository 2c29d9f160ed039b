/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a layer costs in dispatches and barriers, as the program counts them: of one token the design's 7 and 6; of a
 * prompt, also where activations are rounded by a dispatch of their own, which operations of the same x share.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "engine.h"
#include "gpu.h"
#include "pass.h"
#include "trial.h"

enum { N_CTX = 16, N_PROMPT = 9 };

static struct model_spec spec_of(uint32_t n_layers, const char *type, bool dense)
{
    return (struct model_spec){.type = type,
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
}

/* Of a token's step in a model of so many layers, all of whose experts have slots. */
static struct sc_stats step_of(uint32_t n_layers, const char *type, bool dense, enum sc_kv_type kv_type)
{
    const struct model_spec spec = spec_of(n_layers, type, dense);
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

/* One layer more costs no more than so many. */
static void check(size_t number, struct sc_stats two, struct sc_stats three, uint32_t most_dispatches,
                  uint32_t most_barriers)
{
    const uint32_t n_dispatches = three.n_dispatches - two.n_dispatches, n_barriers = three.n_barriers - two.n_barriers;
    print_message("case %zu: %u dispatches and %u barriers a layer\n", number, n_dispatches, n_barriers);
    if (n_dispatches == 0 || n_dispatches > most_dispatches || n_barriers == 0 || n_barriers > most_barriers)
        fail_msg("case %zu: more than %u and %u", number, most_dispatches, most_barriers);
}

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
        check(i, two, three, cases[i].n_dispatches, cases[i].n_barriers);
    }
}

/* Makes products of few columns round; false if the device cannot. */
static bool make_round(struct gpu *gpu)
{
    uint32_t n, i = 0;
    const struct variant *v = family_variants(FAMILY_MATMUL_FEW, &n);
    gpu->choices.may_round = true;
    while (i < n && (v[i].rounding != ROUNDS_TO_Q8 || variant_lacks(&v[i], &gpu->info)))
        i++;
    gpu->choices.forced[FAMILY_MATMUL_FEW] = (uint8_t)(1 + i);
    return i < n;
}

/* Of a short prompt; no dispatches if the device cannot round. */
static struct sc_stats prompt_of(uint32_t n_layers, const char *type, bool dense, bool rounds)
{
    const struct model_spec spec = spec_of(n_layers, type, dense);
    struct trial t;
    struct pass p;
    struct sc_stats stats = {0};
    struct sc_error e = {0};
    trial_init(&t, "dispatches of a prompt", &spec, N_PROMPT);
    struct sc_engine *engine =
        trial_engine(&t, (struct sc_engine_params){.n_ctx = N_CTX, .cpu_experts = SC_CPU_OFF, .no_hot_set = true});
    if (!rounds || make_round(engine->gpu)) {
        sc_session_destroy(trial_session(&t, engine)); /* which places the model */
        if (!pass_init(&p, engine, &e) || !pass_run(&p, t.tokens, N_PROMPT, 0, OUTPUT_LOGITS, 1, &e) ||
            !pass_wait(&p, &e))
            fail_msg("%s", e.text);
        for (uint32_t i = 0; i < p.batch.n_streams; i++) {
            stats.n_dispatches += p.batch.streams[i].n_dispatches;
            stats.n_barriers += p.batch.streams[i].n_barriers;
        }
        pass_finish(&p);
    }
    sc_engine_destroy(engine);
    trial_finish(&t);
    return stats;
}

static void test_a_layer_of_a_prompt(void **state)
{
    static const struct {
        const char *type;
        bool dense, rounds;
        uint32_t n_dispatches, n_barriers;
    } cases[] = {
        /* where x is rounded, that is shared by q, k and v, and by gate and up */
        {"q4_k", false, false, 17, 14},
        {"q4_k", false, true, 21, 17},
        {"q4_k", true, true, 16, 13},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct sc_stats two = prompt_of(2, cases[i].type, cases[i].dense, cases[i].rounds),
                              three = prompt_of(3, cases[i].type, cases[i].dense, cases[i].rounds);
        if (cases[i].rounds && three.n_dispatches == 0)
            continue; /* this device has no such variant */
        check(i, two, three, cases[i].n_dispatches, cases[i].n_barriers);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_layer_takes_few),
                                       cmocka_unit_test(test_a_layer_of_a_prompt)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
