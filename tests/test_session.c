/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What scoria.h promises of engines and sessions: the same answer at every budget, failures that leave the sequence as
 * it was, cancelling, several sessions, equal bits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine.h"
#include "placement.h"
#include "trial.h"

enum { N_TOKENS = 40, N_BATCH = 32 };
static const struct model_spec spec = {
    .type = "q8_0", .d = 64, .ff = 96, .experts = 8, .used = 2, .n_ctx = N_TOKENS, .seed = 5};
static const struct sc_engine_params defaults = {.n_ctx = N_TOKENS,
                                                 .n_batch = N_BATCH,
                                                 .kv_type = SC_KV_F32,
                                                 .cpu_experts = SC_CPU_OFF}; /* test_host_experts has the other way */
static struct trial t;                                                       /* of this spec */

static int make_trial(void **state)
{
    (void)state;
    trial_init(&t, "session", &spec, N_TOKENS);
    return 0;
}

static int finish_trial(void **state)
{
    (void)state;
    trial_finish(&t);
    return 0;
}

static struct sc_engine *engine_of(uint64_t vram_bytes)
{
    struct sc_engine_params params = defaults;
    params.vram_bytes = vram_bytes;
    return trial_engine(&t, params);
}

static uint64_t minimum_bytes(void)
{
    struct sc_engine *engine = engine_of(0);
    const uint64_t bytes = sc_engine_placement(engine)->minimum_bytes;
    sc_engine_destroy(engine);
    return bytes;
}

static void finish(struct sc_session *session, struct sc_engine *engine)
{
    sc_session_destroy(session);
    sc_engine_destroy(engine);
}

static struct sc_stats stats_of(const struct sc_session *session)
{
    struct sc_stats stats;
    sc_session_stats(session, &stats);
    return stats;
}

/* From the fewest slots, with which a prompt's layer takes four waves of experts, to all of them. */
static void test_budgets(void **state)
{
    (void)state;
    const uint64_t least = minimum_bytes();
    static const uint32_t more_slots[] = {0, 1, 3, 6, 10, 100};
    uint32_t n_slots_before = 0;
    for (size_t i = 0; i < sizeof more_slots / sizeof more_slots[0]; i++) {
        const uint64_t slot_bytes = 24576, budget = least + more_slots[i] * slot_bytes;
        struct sc_engine *engine = engine_of(budget);
        const struct sc_placement *p = sc_engine_placement(engine);
        assert_true(p->slot_bytes <= slot_bytes);
        assert_true(p->n_slots > n_slots_before || p->n_slots == p->n_experts_total);
        assert_int_equal(p->minimum_bytes, least);
        assert_true(p->dense_bytes + p->expert_bytes + p->kv_bytes + p->activation_bytes + p->staging_bytes <= budget);
        if (i == 0)
            assert_int_equal(p->n_slots, spec.used);
        n_slots_before = p->n_slots;

        struct sc_session *session = trial_session(&t, engine);
        trial_eval(&t, session, N_TOKENS);
        sc_session_truncate(session, 30);
        trial_decode(&t, session, 10);
        sc_session_truncate(session, 3);
        trial_eval(&t, session, 17);
        const bool resident = p->n_slots == p->n_experts_total;
        const struct sc_stats stats = stats_of(session);
        assert_int_equal(stats.expert_misses > 0, !resident);
        assert_int_equal(stats.uploaded_bytes > 0, !resident);
        assert_true(engine->gpu->allocated_bytes <= budget);
        finish(session, engine);
    }
    assert_int_equal(n_slots_before, 16);
}

/* A larger micro-batch costs slots; it never outgrows the context, the wish, or an eighth of the budget. */
static void test_larger_batch(void **state)
{
    (void)state;
    struct sc_engine *engine = engine_of(0);
    const uint64_t least = minimum_bytes();
    for (uint64_t budget = least; budget < 4 * least; budget += least / 4)
        for (double wanted = 0; wanted < 100; wanted += 24) {
            struct sc_engine_params params = engine->params;
            struct sc_placement before, after;
            struct sc_error e = {0};
            params.n_batch = 4;
            assert_true(
                placement_make(&before, &params, &engine->weights, &engine->config, budget, &engine->gpu->info, &e));
            after = before;
            placement_enlarge_batch(&after, &params, &engine->weights, &engine->config, &engine->gpu->info, wanted);
            assert_true(params.n_batch == 4 || params.n_batch <= wanted);
            assert_true(params.n_batch <= N_TOKENS);
            assert_true(after.n_slots <= before.n_slots && placement_used_bytes(&after) <= budget);
            assert_true(params.n_batch == 4 || after.activation_bytes <= budget / 8);
            assert_true(params.n_batch == 32 || wanted < 32 || budget < 2 * least);

            params.n_batch = 0;
            params.max_batch = 9;
            assert_true(
                placement_make(&after, &params, &engine->weights, &engine->config, budget, &engine->gpu->info, &e));
            placement_enlarge_batch(&after, &params, &engine->weights, &engine->config, &engine->gpu->info, wanted);
            assert_true(params.n_batch > 0 && params.n_batch <= 9);
        }
    sc_engine_destroy(engine);
}

/* Experts that the upload ring, 1 MiB at the least budget, cannot take at once: its halves are filled again and again.
 */
static void test_large_experts(void **state)
{
    (void)state;
    struct trial large;
    trial_init(&large, "large experts", &(struct model_spec){.type = "f32", .d = 128, .ff = 512, .seed = 6}, 10);
    struct sc_engine_params params = {.n_ctx = 10, .kv_type = SC_KV_F32};
    struct sc_engine *engine = trial_engine(&large, params);
    const struct sc_placement p = *sc_engine_placement(engine);
    sc_engine_destroy(engine);
    params.vram_bytes = p.minimum_bytes;
    engine = trial_engine(&large, params);
    assert_true(sc_engine_placement(engine)->ring_bytes / 2 < p.slot_bytes);
    struct sc_session *session = trial_session(&large, engine);
    trial_eval(&large, session, 8);
    trial_decode(&large, session, 2);
    finish(session, engine);
    trial_finish(&large);
}

static void check_too_small(struct sc_engine_params params)
{
    struct sc_error e = {0};
    params.model_path = t.path;
    params.cache_dir = "";
    if (sc_engine_create(&params, &e))
        fail_msg("%zu bytes are enough", (size_t)params.vram_bytes);
    unsigned long long mib = 0;
    const char *named = strstr(e.text, "at least ");
    assert_int_equal(e.code, SC_OUT_OF_DEVICE_MEMORY);
    if (!named || sscanf(named, "at least %llu MiB", &mib) != 1)
        fail_msg("no minimum in \"%s\"", e.text);

    /* what the sentence names is enough, and a mebibyte less is not */
    params.vram_bytes = mib << 20;
    sc_engine_destroy(trial_engine(&t, params));
    params.vram_bytes = (mib - 1) << 20;
    e = (struct sc_error){0};
    assert_null(sc_engine_create(&params, &e));
}

static void test_budget_too_small(void **state)
{
    (void)state;
    struct sc_engine_params params = defaults;
    params.vram_bytes = minimum_bytes() - 1;
    check_too_small(params);
    params.vram_bytes = 1;
    params.n_batch = 0; /* for Scoria to choose */
    check_too_small(params);
}

static void test_equal_bits(void **state)
{
    (void)state;
    const uint64_t budgets[] = {0, minimum_bytes()};
    for (size_t b = 0; b < 2; b++) {
        float *first = NULL;
        for (int run = 0; run < 3; run++) {
            struct sc_engine *engine = engine_of(budgets[b]);
            struct sc_session *session = trial_session(&t, engine);
            if (run == 2) { /* what was there before must not matter */
                trial_eval(&t, session, 5);
                sc_session_truncate(session, 0);
            }
            trial_eval(&t, session, 37);
            trial_decode(&t, session, 3);
            finish(session, engine);
            const size_t bytes = (size_t)N_TOKENS * t.n_vocab * sizeof *first;
            if (!first) {
                first = malloc(bytes);
                assert_non_null(first);
                memcpy(first, t.got, bytes);
            }
            assert_memory_equal(first, t.got, bytes);
        }
        free(first);
    }
}

static void check_failure(struct sc_session *session, const sc_token *tokens, size_t n, size_t n_logits,
                          enum sc_code code, const char *part, const char *other_part)
{
    struct sc_error e = {0};
    const uint32_t n_past = sc_session_n_past(session);
    float *logits = calloc(n_logits + 1, t.n_vocab * sizeof *logits);
    assert_non_null(logits);
    assert_false(sc_session_eval(session, tokens, n, logits, n_logits, &e));
    assert_int_equal(e.code, code);
    if (!strstr(e.text, part) || !strstr(e.text, other_part))
        fail_msg("\"%s\" names neither %s nor %s", e.text, part, other_part);
    assert_int_equal(sc_session_n_past(session), n_past);
    free(logits);
}

static void test_wrong_tokens(void **state)
{
    (void)state;
    struct sc_error e = {0};
    struct sc_engine *engine = engine_of(0);
    struct sc_session *session = trial_session(&t, engine);
    trial_eval(&t, session, 20);
    check_failure(session, (sc_token[]){5, -1}, 2, 2, SC_INVALID_ARGUMENT, "-1", "320");
    check_failure(session, (sc_token[]){5, 6, 320}, 3, 1, SC_INVALID_ARGUMENT, "320", "token");
    check_failure(session, (sc_token[]){5}, 1, 2, SC_INVALID_ARGUMENT, "1", "2");
    check_failure(session, t.tokens, 21, 1, SC_CONTEXT_FULL, "21", "40");
    assert_true(sc_session_eval(session, NULL, 0, NULL, 0, &e));
    trial_eval(&t, session, 20);
    check_failure(session, t.tokens, 1, 1, SC_CONTEXT_FULL, "1 token", "40");
    sc_session_truncate(session, 41);
    assert_int_equal(sc_session_n_past(session), 40);
    sc_session_truncate(session, 39);
    trial_decode(&t, session, 1);
    finish(session, engine);
}

/* Only some of the logits, the rest of the array left alone. */
static void test_some_logits(void **state)
{
    (void)state;
    struct sc_error e = {0};
    struct sc_engine *engine = engine_of(0);
    struct sc_session *session = trial_session(&t, engine);
    static const size_t counts[] = {0, 1, 7, 8, 9, 33, 40};
    const float poison = -12345.678f;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        const size_t n = counts[i], n_floats = n * t.n_vocab;
        sc_session_truncate(session, 0);
        float *logits = malloc((n_floats + 1) * sizeof *logits);
        assert_non_null(logits);
        logits[n_floats] = poison;
        if (!sc_session_eval(session, t.tokens, N_TOKENS, logits, n, &e))
            fail_msg("%s", e.text);
        const struct difference d =
            logits_compare(t.want + (N_TOKENS - n) * t.n_vocab, logits, n, t.n_vocab, t.bound.margin);
        assert_true(d.worst_kl <= t.bound.kl && d.n_wrong == 0);
        assert_memory_equal(&logits[n_floats], &poison, sizeof poison);
        free(logits);
    }
    /* a token without logits is in the sequence nevertheless */
    sc_session_truncate(session, 10);
    assert_true(sc_session_eval(session, t.tokens + 10, 1, NULL, 0, &e));
    trial_decode(&t, session, 2);
    finish(session, engine);
}

struct canceller {
    enum sc_phase phase;
    int calls_left; /* of this phase; -1: never cancels */
    uint64_t done, total;
};

static bool on_progress(void *user, enum sc_phase phase, uint64_t done, uint64_t total)
{
    struct canceller *c = user;
    assert_true(done <= total);
    if (phase != c->phase)
        return true;
    assert_true(done >= c->done || c->done == c->total);
    c->done = done;
    c->total = total;
    return c->calls_left < 0 || c->calls_left-- > 0;
}

static void test_cancel(void **state)
{
    (void)state;
    struct canceller c = {.phase = SC_PHASE_LOAD, .calls_left = 3};
    struct sc_error e = {0};
    struct sc_engine_params params = defaults;
    params.model_path = t.path;
    params.cache_dir = "";
    params.progress = on_progress;
    params.user = &c;
    assert_null(sc_engine_create(&params, &e));
    assert_int_equal(e.code, SC_CANCELLED);

    c = (struct canceller){.phase = SC_PHASE_LOAD, .calls_left = -1};
    struct sc_engine *engine = trial_engine(&t, params);
    assert_true(c.done == c.total && c.total > 0);
    c = (struct canceller){.phase = SC_PHASE_COMPILE, .calls_left = 1};
    e = (struct sc_error){0};
    assert_null(sc_session_create(engine, &e));
    assert_int_equal(e.code, SC_CANCELLED);

    /* between any two pieces: the sequence stays what it was, and goes on right */
    for (int calls = 0; calls < 4; calls++) {
        c = (struct canceller){.phase = SC_PHASE_COMPILE, .calls_left = -1};
        struct sc_session *session = trial_session(&t, engine);
        c = (struct canceller){.phase = SC_PHASE_PREFILL, .calls_left = calls};
        check_failure(session, t.tokens, N_TOKENS, 2, SC_CANCELLED, "cancelled", "");
        trial_decode(&t, session, 1);
        c = (struct canceller){.phase = SC_PHASE_PREFILL, .calls_left = -1};
        trial_eval(&t, session, N_TOKENS - 1);
        assert_true(c.done == c.total && c.total == N_TOKENS - 1);
        sc_session_destroy(session);
    }
    sc_engine_destroy(engine);
}

/* Two sequences in turn; and where the budget leaves no room for a second one, an error that leaves the first alone. */
static void test_two_sessions(void **state)
{
    (void)state;
    struct sc_engine *engine = engine_of(0);
    struct sc_session *a = trial_session(&t, engine), *b = trial_session(&t, engine);
    trial_eval(&t, a, 20);
    trial_eval(&t, b, 33);
    trial_decode(&t, a, 2);
    trial_decode(&t, b, 2);
    sc_session_destroy(b);
    trial_eval(&t, a, 18);
    finish(a, engine);

    struct sc_error e = {0};
    engine = engine_of(minimum_bytes());
    a = trial_session(&t, engine);
    const uint64_t allocated = engine->gpu->allocated_bytes;
    assert_null(sc_session_create(engine, &e));
    assert_int_equal(e.code, SC_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(engine->gpu->allocated_bytes, allocated);
    trial_eval(&t, a, 33);
    trial_decode(&t, a, 2);
    sc_session_destroy(a);
    a = trial_session(&t, engine);
    trial_eval(&t, a, 20);
    finish(a, engine);
}

static void test_stats(void **state)
{
    (void)state;
    struct sc_engine *engine = engine_of(minimum_bytes());
    struct sc_session *session = trial_session(&t, engine);
    trial_eval(&t, session, 1);
    struct sc_stats stats = stats_of(session);
    assert_int_equal(stats.n_decode_tokens, 1);
    assert_int_equal(stats.n_prefill_tokens, 0);
    assert_int_equal(stats.expert_hits + stats.expert_misses, 2 * spec.used);
    assert_true(stats.decode_seconds > 0 && stats.wait_seconds > 0 && stats.n_submits > 0);
    assert_true(stats.n_dispatches > 12 && stats.n_barriers > 10 && stats.n_barriers <= stats.n_dispatches);

    sc_session_reset_stats(session);
    trial_eval(&t, session, 39);
    stats = stats_of(session);
    assert_int_equal(stats.n_decode_tokens, 0);
    assert_int_equal(stats.n_prefill_tokens, 39);
    assert_true(stats.expert_misses >= 2 * 8 - 2 * spec.used); /* nearly all experts of 2 layers come and go */
    assert_int_equal(stats.uploaded_bytes % stats.expert_misses, 0);
    sc_session_reset_stats(session);
    stats = stats_of(session);
    assert_true(stats.n_submits == 0 && stats.expert_hits == 0 && stats.wait_seconds == 0);
    finish(session, engine);
}

static void check_no_engine(struct sc_engine_params params, enum sc_code code, const char *part)
{
    struct sc_error e = {0};
    assert_null(sc_engine_create(&params, &e));
    assert_int_equal(e.code, code);
    if (!strstr(e.text, part))
        fail_msg("\"%s\" lacks \"%s\"", e.text, part);
}

static void test_wrong_params(void **state)
{
    (void)state;
    check_no_engine((struct sc_engine_params){0}, SC_INVALID_ARGUMENT, "model");
    check_no_engine((struct sc_engine_params){.model_path = "no/such.gguf"}, SC_IO, "no/such.gguf");
    check_no_engine((struct sc_engine_params){.model_path = t.path, .n_ctx = N_TOKENS + 1}, SC_INVALID_ARGUMENT, "41");
    check_no_engine((struct sc_engine_params){.model_path = t.path, .kv_type = (enum sc_kv_type)3}, SC_INVALID_ARGUMENT,
                    "type 3");
    check_no_engine((struct sc_engine_params){.model_path = t.path, .kv_type = SC_KV_Q8_0}, SC_UNSUPPORTED,
                    "heads of a multiple of 32");
    check_no_engine((struct sc_engine_params){.model_path = t.path, .device = "abacus"}, SC_NO_DEVICE, "abacus");
    check_no_engine((struct sc_engine_params){.model_path = t.path, .device = "99"}, SC_NO_DEVICE, "99");
    sc_engine_destroy(NULL);
    sc_session_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),       cmocka_unit_test(test_larger_batch),
        cmocka_unit_test(test_large_experts), cmocka_unit_test(test_budget_too_small),
        cmocka_unit_test(test_equal_bits),    cmocka_unit_test(test_wrong_tokens),
        cmocka_unit_test(test_some_logits),   cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_two_sessions),  cmocka_unit_test(test_stats),
        cmocka_unit_test(test_wrong_params),
    };
    return cmocka_run_group_tests(tests, make_trial, finish_trial);
}
