/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions whose experts do not fit are interrupted: cancelled at every call of progress, and without a device from any
 * call of Vulkan on. One sentence each time; the sequence stays what it was, and goes on right.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine.h"
#include "trial.h"

enum { N_BATCH = 16, N_BEFORE = 3, N_PROMPT = 24, N_TOKENS = N_BEFORE + N_PROMPT + 1, N_EXPERTS = 4 };
static const struct model_spec spec = {.type = "q8_0",
                                       .d = 64,
                                       .ff = 96,
                                       .layers = 3,
                                       .experts = N_EXPERTS,
                                       .used = 2,
                                       .vocab = 259,
                                       .n_ctx = N_TOKENS,
                                       .seed = 41};
static struct trial t;

/* Two layers' experts in slots, a layer in waves, and both engines also for prompts. */
static const struct way {
    const char *name;
    enum expert_path path;
    uint32_t more_slots;
} ways[] = {{"ahead", PATH_DEVICE, 2 * N_EXPERTS}, {"waves", PATH_DEVICE, 0}, {"both", PATH_BOTH, 3}};
enum { N_WAYS = sizeof ways / sizeof ways[0] };

static long calls_left = -1; /* of progress, then it cancels; -1: never */

static bool on_progress(void *user, enum sc_phase phase, uint64_t done, uint64_t total)
{
    (void)user, (void)done, (void)total;
    return phase != SC_PHASE_PREFILL || calls_left < 0 || calls_left-- > 0;
}

/* The device is lost at the call with this number, and stays so; -1: never. */
static long lost_at = -1, n_calls;
static PFN_vkQueueSubmit real_submit;
static PFN_vkWaitSemaphores real_wait;

static bool is_lost(void)
{
    return lost_at >= 0 && n_calls++ >= lost_at;
}

static VKAPI_ATTR VkResult VKAPI_CALL losing_submit(VkQueue q, uint32_t n, const VkSubmitInfo *i, VkFence fence)
{
    return is_lost() ? VK_ERROR_DEVICE_LOST : real_submit(q, n, i, fence);
}

static VKAPI_ATTR VkResult VKAPI_CALL losing_wait(VkDevice d, const VkSemaphoreWaitInfo *i, uint64_t timeout)
{
    return is_lost() ? VK_ERROR_DEVICE_LOST : real_wait(d, i, timeout);
}

static int make_trial(void **state)
{
    (void)state;
    trial_init(&t, "interrupted", &spec, N_TOKENS);
    return 0;
}

static int finish_trial(void **state)
{
    (void)state;
    trial_finish(&t);
    return 0;
}

static struct sc_engine *engine_of(const struct way *way)
{
    struct sc_engine_params params = {.n_ctx = N_TOKENS,
                                      .n_batch = N_BATCH,
                                      .kv_type = SC_KV_F32,
                                      .cpu_experts = way->path == PATH_DEVICE ? SC_CPU_OFF : SC_CPU_ALL,
                                      .no_hot_set = true,
                                      .progress = on_progress};
    struct sc_engine *engine = trial_engine(&t, params);
    const struct sc_placement *p = sc_engine_placement(engine);
    params.vram_bytes = p->minimum_bytes + way->more_slots * p->slot_bytes;
    sc_engine_destroy(engine);
    engine = trial_engine(&t, params);
    engine->path = way->path;
    real_submit = engine->gpu->vk.vkQueueSubmit;
    real_wait = engine->gpu->vk.vkWaitSemaphores;
    engine->gpu->vk.vkQueueSubmit = losing_submit;
    engine->gpu->vk.vkWaitSemaphores = losing_wait;
    return engine;
}

static bool fails(struct sc_session *session, size_t n, enum sc_code code, const char *what, long nth)
{
    struct sc_error e = {0};
    const uint32_t n_past = sc_session_n_past(session);
    if (sc_session_eval(session, t.tokens + n_past, n, t.got, 1, &e))
        return false;
    if (e.code != code || strlen(e.text) < 10 || strchr(e.text, '\n') || sc_session_n_past(session) != n_past)
        fail_msg("%s, %ld: code %d, \"%s\", %u tokens", what, nth, e.code, e.text, sc_session_n_past(session));
    return true;
}

/* What was interrupted, again, and a token behind it. */
static void go_on(struct sc_session *session)
{
    sc_session_truncate(session, N_BEFORE);
    trial_eval(&t, session, N_PROMPT);
    trial_decode(&t, session, 1);
    sc_session_truncate(session, N_BEFORE);
}

static void test_cancelled(void **state)
{
    (void)state;
    for (size_t w = 0; w < N_WAYS; w++) {
        struct sc_engine *engine = engine_of(&ways[w]);
        struct sc_session *session = trial_session(&t, engine);
        trial_eval(&t, session, N_BEFORE);
        long nth = 0;
        for (bool failed = true; failed; nth++) {
            calls_left = nth;
            failed = fails(session, N_PROMPT, SC_CANCELLED, ways[w].name, nth);
            calls_left = -1;
            assert_int_equal(engine->model.experts.policy.n_empty, 0); /* what has come stays */
            go_on(session);
        }
        assert_true(nth > 5); /* there are as many pieces */
        sc_session_destroy(session);
        sc_engine_destroy(engine);
    }
}

/* From then on every call fails, whatever is asked; would the device come back, all would be as before. */
static void test_lost(void **state)
{
    (void)state;
    for (size_t w = 0; w < N_WAYS; w++) {
        struct sc_engine *engine = engine_of(&ways[w]);
        struct sc_session *session = trial_session(&t, engine);
        trial_eval(&t, session, N_BEFORE);
        long nth = 0;
        for (bool failed = true; failed; nth++) {
            n_calls = 0;
            lost_at = nth;
            failed = fails(session, N_PROMPT, SC_DEVICE_LOST, ways[w].name, nth);
            if (failed)
                assert_true(fails(session, N_PROMPT, SC_DEVICE_LOST, ways[w].name, nth) &&
                            fails(session, 1, SC_DEVICE_LOST, ways[w].name, nth));
            lost_at = -1;
            go_on(session);
        }
        assert_true(nth > 10);
        sc_session_destroy(session);
        sc_engine_destroy(engine);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cancelled), cmocka_unit_test(test_lost)};
    return cmocka_run_group_tests(tests, make_trial, finish_trial);
}
