/* SPDX-License-Identifier: Apache-2.0 */
/* Prompts in pieces: how many are under way when the host goes on, and which of them tell how fast the device is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine.h"
#include "pace.h"
#include "trial.h"

static struct gpu *watched;
static PFN_vkWaitSemaphores real_wait;
static PFN_vkQueueSubmit real_submit;
static uint64_t waited;                        /* the last value of the compute queue that the host waited for */
static uint32_t n_copies, n_early, n_reported; /* copies submitted; those behind the first layer; progress told */

static VKAPI_ATTR VkResult VKAPI_CALL watch_wait(VkDevice d, const VkSemaphoreWaitInfo *i, uint64_t timeout)
{
    if (i->pSemaphores[0] == watched->compute.timeline && i->pValues[0] > waited)
        waited = i->pValues[0];
    return real_wait(d, i, timeout);
}

/* With a layer's experts and the next one's attention under way, copies are early. */
static VKAPI_ATTR VkResult VKAPI_CALL watch_submit(VkQueue q, uint32_t n, const VkSubmitInfo *i, VkFence fence)
{
    if (i->pSignalSemaphores[0] == watched->transfer.timeline) {
        n_copies++;
        n_early += watched->compute.submitted - waited == 2;
    }
    return real_submit(q, n, i, fence);
}

static void watch(struct gpu *gpu)
{
    watched = gpu;
    real_wait = gpu->vk.vkWaitSemaphores;
    real_submit = gpu->vk.vkQueueSubmit;
    gpu->vk.vkWaitSemaphores = watch_wait;
    gpu->vk.vkQueueSubmit = watch_submit;
    waited = gpu->compute.submitted;
    n_copies = n_early = n_reported = 0;
}

static bool count_reports(void *user, enum sc_phase phase, uint64_t done, uint64_t total)
{
    (void)user, (void)done, (void)total;
    n_reported += phase == SC_PHASE_PREFILL;
    return true;
}

/* A layer's experts are on their way while the layer before computes, not when it has. */
static void test_uploads_ahead(void **state)
{
    enum { N = 32, N_LAYERS = 6, N_EXPERTS = 4 };
    const struct model_spec spec = {
        .type = "q8_0", .d = 64, .ff = 96, .layers = N_LAYERS, .experts = N_EXPERTS, .used = 2, .n_ctx = N, .seed = 33};
    struct sc_engine_params params = {
        .n_ctx = N, .n_batch = N, .kv_type = SC_KV_F32, .cpu_experts = SC_CPU_OFF, .progress = count_reports};
    struct trial t;
    (void)state;
    trial_init(&t, "pace", &spec, N);
    struct sc_engine *engine = trial_engine(&t, params);
    const struct sc_placement *p = sc_engine_placement(engine);
    params.vram_bytes = p->minimum_bytes + 2 * N_EXPERTS * p->slot_bytes;
    sc_engine_destroy(engine);
    engine = trial_engine(&t, params);
    struct sc_session *session = trial_session(&t, engine);
    watch(engine->gpu);
    trial_eval(&t, session, N);
    if (n_copies < N_LAYERS - 2 || n_early + 1 < n_copies)
        fail_msg("of %u copies %u were early", n_copies, n_early);
    /* every piece, every expert, and the prompt */
    assert_in_range(n_reported, 2 * N_LAYERS + N_LAYERS * N_EXPERTS + 1, 3 * N_LAYERS + N_LAYERS * N_EXPERTS);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    trial_finish(&t);
}

enum { N_STREAMS = 5 };
static const double WORK = 1e6;

/* Streams of a few copied bytes that claim some work. */
static void record(struct commands *streams, struct gpu *gpu, const struct buffer *memory)
{
    struct sc_error e = {0};
    for (uint32_t i = 0; i < N_STREAMS; i++) {
        if (!commands_init(&streams[i], gpu, &e))
            fail_msg("%s", e.text);
        commands_begin(&streams[i], true);
        commands_copy(&streams[i], memory, 0, memory, 64, 64);
        commands_work(&streams[i], WORK);
        if (!commands_end(&streams[i], &e))
            fail_msg("%s", e.text);
    }
}

static PFN_vkGetSemaphoreCounterValue real_poll;
static struct {
    uint64_t value; /* what the copy waits for */
    long ns;
} signal_late;

/* The host looks whether a piece has ended, and some time later what it waits for comes about. */
static VKAPI_ATTR VkResult VKAPI_CALL signal_after_poll(VkDevice d, VkSemaphore semaphore, uint64_t *value)
{
    const struct timespec a_while = {.tv_nsec = signal_late.ns};
    const VkResult result = real_poll(d, semaphore, value);
    struct sc_error e = {0};
    if (semaphore == watched->compute.timeline) {
        nanosleep(&a_while, NULL);
        assert_true(gpu_signal(watched, signal_late.value, &e));
    }
    return result;
}

/* What a piece waits for is not its own time; what it takes by itself is. */
static void test_rate(void **state)
{
    struct sc_error e = {0};
    struct gpu *gpu = gpu_create(NULL, "", &e);
    struct buffer memory;
    struct commands streams[N_STREAMS], copy, *list[N_STREAMS], *const copies = &copy;
    struct pace pace = {.gpu = gpu};
    uint64_t value = 0;
    (void)state;
    if (!gpu || !buffer_init(gpu, &memory, MEMORY_DEVICE, 256, "a test", &e) || !commands_init_transfer(&copy, gpu, &e))
        fail_msg("%s", e.text);
    record(streams, gpu, &memory);
    for (uint32_t i = 0; i < N_STREAMS; i++)
        list[i] = &streams[i];
    watch(gpu);
    pace_begin(&pace, list, N_STREAMS, 2);
    assert_true(pace_submit(&pace, list, N_STREAMS, &value, &e));
    assert_int_equal(value - waited, 2); /* each stream a piece, since no rate is known */
    assert_true(pace_wait(&pace, &e));
    assert_int_equal(value, waited);
    assert_true(pace.rate > 0);

    /* all streams a piece, which takes 5 ms at this rate and waits for a copy */
    static const long waits_ns[] = {10000000, 150000000};
    real_poll = gpu->vk.vkGetSemaphoreCounterValue;
    gpu->vk.vkGetSemaphoreCounterValue = signal_after_poll;
    for (int i = 0; i < 2; i++) {
        struct submission blocked = {.streams = &copies, .n_streams = 1, .wait_host = gpu->host_signalled + 1};
        signal_late.value = blocked.wait_host;
        signal_late.ns = waits_ns[i];
        commands_begin(&copy, false);
        commands_copy(&copy, &memory, 0, &memory, 128, 64);
        assert_true(commands_end(&copy, &e));
        pace.rate = 1e9;
        pace.longest = 0;
        pace_begin(&pace, list, N_STREAMS, 2);
        assert_true(gpu_submit_chain(gpu, &blocked, 1, &e) && pace_submit(&pace, list, N_STREAMS, &value, &e));
        assert_int_equal(value - waited, 1);
        assert_true(pace_wait(&pace, &e));
        if ((pace.rate < 1e9) != (i == 1) || pace.longest > 0) /* long enough to be too large a piece */
            fail_msg("a wait of %ld ns: a rate of %g, %g s", waits_ns[i], pace.rate, pace.longest);
    }

    for (uint32_t i = 0; i < N_STREAMS; i++)
        commands_finish(&streams[i]);
    commands_finish(&copy);
    buffer_finish(gpu, &memory);
    gpu_destroy(gpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_uploads_ahead), cmocka_unit_test(test_rate)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
