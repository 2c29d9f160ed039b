/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole models against a forward pass in double precision: random models of 2 layers in every shape that files may
 * have, as a prompt in micro-batches and as single tokens.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trial.h"

/* A 0 stands for the default in brackets. */
struct forward_case {
    const char *name;
    struct model_spec spec;
    uint32_t n_tokens; /* [18] */
    uint32_t n_batch;  /* [16], so that the default prompt ends with a micro-batch of 2 */
    uint32_t n_decode; /* of n_tokens at the end: again, one by one [3] */
    uint32_t kv;       /* an index into kv_types [f32] */
};

/*
 * Keys and values rounded to 11 bits move each score and each output by up to 2^-11 of its terms' sizes. With logits of
 * deviation 4 that is a few thousandths on a logit, whose square is the divergence. Of q8_0 the reference takes the
 * same 255 steps, so what is left is the rounding of a step's size to 11 bits.
 */
enum { KV_F32, KV_F16, KV_Q8_0, N_KV_TYPES };
static const struct {
    enum sc_kv_type type;
    struct bound bound;
} kv_types[N_KV_TYPES] = {
    [KV_F32] = {SC_KV_F32, {.kl = 1e-5, .margin = 1e-3}},
    [KV_F16] = {SC_KV_F16, {.kl = 2e-4, .margin = 0.1}},
    [KV_Q8_0] = {SC_KV_Q8_0, {.kl = 2e-4, .margin = 0.1}},
};
static double worst_kl[N_KV_TYPES];

/* Small shapes whose rows are a multiple of most blocks, and of 256 for the K-quants. */
#define LEGACY .d = 64, .ff = 96
#define K_QUANT .d = 256, .ff = 256

/* A driver compiles all kernels for each model, which is most of the time: each type comes with one awkward shape. */
static const struct forward_case cases[] = {
    {.name = "f32, 1 layer", .spec = {.type = "f32", .d = 48, .ff = 80, .heads = 3, .kv = 1, .layers = 1, .seed = 1}},
    {.name = "f16, heads of 20", .spec = {.type = "f16", .d = 80, .ff = 48, .heads = 4, .kv = 4, .seed = 2}},
    {.name = "bf16, groups of 6", .spec = {.type = "bf16", .d = 96, .ff = 80, .heads = 6, .kv = 1, .seed = 3}},
    {.name = "q4_0, tied", .spec = {.type = "q4_0", LEGACY, .tied = true, .seed = 4}},
    {.name = "q4_1, dense and tied", .spec = {.type = "q4_1", LEGACY, .dense = true, .tied = true, .seed = 5}},
    {.name = "q5_0, groups of 8", .spec = {.type = "q5_0", LEGACY, .heads = 8, .kv = 1, .seed = 6}},
    {.name = "q5_1, heads wider than the embedding", .spec = {.type = "q5_1", LEGACY, .head_dim = 32, .seed = 7}},
    {.name = "q8_0, heads of 256", .spec = {.type = "q8_0", LEGACY, .heads = 2, .kv = 1, .head_dim = 256, .seed = 8}},
    {.name = "iq4_nl, heads narrower", .spec = {.type = "iq4_nl", LEGACY, .head_dim = 8, .seed = 9}},
    {.name = "q2_k, groups of 1", .spec = {.type = "q2_k", K_QUANT, .kv = 4, .seed = 10}},
    {.name = "q3_k, groups of 4", .spec = {.type = "q3_k", K_QUANT, .heads = 8, .kv = 2, .seed = 11}},
    {.name = "q4_k, vocabulary of 1033", .spec = {.type = "q4_k", K_QUANT, .vocab = 1033, .seed = 12}},
    {.name = "q5_k, an expert a tensor", .spec = {.type = "q5_k", K_QUANT, .split_experts = true, .seed = 13}},
    {.name = "q6_k, 5 experts, 3 used", .spec = {.type = "q6_k", K_QUANT, .experts = 5, .used = 3, .seed = 14}},
    {.name = "iq4_xs, vocabulary of 259", .spec = {.type = "iq4_xs", K_QUANT, .vocab = 259, .seed = 15}},
    {.name = "mix", .spec = {K_QUANT, .heads = 8, .experts = 8, .seed = 16}, .n_tokens = 33},
    {.name = "mix, an expert a tensor", .spec = {K_QUANT, .split_experts = true, .layers = 3, .seed = 17}},
    {.name = "mix, dense", .spec = {.d = 256, .ff = 512, .dense = true, .seed = 18}},

    {.name = "rope base 10000", .spec = {.type = "q8_0", LEGACY, .rope_base = 10000, .seed = 30}, .n_tokens = 40},
    {.name = "part of a head turns", .spec = {.type = "q8_0", LEGACY, .n_rot = 6, .seed = 31}, .n_tokens = 40},
    {.name = "linear rope scaling", .spec = {.type = "q8_0", LEGACY, .rope_linear = 4, .seed = 32}, .n_tokens = 40},
    {.name = "rope factors", .spec = {.type = "q8_0", LEGACY, .rope_factors = true, .seed = 33}, .n_tokens = 40},
    {.name = "all of rope",
     .spec = {.type = "q8_0", LEGACY, .n_rot = 4, .rope_base = 500, .rope_linear = 2, .rope_factors = true, .seed = 34},
     .n_tokens = 40},

    {.name = "1 expert, 1 used", .spec = {.type = "q8_0", LEGACY, .experts = 1, .used = 1, .seed = 41}},
    {.name = "16 experts, all used", .spec = {.type = "q8_0", LEGACY, .experts = 16, .used = 16, .seed = 42}},
    {.name = "128 experts, 8 used", .spec = {.type = "q8_0", LEGACY, .experts = 128, .used = 8, .seed = 43}},
    {.name = "256 experts, 16 used",
     .spec = {.type = "f16", .d = 32, .ff = 16, .experts = 256, .used = 16, .seed = 44}},
    {.name = "7 layers", .spec = {.type = "q8_0", LEGACY, .layers = 7, .seed = 45}},

    {.name = "300 tokens",
     .spec = {.type = "f16", .d = 32, .ff = 32, .seed = 50},
     .n_tokens = 300,
     .n_batch = 128,
     .n_decode = 4},
    {.name = "f16 KV cache, heads of 20",
     .spec = {.type = "q8_0", LEGACY, .head_dim = 20, .seed = 70},
     .n_tokens = 33,
     .kv = KV_F16},
    {.name = "f16 KV cache, dense",
     .spec = {.type = "q8_0", LEGACY, .heads = 8, .kv = 1, .dense = true, .seed = 71},
     .n_tokens = 100,
     .n_batch = 64,
     .kv = KV_F16},
    {.name = "q8_0 KV cache, heads of 32",
     .spec = {.type = "q8_0", LEGACY, .head_dim = 32, .kv = 1, .seed = 72},
     .n_tokens = 33,
     .kv = KV_Q8_0},
    {.name = "q8_0 KV cache, dense",
     .spec = {.type = "q8_0", LEGACY, .heads = 4, .kv = 4, .head_dim = 96, .dense = true, .seed = 73},
     .n_tokens = 150,
     .n_batch = 64,
     .kv = KV_Q8_0},
    {.name = "a window of 7", .spec = {.type = "q8_0", LEGACY, .window = 7, .seed = 80}, .n_tokens = 40},
    {.name = "a window of 1, f16 KV cache",
     .spec = {.type = "q8_0", LEGACY, .window = 1, .seed = 81},
     .n_tokens = 20,
     .kv = KV_F16},
    {.name = "a window of 150",
     .spec = {.type = "f16", .d = 32, .ff = 32, .window = 150, .seed = 82},
     .n_tokens = 300,
     .n_batch = 128,
     .n_decode = 10},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static void test_case(void **state)
{
    const struct forward_case *c = *state;
    const size_t n = c->n_tokens ? c->n_tokens : 18, n_decode = c->n_decode ? c->n_decode : 3;
    struct trial t;
    (c->kv == KV_Q8_0 ? trial_init_q8_kv : trial_init)(&t, c->name, &c->spec, n);
    t.bound = kv_types[c->kv].bound;
    struct sc_engine *engine = trial_engine(&t, (struct sc_engine_params){.n_ctx = (uint32_t)n,
                                                                          .n_batch = c->n_batch ? c->n_batch : 16,
                                                                          .kv_type = kv_types[c->kv].type});
    struct sc_session *session = trial_session(&t, engine);
    trial_eval(&t, session, n);
    sc_session_truncate(session, (uint32_t)(n - n_decode));
    trial_decode(&t, session, n_decode);

    worst_kl[c->kv] = fmax(worst_kl[c->kv], t.worst_kl);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    trial_finish(&t);
}

/* Prompts of several lengths in micro-batches of several sizes, and what may follow them. */
static void test_prompts(void **state)
{
    (void)state;
    static const uint32_t batches[] = {1, 5, 16, 32, 512}, lengths[] = {1, 2, 33, 100};
    struct trial t;
    trial_init(&t, "prompts", &(struct model_spec){.type = "q8_0", LEGACY, .experts = 8, .seed = 60}, 100);
    for (size_t b = 0; b < sizeof batches / sizeof batches[0]; b++) {
        struct sc_engine *engine =
            trial_engine(&t, (struct sc_engine_params){.n_ctx = 100, .n_batch = batches[b], .kv_type = SC_KV_F32});
        struct sc_session *session = trial_session(&t, engine);
        assert_int_equal(sc_engine_n_batch(engine), batches[b] < 100 ? batches[b] : 100);
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            sc_session_truncate(session, 0);
            trial_eval(&t, session, lengths[i]);
        }
        sc_session_truncate(session, 33); /* which continue in the middle of the cache */
        trial_eval(&t, session, 17);
        trial_decode(&t, session, 2);
        trial_eval(&t, session, 48);
        sc_session_destroy(session);
        sc_engine_destroy(engine);
    }
    worst_kl[KV_F32] = fmax(worst_kl[KV_F32], t.worst_kl);
    trial_finish(&t);
}

/* Every token alone, from an empty cache on. */
static void test_decode(void **state)
{
    (void)state;
    struct trial t;
    trial_init(&t, "decode", &(struct model_spec){.type = "q8_0", LEGACY, .experts = 8, .seed = 61}, 50);
    struct sc_engine *engine = trial_engine(&t, (struct sc_engine_params){.n_ctx = 50, .kv_type = SC_KV_F32});
    struct sc_session *session = trial_session(&t, engine);
    trial_decode(&t, session, 50);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    worst_kl[KV_F32] = fmax(worst_kl[KV_F32], t.worst_kl);
    trial_finish(&t);
}

/*
 * Positions that 16 bits do not count. A window makes so long a prompt, and its reference, cheap; test_ops_attention
 * sees as far without one.
 */
static void test_long_context(void **state)
{
    (void)state;
    enum { N = 66000, N_CHECKED = 60 };
    struct trial t;
    trial_init(&t, "long context",
               &(struct model_spec){.type = "f32",
                                    .d = 16,
                                    .ff = 16,
                                    .heads = 2,
                                    .layers = 1,
                                    .dense = true,
                                    .vocab = 259,
                                    .window = 40,
                                    .n_ctx = 70000,
                                    .seed = 90},
               N);
    struct sc_engine *engine = trial_engine(&t, (struct sc_engine_params){.n_ctx = 70000, .kv_type = SC_KV_F32});
    struct sc_session *session = trial_session(&t, engine);
    struct sc_error e = {0};
    if (!sc_session_eval(session, t.tokens, N - N_CHECKED, NULL, 0, &e))
        fail_msg("%s", e.text);
    trial_eval(&t, session, N_CHECKED - 5);
    trial_decode(&t, session, 5);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    worst_kl[KV_F32] = fmax(worst_kl[KV_F32], t.worst_kl);
    trial_finish(&t);
}

int main(void)
{
    struct CMUnitTest tests[N_CASES + 3] = {[N_CASES] = cmocka_unit_test(test_prompts),
                                            [N_CASES + 1] = cmocka_unit_test(test_decode),
                                            [N_CASES + 2] = cmocka_unit_test(test_long_context)};
    for (size_t i = 0; i < N_CASES; i++)
        tests[i] = (struct CMUnitTest){
            .name = cases[i].name, .test_func = test_case, .initial_state = (void *)(uintptr_t)&cases[i]};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    printf("worst KL: %.1e, with a KV cache of f16 %.1e, of q8_0 %.1e\n", worst_kl[KV_F32], worst_kl[KV_F16],
           worst_kl[KV_Q8_0]);
    return failed;
}
