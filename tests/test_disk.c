/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole models whose experts do not fit into RAM: the reference's logits at every --ram, and a disk that fails or a
 * file that shrinks in the middle of a token ends that token with one sentence and nothing else. Linked with
 * --wrap=pread.
 */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine.h"
#include "guard.h"
#include "ram_pool.h"
#include "trial.h"

static atomic_long reads_left = LONG_MAX; /* before all fail */

ssize_t __real_pread(int fd, void *to, size_t size_bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *to, size_t size_bytes, off_t offset);

ssize_t __wrap_pread(int fd, void *to, size_t size_bytes, off_t offset)
{
    if (atomic_fetch_sub(&reads_left, 1) <= 0) {
        errno = EIO;
        return -1;
    }
    return __real_pread(fd, to, size_bytes, offset);
}

enum { N_TOKENS = 24, N_PROMPT = 12 };
static const struct model_spec spec = {
    .type = "q8_0", .d = 64, .ff = 96, .layers = 3, .experts = 8, .used = 2, .n_ctx = N_TOKENS, .seed = 21};
static struct trial t;

static int make_trial(void **state)
{
    (void)state;
    trial_init(&t, "disk", &spec, N_TOKENS);
    return 0;
}

static int finish_trial(void **state)
{
    (void)state;
    trial_finish(&t);
    return 0;
}

/* With a few slots on the device and room for n_ram_slots experts in RAM; 0: mapped. */
static struct sc_engine *engine_of(const struct trial *model, uint32_t n_ram_slots, enum sc_cpu_experts cpu_experts)
{
    struct sc_engine_params params = {
        .n_ctx = N_TOKENS, .n_batch = 8, .kv_type = SC_KV_F32, .cpu_experts = cpu_experts};
    struct sc_engine *engine = trial_engine(model, params);
    params.vram_bytes = sc_engine_placement(engine)->minimum_bytes + 2 * sc_engine_placement(engine)->slot_bytes;
    params.ram_bytes = n_ram_slots * ram_pool_slot_bytes(&engine->weights, &engine->config);
    sc_engine_destroy(engine);
    engine = trial_engine(model, params);
    assert_int_equal(sc_engine_placement(engine)->n_ram_slots, n_ram_slots);
    return engine;
}

static void test_budgets(void **state)
{
    (void)state;
    static const uint32_t n_ram_slots[] = {4, 5, 11, 24};
    for (size_t i = 0; i < 2 * sizeof n_ram_slots / sizeof n_ram_slots[0]; i++) {
        struct sc_engine *engine = engine_of(&t, n_ram_slots[i / 2], i % 2 ? SC_CPU_ON : SC_CPU_OFF);
        struct sc_session *session = trial_session(&t, engine);
        struct sc_stats stats;
        trial_eval(&t, session, N_PROMPT);
        trial_decode(&t, session, N_TOKENS - N_PROMPT);
        sc_session_stats(session, &stats);
        assert_true(stats.disk_bytes > 0 && stats.disk_seconds > 0);
        sc_session_destroy(session);
        sc_engine_destroy(engine);
    }
}

/* The disk fails from the nth read of a prompt or a token on, and recovers: then the same tokens give the right answer.
 */
static void check_failing_reads(struct sc_session *session, size_t n_past, size_t n)
{
    bool failed = true;
    long nth, n_failures = 0;
    for (nth = 0; failed; nth += 1 + nth / 4) {
        struct sc_error e = {0};
        sc_session_truncate(session, 0);
        trial_eval(&t, session, n_past);
        atomic_store(&reads_left, nth);
        const bool ok = sc_session_eval(session, t.tokens + n_past, n, t.got, n, &e);
        failed = atomic_exchange(&reads_left, LONG_MAX) < 0;
        /* what failed may have been read ahead, for nobody: then all is well */
        if ((!ok && !failed) || (!ok && (e.code != SC_IO || !strstr(e.text, "cannot be read: Input/output error"))))
            fail_msg("%zu tokens, read %ld: ok %d, code %d, \"%s\"", n, nth, ok, e.code, e.text);
        assert_int_equal(sc_session_n_past(session), ok ? n_past + n : n_past);
        sc_session_truncate(session, (uint32_t)n_past);
        trial_eval(&t, session, n);
        n_failures += !ok;
    }
    assert_true(n_failures > 0);
}

static void test_failing_reads(void **state)
{
    (void)state;
    for (int on_cpu = 0; on_cpu < 2; on_cpu++) {
        struct sc_engine *engine = engine_of(&t, 5, on_cpu ? SC_CPU_ON : SC_CPU_OFF);
        struct sc_session *session = trial_session(&t, engine);
        check_failing_reads(session, 2, N_PROMPT);
        check_failing_reads(session, N_PROMPT, 1);
        sc_session_destroy(session);
        sc_engine_destroy(engine);
    }
}

/* cmocka sets its own handlers for each test: ours is the one that the first guard installed, before any test ran. */
static struct sigaction ours;

static void check_shrinking(uint32_t n_ram_slots, const char *sentence)
{
    struct trial model;
    struct sc_error e = {0};
    sigaction(SIGBUS, &ours, NULL);
    trial_init(&model, "shrinking", &spec, N_TOKENS);
    struct sc_engine *engine = engine_of(&model, n_ram_slots, SC_CPU_ON);
    struct sc_session *session = trial_session(&model, engine);
    trial_decode(&model, session, 2);
    assert_int_equal(truncate(model.path, (off_t)engine->weights.layers[0].experts[0].gate.offset), 0);
    bool ok = true;
    for (uint32_t i = 2; i < N_TOKENS && ok; i++)
        ok = sc_session_eval(session, model.tokens + i, 1, model.got, 1, &e);
    const uint32_t n_past = sc_session_n_past(session);
    if (ok || e.code != SC_IO || !strstr(e.text, sentence) || !strstr(e.text, model.path))
        fail_msg("%u slots: %d, \"%s\"", n_ram_slots, ok, e.text);
    e = (struct sc_error){0};
    assert_false(sc_session_eval(session, model.tokens + n_past, N_TOKENS - n_past, model.got, 1, &e));
    assert_int_equal(sc_session_n_past(session), n_past);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    trial_finish(&model);
}

static void test_shrinking_file(void **state)
{
    (void)state;
    check_shrinking(0, "was truncated or could not be read while it was in use");
    check_shrinking(4, "was truncated while it was in use: tensor blk.");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_failing_reads),
        cmocka_unit_test(test_shrinking_file),
    };
    guard_remove(guard_add(tests, 1));
    sigaction(SIGBUS, NULL, &ours);
    return cmocka_run_group_tests(tests, make_trial, finish_trial);
}
