/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sc_session_eval_top against sc_session_eval: the same candidates, and passes that the device begins unasked change no
 * bit of anything, whatever is asked for instead.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine.h"
#include "trial.h"

enum { N_CTX = 48, N_BATCH = 8, N_VOCAB = 320, N_PROMPT = 5 };
static const struct sc_engine_params resident = {.cpu_experts = SC_CPU_OFF};
static struct trial t;

/*
 * Two sessions that get the same tokens: one is asked for candidates, the other for logits. They are of one engine,
 * unless it matters for the bits which experts have slots: then each has its own, and equal calls fill them equally.
 */
struct pair {
    struct sc_engine *engine, *other;
    struct sc_session *top, *plain;
    struct sc_candidate candidates[SC_MAX_CANDIDATES];
    size_t n;
    float logits[N_VOCAB], more_logits[N_VOCAB];
};

static int make_trial(void **state)
{
    const struct model_spec spec = {
        .type = "q8_0", .d = 64, .ff = 96, .experts = 8, .used = 2, .vocab = N_VOCAB, .n_ctx = N_CTX, .seed = 5};
    (void)state;
    trial_init(&t, "top", &spec, N_CTX);
    return 0;
}

static int finish_trial(void **state)
{
    (void)state;
    trial_finish(&t);
    return 0;
}

static void pair_init(struct pair *p, struct sc_engine_params params)
{
    params.n_ctx = N_CTX;
    params.n_batch = N_BATCH;
    params.kv_type = SC_KV_F32;
    *p = (struct pair){.engine = trial_engine(&t, params)};
    p->top = trial_session(&t, p->engine);
    p->plain = trial_session(&t, p->engine);
}

/* With slots for few experts, on this path, whatever is faster here. */
static void pair_init_staged(struct pair *p, enum expert_path path)
{
    enum { MORE_SLOTS = 3 };
    struct sc_engine_params params = {.n_ctx = N_CTX, .n_batch = N_BATCH, .kv_type = SC_KV_F32, .no_hot_set = true};
    params.cpu_experts = path == PATH_DEVICE ? SC_CPU_OFF : SC_CPU_ALL;
    struct sc_engine *engine = trial_engine(&t, params);
    const struct sc_placement *placement = sc_engine_placement(engine);
    params.vram_bytes = placement->minimum_bytes + MORE_SLOTS * placement->slot_bytes;
    sc_engine_destroy(engine);
    *p = (struct pair){.engine = trial_engine(&t, params), .other = trial_engine(&t, params)};
    p->engine->path = p->other->path = path;
    p->top = trial_session(&t, p->engine);
    p->plain = trial_session(&t, p->other);
}

static void pair_finish(struct pair *p)
{
    sc_session_destroy(p->top);
    sc_session_destroy(p->plain);
    sc_engine_destroy(p->engine);
    sc_engine_destroy(p->other);
}

static uint64_t n_submits(const struct sc_session *session)
{
    struct sc_stats stats;
    sc_session_stats(session, &stats);
    return stats.n_submits;
}

static int compare(const void *x, const void *y)
{
    const struct sc_candidate *a = x, *b = y;
    return a->logit > b->logit ? -1 : a->logit < b->logit ? 1 : (a->token > b->token) - (a->token < b->token);
}

static void check_candidates(const struct pair *p, size_t n_top, const char *what)
{
    struct sc_candidate sorted[N_VOCAB];
    for (int i = 0; i < N_VOCAB; i++)
        sorted[i] = (struct sc_candidate){p->logits[i], i};
    qsort(sorted, N_VOCAB, sizeof *sorted, compare);
    assert_int_equal(p->n, n_top);
    for (size_t i = 0; i < n_top; i++)
        if (memcmp(&sorted[i], &p->candidates[i], sizeof *sorted) != 0)
            fail_msg("%s: candidate %zu of %zu is %d (%.9g), not %d (%.9g)", what, i, n_top, p->candidates[i].token,
                     (double)p->candidates[i].logit, sorted[i].token, (double)sorted[i].logit);
}

/* Both get the tokens; n_top 0: both are asked for logits. */
static void pair_eval(struct pair *p, const sc_token *tokens, size_t n, size_t n_top, const char *what)
{
    struct sc_error e = {0};
    const sc_token first = *tokens; /* which may be a candidate */
    p->n = n_top;
    const bool ok = n_top ? sc_session_eval_top(p->top, tokens, n, p->candidates, &p->n, &e)
                          : sc_session_eval(p->top, tokens, n, p->more_logits, 1, &e);
    if (!ok || !sc_session_eval(p->plain, n == 1 ? &first : tokens, n, p->logits, 1, &e))
        fail_msg("%s: %s", what, e.text);
    assert_int_equal(sc_session_n_past(p->top), sc_session_n_past(p->plain));
    if (n_top)
        check_candidates(p, n_top, what);
    else
        assert_memory_equal(p->logits, p->more_logits, sizeof p->logits);
}

/* To the end of the context: each token is under way when it is asked for, and none is begun behind the
 * end. */
static void test_greedy(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p, resident);
    for (int round = 0; round < 2; round++) {
        sc_session_truncate(p.top, 0);
        sc_session_truncate(p.plain, 0);
        pair_eval(&p, t.tokens, N_PROMPT, 1, "the prompt");
        for (uint32_t i = N_PROMPT; i < N_CTX; i++) {
            const uint64_t before = n_submits(p.top);
            char what[32];
            snprintf(what, sizeof what, "token %u", i);
            pair_eval(&p, &p.candidates[0].token, 1, 1, what);
            /* of which one is the plain session's */
            assert_int_equal(n_submits(p.top) - before, i + 1 < N_CTX ? 2 : 1);
        }
        struct sc_error e = {0};
        assert_false(sc_session_eval_top(p.top, t.tokens, 1, p.candidates, &p.n, &e));
        assert_int_equal(e.code, SC_CONTEXT_FULL);
    }
    struct sc_stats stats;
    sc_session_stats(p.top, &stats);
    assert_int_equal(stats.n_decode_tokens, 2 * (N_CTX - N_PROMPT));
    assert_int_equal(stats.n_prefill_tokens, 2 * N_PROMPT);
    pair_finish(&p);
}

/* After a wrong guess none is made before one would have been right. */
static void test_wrong_guess(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p, resident);
    pair_eval(&p, t.tokens, N_PROMPT, 1, "the prompt");
    for (int i = 0; i < 6; i++) {
        const uint64_t before = n_submits(p.top);
        const sc_token other = (p.candidates[0].token + 1) % N_VOCAB;
        pair_eval(&p, i == 4 ? &p.candidates[0].token : &other, 1, 1, "other tokens");
        assert_int_equal(n_submits(p.top) - before, i == 4 ? 3 : 2);
    }
    pair_finish(&p);
}

/* Any calls in any order. */
static void check_any_calls(struct pair *p, int n_calls, const char *way, uint64_t seed)
{
    static const size_t counts[] = {0, 1, 1, 1, 1, 2, 40, 64};
    pair_eval(p, t.tokens, N_PROMPT, 1, "the prompt");
    for (int i = 0; i < n_calls; i++) {
        const uint64_t random = random_u64(&seed);
        const uint32_t n_past = sc_session_n_past(p->top);
        const bool follows = p->n > 0 && random % 4 != 0;
        const size_t n = !follows && random >> 8 & 1 ? 2 + (random >> 16) % 11 : 1, n_top = counts[random >> 32 & 7];
        if (n_past + n > N_CTX || (random >> 40) % 16 == 0) {
            const uint32_t to = (uint32_t)((random >> 48) % (n_past < N_CTX - 12 ? n_past : N_CTX - 12));
            sc_session_truncate(p->top, to);
            sc_session_truncate(p->plain, to);
        }
        char what[64];
        snprintf(what, sizeof what, "%s, call %d: %zu tokens at %u for %zu", way, i, n, sc_session_n_past(p->top),
                 n_top);
        pair_eval(p, follows ? &p->candidates[0].token : &t.tokens[i % 9], n, n_top, what);
    }
}

static void test_any_calls(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p, resident);
    check_any_calls(&p, 150, "resident", 77);
    pair_finish(&p);
    pair_init(&p, (struct sc_engine_params){.cpu_experts = SC_CPU_ALL});
    check_any_calls(&p, 150, "the CPU's experts", 78);
    pair_finish(&p);
}

/* Experts come and go: uploaded when they are missing, or on both engines. */
static void test_any_calls_staged(void **state)
{
    struct pair p;
    struct sc_stats stats;
    (void)state;
    pair_init_staged(&p, PATH_DEVICE);
    check_any_calls(&p, 60, "uploads", 79);
    sc_session_stats(p.top, &stats);
    assert_true(stats.expert_hits > 0 && stats.expert_misses > 0 && stats.expert_host_runs == 0);
    pair_finish(&p);

    pair_init_staged(&p, PATH_BOTH);
    check_any_calls(&p, 60, "both engines", 80);
    sc_session_stats(p.top, &stats);
    assert_true(stats.expert_hits > 0 && stats.expert_host_runs > 0 && stats.uploaded_bytes > 0);
    pair_finish(&p);
}

static void test_wrong_counts(void **state)
{
    static const size_t cases[][2] = {{0, 1}, {1, 0}, {1, SC_MAX_CANDIDATES + 1}};
    struct pair p;
    (void)state;
    pair_init(&p, resident);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sc_error e = {0};
        p.n = cases[i][1];
        assert_false(sc_session_eval_top(p.top, t.tokens, cases[i][0], p.candidates, &p.n, &e));
        assert_int_equal(e.code, SC_INVALID_ARGUMENT);
    }
    assert_int_equal(sc_session_n_past(p.top), 0);
    pair_finish(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),           cmocka_unit_test(test_wrong_guess),  cmocka_unit_test(test_any_calls),
        cmocka_unit_test(test_any_calls_staged), cmocka_unit_test(test_wrong_counts),
    };
    return cmocka_run_group_tests(tests, make_trial, finish_trial);
}
