/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Experts on both engines: single tokens whose missing experts the CPU computes give the reference's logits at every
 * budget and number of threads, equal runs give equal bits, and a failure in the middle of a token hangs nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine.h"
#include "trial.h"

enum { N_TOKENS = 32, SLOT_BYTES = 24576 };
static const struct model_spec spec = {
    .type = "q8_0", .d = 64, .ff = 96, .layers = 7, .experts = 8, .used = 2, .n_ctx = N_TOKENS, .seed = 6};
static struct trial t; /* of this spec */

static int make_trial(void **state)
{
    (void)state;
    trial_init(&t, "host_experts", &spec, N_TOKENS);
    return 0;
}

static int finish_trial(void **state)
{
    (void)state;
    trial_finish(&t);
    return 0;
}

enum { N_BATCH = 8 };

/* An engine that takes this path, whatever is faster here. */
static struct sc_engine *engine_of(uint64_t vram_bytes, enum expert_path path, uint32_t n_threads)
{
    struct sc_engine *engine =
        trial_engine(&t, (struct sc_engine_params){.n_ctx = N_TOKENS,
                                                   .n_batch = N_BATCH,
                                                   .kv_type = SC_KV_F32,
                                                   .vram_bytes = vram_bytes,
                                                   .cpu_experts = path == PATH_DEVICE ? SC_CPU_OFF : SC_CPU_ALL,
                                                   .n_threads = n_threads});
    engine->path = path;
    engine->n_host_tokens = path == PATH_DEVICE ? 0 : N_BATCH;
    return engine;
}

static uint64_t budget_with(uint32_t more_slots)
{
    struct sc_engine *engine = engine_of(0, PATH_DEVICE, 0);
    const uint64_t least = sc_engine_placement(engine)->minimum_bytes;
    assert_true(sc_engine_placement(engine)->slot_bytes <= SLOT_BYTES);
    sc_engine_destroy(engine);
    return least + (uint64_t)more_slots * SLOT_BYTES;
}

static struct sc_stats stats_of(const struct sc_session *session)
{
    struct sc_stats stats;
    sc_session_stats(session, &stats);
    return stats;
}

/* Every choice of the routers is counted once: found in a slot, or computed by the CPU. */
static void test_budgets(void **state)
{
    (void)state;
    static const uint32_t more_slots[] = {0, 2, 7, 15};
    for (size_t i = 0; i < sizeof more_slots / sizeof more_slots[0]; i++) {
        struct sc_engine *engine = engine_of(budget_with(more_slots[i]), PATH_BOTH, 2);
        struct sc_session *session = trial_session(&t, engine);
        trial_decode(&t, session, N_TOKENS);
        const struct sc_stats s = stats_of(session);
        const uint64_t n_choices = (uint64_t)N_TOKENS * spec.layers * spec.used;
        assert_int_equal(s.expert_hits + s.expert_misses, n_choices);
        assert_int_equal(s.expert_host_runs, s.expert_misses);
        assert_true(s.expert_misses > 0 && s.host_seconds > 0);
        assert_true(more_slots[i] < 2 || s.expert_hits > 0); /* what was missed has been promoted */
        sc_session_destroy(session);
        sc_engine_destroy(engine);
    }
}

/* Batches of all sizes up to the micro-batch, of which each expert has none, one or several tokens. */
static void test_batches(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {2, 3, 1, 8, 5, 13};
    for (uint32_t more_slots = 0; more_slots <= 12; more_slots += 6) {
        struct sc_engine *engine = engine_of(budget_with(more_slots), PATH_BOTH, 2);
        struct sc_session *session = trial_session(&t, engine);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            trial_eval(&t, session, sizes[i]);
        const struct sc_stats s = stats_of(session);
        assert_int_equal(s.expert_host_runs, s.expert_misses);
        assert_true(s.expert_misses > 0 && (more_slots == 0 || s.expert_hits > 0));
        sc_session_destroy(session);
        sc_engine_destroy(engine);
    }
}

/* A long prompt goes the other way, and leaves its experts in the slots. */
static void test_after_prompt(void **state)
{
    (void)state;
    struct sc_engine *engine = engine_of(budget_with(9), PATH_BOTH, 1);
    engine->n_host_tokens = 1;
    struct sc_session *session = trial_session(&t, engine);
    trial_eval(&t, session, 20);
    assert_int_equal(stats_of(session).expert_host_runs, 0);
    trial_decode(&t, session, 6);
    trial_eval(&t, session, N_TOKENS - 26);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
}

static void run(uint32_t n_threads, enum expert_path path)
{
    struct sc_engine *engine = engine_of(budget_with(7), path, n_threads);
    struct sc_session *session = trial_session(&t, engine);
    trial_eval(&t, session, 10);
    trial_decode(&t, session, N_TOKENS - 10);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
}

static void test_equal_bits(void **state)
{
    (void)state;
    const size_t size_bytes = t.n_tokens * t.n_vocab * sizeof *t.got;
    float *first = malloc(size_bytes);
    assert_non_null(first);
    run(1, PATH_BOTH);
    memcpy(first, t.got, size_bytes);
    for (uint32_t n_threads = 1; n_threads <= 3; n_threads++) {
        run(n_threads, PATH_BOTH);
        assert_memory_equal(t.got, first, size_bytes);
    }
    free(first);
}

static void test_off(void **state)
{
    (void)state;
    struct sc_engine *engine = engine_of(budget_with(7), PATH_DEVICE, 0);
    struct sc_session *session = trial_session(&t, engine);
    trial_decode(&t, session, N_TOKENS);
    const struct sc_stats s = stats_of(session);
    assert_int_equal(s.expert_host_runs, 0);
    assert_true(s.uploaded_bytes > 0);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
}

/* The CPU computes every expert, whether there are slots for none or all of them; long prompts still use the slots. */
static void test_all(void **state)
{
    (void)state;
    for (int resident = 0; resident < 2; resident++) {
        struct sc_engine *engine = engine_of(resident ? 0 : budget_with(3), PATH_HOST, 2);
        engine->n_host_tokens = 2;
        assert_int_equal(experts_fit(&engine->model.experts), resident);
        struct sc_session *session = trial_session(&t, engine);
        trial_decode(&t, session, 6);
        trial_eval(&t, session, 2);
        const struct sc_stats s = stats_of(session);
        assert_true(s.expert_hits == 0 && s.expert_host_runs > 0);
        trial_eval(&t, session, 11);
        assert_int_equal(stats_of(session).expert_host_runs, s.expert_host_runs);
        trial_decode(&t, session, N_TOKENS - 19);
        sc_session_destroy(session);
        sc_engine_destroy(engine);
    }
}

static PFN_vkWaitSemaphores real_wait;
static uint32_t waits_left;

static VKAPI_ATTR VkResult VKAPI_CALL failing_wait(VkDevice device, const VkSemaphoreWaitInfo *info, uint64_t timeout)
{
    return waits_left-- == 0 ? VK_ERROR_DEVICE_LOST : real_wait(device, info, timeout);
}

/* The chain of a token waits for the host at every layer: a token that fails must let it go, and the next one works. */
static void test_failure_inside_token(void **state)
{
    (void)state;
    struct sc_engine *engine = engine_of(budget_with(7), PATH_BOTH, 2);
    struct sc_session *session = trial_session(&t, engine);
    trial_decode(&t, session, 2);
    real_wait = engine->gpu->vk.vkWaitSemaphores;
    for (uint32_t n = 0; n < 4; n++) {
        struct sc_error e = {0};
        engine->gpu->vk.vkWaitSemaphores = failing_wait;
        waits_left = n;
        assert_false(sc_session_eval(session, &t.tokens[2], 1, t.got, 1, &e));
        assert_int_equal(e.code, SC_DEVICE_LOST);
        assert_int_equal(sc_session_n_past(session), 2);
        engine->gpu->vk.vkWaitSemaphores = real_wait;
    }
    trial_decode(&t, session, N_TOKENS - 2);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_after_prompt),
        cmocka_unit_test(test_equal_bits),
        cmocka_unit_test(test_off),
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_failure_inside_token),
    };
    return cmocka_run_group_tests(tests, make_trial, finish_trial);
}
