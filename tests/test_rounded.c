/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole models by the variants that round activations to 8 bits, which GPUs may take: how far that moves the logits.
 * Devices that take others by themselves are made to by a verdict against those.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "engine.h"
#include "trial.h"

/*
 * A step is a 127th of the largest of 32 values, 2.5 deviations or so, and rounding is off by a third of it: half a
 * percent of each product's deviation. Ten of them one after the other, and logits of deviation 4, make a tenth or two
 * on a logit of the worst token, whose square is the divergence.
 */
static const struct bound bound = {.kl = 5e-2, .margin = 1};

/* Whether the device has such variants for one token, a few and many; then it uses them for all weights in blocks. */
static bool use_rounding(struct gpu *gpu)
{
    static const enum sc_type plain[] = {SC_F32, SC_F16, SC_BF16};
    uint32_t in_blocks = ~UINT32_C(0), n_families = 0;
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        in_blocks &= ~(UINT32_C(1) << plain[i]);
    gpu->choices.may_round = true;
    for (enum family family = 0; family < N_FAMILIES; family++) {
        uint32_t n, n_rounding = 0;
        const struct variant *v = family_variants(family, &n);
        for (uint32_t i = 0; i < n; i++)
            n_rounding += v[i].rounding == ROUNDS_TO_Q8 && !variant_lacks(&v[i], &gpu->info);
        for (uint32_t i = 0; i < n && n_rounding; i++)
            if (v[i].rounding != ROUNDS_TO_Q8)
                gpu->choices.findings.failed[family][i] |= in_blocks;
        n_families += n_rounding > 0;
    }
    return n_families > 0;
}

static void check(const char *name, const struct model_spec *spec)
{
    enum { N = 60, N_FEW = 9, N_DECODED = 12 };
    struct trial t;
    trial_init(&t, name, spec, N);
    t.bound = bound;
    struct sc_engine *engine = trial_engine(
        &t, (struct sc_engine_params){
                .n_ctx = N, .n_batch = N, .kv_type = SC_KV_F32, .cpu_experts = SC_CPU_OFF, .no_hot_set = true});
    const bool can_run = use_rounding(engine->gpu);
    if (can_run) {
        struct sc_session *session = trial_session(&t, engine);
        trial_eval(&t, session, N);
        sc_session_truncate(session, N - N_FEW - N_DECODED);
        trial_eval(&t, session, N_FEW);
        trial_decode(&t, session, N_DECODED);
        print_message("%s: worst KL %.1e\n", name, t.worst_kl);
        assert_true(t.worst_kl > 1e-6); /* or nothing was rounded */
        sc_session_destroy(session);
    } else {
        print_message("%s has no variant that rounds to 8 bits\n", engine->gpu->info.name);
    }
    sc_engine_destroy(engine);
    trial_finish(&t);
    if (!can_run)
        skip();
}

static void test_experts(void **state)
{
    (void)state;
    check("q4_k and others", &(struct model_spec){.d = 256, .ff = 512, .experts = 4, .n_ctx = 64, .seed = 21});
}

static void test_dense(void **state)
{
    (void)state;
    check("q8_0, dense",
          &(struct model_spec){.type = "q8_0", .d = 96, .ff = 160, .dense = true, .n_ctx = 64, .seed = 22});
}

static void test_legacy(void **state)
{
    (void)state;
    check("q4_0", &(struct model_spec){.type = "q4_0", .d = 64, .ff = 96, .experts = 8, .n_ctx = 64, .seed = 23});
}

/* A scale of the token's embedding, of q8_0, is no number. */
static void damage(const char *path, sc_token token)
{
    static const uint16_t nan = 0x7e00;
    struct sc_error e = {0};
    struct sc_gguf *g = sc_gguf_open(path, &e);
    FILE *f = fopen(path, "r+b");
    if (!g || !f)
        fail_msg("%s", e.text);
    const struct sc_gguf_tensor *t = sc_gguf_find_tensor(g, "token_embd.weight");
    const uint64_t row_bytes = t->shape[1] / 32 * 34;
    assert_int_equal(t->size_bytes, t->shape[0] * row_bytes);
    assert_int_equal(fseek(f, (long)(t->offset + (uint64_t)token * row_bytes), SEEK_SET), 0);
    assert_int_equal(fwrite(&nan, sizeof nan, 1, f), 1);
    assert_int_equal(fclose(f), 0);
    sc_gguf_close(g);
}

/* What is no number reaches the logits, through every cache, so that callers can tell: alone and ahead of a prompt. */
static void test_nan(void **state)
{
    enum { N = 20, N_VOCAB = 320 };
    static float logits[N_VOCAB];
    struct trial t;
    (void)state;
    trial_init(&t, "NaN", &(struct model_spec){.type = "q8_0", .d = 128, .ff = 96, .vocab = N_VOCAB, .n_ctx = N}, N);
    damage(t.path, t.tokens[0]);
    for (int kv = SC_KV_F16; kv <= SC_KV_Q8_0; kv++) {
        struct sc_engine *engine = trial_engine(&t, (struct sc_engine_params){.n_ctx = N,
                                                                              .n_batch = N,
                                                                              .kv_type = (enum sc_kv_type)kv,
                                                                              .cpu_experts = SC_CPU_OFF,
                                                                              .no_hot_set = true});
        (void)use_rounding(engine->gpu); /* where there is none, it must hold as well */
        struct sc_session *session = trial_session(&t, engine);
        for (size_t n = 1; n <= N; n += N - 1) {
            struct sc_error e = {0};
            struct sc_candidate best;
            size_t n_best = 1;
            sc_session_truncate(session, 0);
            if (!sc_session_eval(session, t.tokens, n, logits, 1, &e))
                fail_msg("cache %d, %zu tokens: %s", kv, n, e.text);
            for (int i = 0; i < N_VOCAB; i++)
                if (!isnan(logits[i]))
                    fail_msg("cache %d, %zu tokens: logit %d is %g", kv, n, i, (double)logits[i]);
            sc_session_truncate(session, 0);
            assert_true(sc_session_eval_top(session, t.tokens, n, &best, &n_best, &e));
            assert_int_equal(n_best, 0);
        }
        sc_session_destroy(session);
        sc_engine_destroy(engine);
    }
    trial_finish(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_legacy),
        cmocka_unit_test(test_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
