/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache of experts in real runs. What the policy learned survives a restart: the logits stay right and repeatable,
 * the first tokens find their experts, and a file that is damaged, forged, of another model or cannot be written does
 * no harm. A prompt leaves the decode set in its slots. What the routers chose can be traced.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "bytes.h"
#include "engine.h"
#include "replay.h"
#include "trial.h"

enum { N_TOKENS = 24, N_BATCH = 8, SLOT_BYTES = 24576, N_SLOTS_MORE = 7 };
static const struct model_spec spec = {
    .type = "q8_0", .d = 64, .ff = 96, .layers = 3, .experts = 8, .used = 2, .n_ctx = N_TOKENS, .seed = 6};
static struct trial t;         /* of this spec */
static char cache_dir[64];     /* of this process, in the current folder */
static struct hot_set hot_set; /* of the trial's model */

static int make_trial(void **state)
{
    (void)state;
    struct sc_error e = {0};
    trial_init(&t, "experts", &spec, N_TOKENS);
    snprintf(cache_dir, sizeof cache_dir, "test_experts.%ld", (long)getpid());
    struct sc_gguf *g = sc_gguf_open(t.path, &e);
    assert_non_null(g);
    hot_set_init(&hot_set, cache_dir, g);
    assert_true(hot_set.path[0]);
    sc_gguf_close(g);
    return 0;
}

static int finish_trial(void **state)
{
    char command[128];
    (void)state;
    trial_finish(&t);
    snprintf(command, sizeof command, "rm -rf '%s'", cache_dir);
    return system(command);
}

static uint32_t n_warnings;
static char warning[700];

static void count_warnings(void *user, enum sc_log_level level, const char *text)
{
    (void)user;
    if (level > SC_LOG_WARNING)
        return;
    n_warnings++;
    snprintf(warning, sizeof warning, "%s", text);
}

static struct sc_engine_params params_of(uint32_t more_slots)
{
    struct sc_engine_params params = {.model_path = t.path,
                                      .n_ctx = N_TOKENS,
                                      .n_batch = N_BATCH,
                                      .kv_type = SC_KV_F32,
                                      .cpu_experts = SC_CPU_OFF,
                                      .n_threads = 2,
                                      .cache_dir = "",
                                      .log = count_warnings};
    static uint64_t minimum_bytes;
    if (!minimum_bytes) {
        struct sc_engine *engine = trial_engine(&t, params);
        minimum_bytes = sc_engine_placement(engine)->minimum_bytes;
        sc_engine_destroy(engine);
    }
    params.vram_bytes = minimum_bytes + (uint64_t)more_slots * SLOT_BYTES;
    return params;
}

/* Whatever is faster here. */
static void take_path(struct sc_engine *engine, enum expert_path path)
{
    engine->path = path;
    engine->n_host_tokens = path == PATH_DEVICE ? 0 : N_BATCH;
}

static struct sc_engine *engine_of(const char *dir, enum expert_path path)
{
    struct sc_error e = {0};
    struct sc_engine_params params = params_of(N_SLOTS_MORE);
    params.cpu_experts = path == PATH_DEVICE ? SC_CPU_OFF : SC_CPU_ALL;
    params.cache_dir = dir;
    struct sc_engine *engine = sc_engine_create(&params, &e);
    if (!engine)
        fail_msg("%s", e.text);
    take_path(engine, path);
    return engine;
}

/* Decodes all tokens; the hits among the first of them. */
static uint64_t run(const char *dir, enum expert_path path, bool *was_hot)
{
    struct sc_engine *engine = engine_of(dir, path);
    struct sc_session *session = trial_session(&t, engine);
    struct sc_stats stats;
    *was_hot = engine->model.was_hot;
    for (uint32_t i = 0; i < engine->model.experts.n_slots; i++) /* all are in use from the beginning */
        assert_true(engine->model.experts.policy.owner[i] != POLICY_NONE);
    trial_decode(&t, session, 2);
    sc_session_stats(session, &stats);
    trial_decode(&t, session, N_TOKENS - 2);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    return stats.expert_hits;
}

static size_t read_bytes(const char *path, uint8_t bytes[1024])
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    const size_t n = fread(bytes, 1, 1024, f);
    fclose(f);
    assert_true(n > 200 && n < 1024);
    return n;
}

static void write_bytes(const char *path, const uint8_t *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static void test_restart(void **state)
{
    (void)state;
    const size_t size_bytes = t.n_tokens * t.n_vocab * sizeof *t.got;
    float *first = malloc(size_bytes);
    assert_non_null(first);
    for (enum expert_path path = PATH_DEVICE; path <= PATH_BOTH; path++) {
        bool was_hot;
        unlink(hot_set.path);
        const uint64_t cold_hits = run(cache_dir, path, &was_hot);
        assert_false(was_hot);
        uint8_t learned[1024];
        const size_t n = read_bytes(hot_set.path, learned);
        const uint64_t hot_hits = run(cache_dir, path, &was_hot);
        assert_true(was_hot);
        if (hot_hits <= cold_hits)
            fail_msg("path %d: %u hits with the hot set, %u without", path, (unsigned)hot_hits, (unsigned)cold_hits);
        memcpy(first, t.got, size_bytes);

        /* the same beginning gives the same bits */
        write_bytes(hot_set.path, learned, n);
        run(cache_dir, path, &was_hot);
        assert_true(was_hot);
        assert_memory_equal(t.got, first, size_bytes);
    }
    free(first);
}

static void test_no_hot_set(void **state)
{
    (void)state;
    bool was_hot;
    run("", PATH_BOTH, &was_hot);
    run("", PATH_BOTH, &was_hot);
    assert_false(was_hot);

    run(cache_dir, PATH_DEVICE, &was_hot); /* leaves one, which is neither used nor written */
    struct sc_engine_params params = params_of(N_SLOTS_MORE);
    params.no_hot_set = true;
    params.cache_dir = cache_dir;
    for (int had_one = 1; had_one >= 0; had_one--) {
        struct sc_error e = {0};
        struct sc_engine *engine = sc_engine_create(&params, &e);
        assert_non_null(engine);
        assert_false(engine->model.was_hot);
        struct sc_session *session = trial_session(&t, engine);
        trial_decode(&t, session, 2);
        sc_session_destroy(session);
        sc_engine_destroy(engine);
        assert_int_equal(access(hot_set.path, F_OK) == 0, had_one);
        unlink(hot_set.path);
    }
}

static struct policy make_policy(uint32_t n_layers, uint32_t n_experts)
{
    struct policy p;
    struct sc_error e = {0};
    assert_true(policy_init(&p, n_layers, n_experts, 4, &e));
    return p;
}

static void check_unread(const struct hot_set *h, uint32_t n_layers, uint32_t n_experts, const char *what)
{
    struct policy p = make_policy(n_layers, n_experts);
    if (hot_set_restore(h, &p))
        fail_msg("%s is restored", what);
    for (uint32_t i = 0; i < n_layers * n_experts; i++)
        assert_true(p.heat[i] == 0 && p.used_at[i] == 0);
    policy_finish(&p);
}

static void test_damage(void **state)
{
    (void)state;
    struct policy p = make_policy(3, 8);
    for (uint32_t i = 0; i < 24; i++)
        policy_count(&p, i * 5 % 24, 1, 1 + i % 2);
    assert_true(hot_set_save(&hot_set, &p));
    uint8_t bytes[1024];
    const size_t n = read_bytes(hot_set.path, bytes);
    for (size_t i = 0; i < n; i++) {
        bytes[i] ^= 0x41;
        write_bytes(hot_set.path, bytes, n);
        bytes[i] ^= 0x41;
        check_unread(&hot_set, 3, 8, "a damaged file");
        write_bytes(hot_set.path, bytes, i);
        check_unread(&hot_set, 3, 8, "a truncated file");
    }
    write_bytes(hot_set.path, bytes, n);
    check_unread(&hot_set, 4, 6, "a file of another shape");
    struct hot_set other = hot_set;
    other.model++;
    check_unread(&other, 3, 8, "a file of another model");

    struct policy q = make_policy(3, 8);
    assert_true(hot_set_restore(&hot_set, &q));
    for (uint32_t i = 0; i < 24; i++)
        assert_true(q.heat[i] == p.heat[i] * 0.1f);
    assert_memory_equal(q.learned, p.heat, 24 * sizeof *p.heat);
    assert_memory_equal(q.used_at, p.used_at, 24 * sizeof *p.used_at);
    assert_int_equal(q.n_steps, p.n_steps);
    policy_finish(&q);

    /* sound as a file, and yet nothing that a policy could have written */
    static const float bad[] = {-1, 1e30f, -0.5f};
    for (size_t i = 0; i <= sizeof bad / sizeof bad[0]; i++) {
        p.heat[7] = p.learned[7] = i < 3 ? bad[i] : 0.0f / 0.0f;
        assert_true(hot_set_save(&hot_set, &p));
        check_unread(&hot_set, 3, 8, "an impossible heat");
    }
    p.heat[7] = p.learned[7] = 1;
    p.used_at[3] = p.n_steps + 1;
    assert_true(hot_set_save(&hot_set, &p));
    check_unread(&hot_set, 3, 8, "a use in the future");
    policy_finish(&p);
    unlink(hot_set.path);
}

/* A start with what was saved: a prompt and n_tokens of decode use the experts from `first` on, and all is saved again.
 */
static void start(uint32_t first, uint32_t n_tokens)
{
    struct policy p = make_policy(3, 8);
    (void)hot_set_restore(&hot_set, &p);
    policy_begin(&p, N_BATCH);
    for (uint32_t i = 0; i < 4; i++)
        policy_count(&p, first + i, N_BATCH / 4, N_BATCH);
    for (uint32_t token = 0; token < n_tokens; token++) {
        policy_begin(&p, 1);
        policy_count(&p, first + token % 4, 1, 1);
    }
    assert_true(hot_set_save(&hot_set, &p));
    policy_finish(&p);
}

/* How many of the four experts from `first` on a start with what was saved gives slots. */
static uint32_t n_hot(uint32_t first)
{
    struct policy p = make_policy(3, 8);
    struct sc_error e = {0};
    bool chosen[24];
    assert_true(hot_set_restore(&hot_set, &p));
    assert_true(policy_choose(&p, chosen, &e));
    policy_finish(&p);
    return (uint32_t)chosen[first] + chosen[first + 1] + chosen[first + 2] + chosen[first + 3];
}

/* Short runs about something else do not undo what a long one has learned; another long one does. */
static void test_short_starts(void **state)
{
    (void)state;
    unlink(hot_set.path);
    start(2, 200);
    assert_int_equal(n_hot(2), 4);
    for (uint32_t i = 1; i <= 20; i++) {
        start(13, i % 3);
        if (n_hot(2) != 4)
            fail_msg("%u of 4 experts of a long run after %u short ones", n_hot(2), i);
    }
    start(13, 200);
    assert_int_equal(n_hot(13), 4);
    unlink(hot_set.path);
}

/* Another training of the same architecture. */
static void test_other_model(void **state)
{
    (void)state;
    struct trial other;
    struct sc_error e = {0};
    struct hot_set h;
    struct model_spec other_spec = spec;
    other_spec.seed++;
    trial_init(&other, "another", &other_spec, 1);
    struct sc_gguf *g = sc_gguf_open(other.path, &e);
    assert_non_null(g);
    hot_set_init(&h, cache_dir, g);
    sc_gguf_close(g);
    trial_finish(&other);
    assert_true(h.model != hot_set.model);
    assert_string_not_equal(h.path, hot_set.path);
}

/* Not being able to save is one warning that names the file. */
static void test_cannot_save(void **state)
{
    (void)state;
    bool was_hot;
    n_warnings = 0;
    run("/dev/null/scoria", PATH_DEVICE, &was_hot);
    assert_int_equal(n_warnings, 1);
    assert_non_null(strstr(warning, "/dev/null/scoria/experts-"));

    char temporary[CACHE_PATH_BYTES + 24];
    run(cache_dir, PATH_DEVICE, &was_hot); /* leaves a good file */
    snprintf(temporary, sizeof temporary, "%s.%ld", hot_set.path, (long)getpid());
    if (access("/dev/full", W_OK) != 0 || symlink("/dev/full", temporary) != 0)
        skip();
    n_warnings = 0;
    run(cache_dir, PATH_DEVICE, &was_hot);
    assert_int_equal(n_warnings, 1);
    assert_true(access(temporary, F_OK) != 0);
    n_warnings = 0;
    run(cache_dir, PATH_DEVICE, &was_hot);
    assert_true(was_hot && n_warnings == 0);
}

/* The slots that a prompt may not use are the most valuable ones, and those stay. */
static void test_prompt(void **state)
{
    (void)state;
    enum { N_EXPERTS = 24, N_OPEN = 16, N_DECODE = 12 };
    struct sc_engine *engine = trial_engine(&t, params_of(18));
    struct sc_session *session = trial_session(&t, engine);
    const struct policy *p = &engine->model.experts.policy;
    uint32_t before[N_EXPERTS], n_kept = 0;
    float heat[N_EXPERTS], coldest_closed = 1e9f, hottest_lost = 0;
    assert_true(p->n_slots > N_OPEN && p->n_slots < N_EXPERTS);
    trial_decode(&t, session, N_DECODE);
    memcpy(before, p->owner, p->n_slots * sizeof *before);
    memcpy(heat, p->heat, sizeof heat);
    trial_eval(&t, session, N_BATCH);
    for (uint32_t i = 0; i < p->n_slots; i++) {
        const bool kept = p->owner[i] == before[i];
        n_kept += kept;
        assert_true(kept || p->open[i]);
        if (!p->open[i] && heat[before[i]] < coldest_closed)
            coldest_closed = heat[before[i]];
        if (!kept && heat[before[i]] > hottest_lost)
            hottest_lost = heat[before[i]];
    }
    if (n_kept < p->n_slots - N_OPEN || n_kept == p->n_slots || hottest_lost > coldest_closed + 1)
        fail_msg("%u of %u kept; lost one of heat %.2f, closed one of %.2f", n_kept, p->n_slots, (double)hottest_lost,
                 (double)coldest_closed);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
}

/* A prompt and some tokens, traced; then read back. */
static void trace(struct routing_file *r, uint64_t vram_bytes)
{
    char path[80];
    struct sc_error e = {0};
    struct sc_engine_params params = params_of(0);
    snprintf(path, sizeof path, "%s.trace", cache_dir);
    if (vram_bytes)
        params.vram_bytes = vram_bytes;
    params.routing_trace = path;
    struct sc_engine *engine = trial_engine(&t, params);
    struct sc_session *session = trial_session(&t, engine);
    trial_eval(&t, session, 11);
    trial_decode(&t, session, N_TOKENS - 11);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    if (!routing_file_init(r, path, &e))
        fail_msg("%s", e.text);
    unlink(path);
}

static void test_trace(void **state)
{
    (void)state;
    struct routing_file staged, resident;
    trace(&staged, 0);
    trace(&resident, 64u << 20);
    assert_int_equal(staged.n_passes, 2 + N_TOKENS - 11); /* the prompt is longer than a micro-batch */
    assert_int_equal(resident.n_passes, staged.n_passes);
    uint32_t n_tokens = 0;
    for (size_t i = 0; i < staged.n_passes; i++) {
        const struct routing_pass *a = &staged.passes[i], *b = &resident.passes[i];
        const size_t n = (size_t)spec.layers * a->n_tokens * spec.used;
        assert_int_equal(a->n_tokens, i == 0 ? N_BATCH : i == 1 ? 11 - N_BATCH : 1);
        for (uint32_t k = 0; k < a->n_tokens; k++)
            assert_int_equal(load_u32(a->tokens + 4 * (size_t)k), t.tokens[n_tokens++]);
        assert_memory_equal(a->ids, b->ids, n);
    }
    assert_int_equal(n_tokens, N_TOKENS);
    routing_file_finish(&staged);
    routing_file_finish(&resident);
}

/* The simulator's hits are those of the runtime. (Promotions arrive in the background, so there it is a little ahead.)
 */
static void test_simulator(void **state)
{
    (void)state;
    for (uint32_t more_slots = 0; more_slots < 18; more_slots += 3) {
        char file[80];
        struct sc_error e = {0};
        struct sc_engine_params params = params_of(more_slots);
        snprintf(file, sizeof file, "%s.trace", cache_dir);
        params.routing_trace = file;
        struct sc_engine *engine = trial_engine(&t, params);
        struct sc_session *session = trial_session(&t, engine);
        trial_decode(&t, session, N_TOKENS);
        struct sc_stats stats;
        sc_session_stats(session, &stats);
        const uint32_t n_slots = sc_engine_placement(engine)->n_slots;
        sc_session_destroy(session);
        sc_engine_destroy(engine);

        struct routing_file r;
        struct replay replay = {0};
        if (!routing_file_init(&r, file, &e) || !replay_run(&r, REPLAY_DEMAND, REPLAY_OURS, n_slots, &replay, &e))
            fail_msg("%s", e.text);
        routing_file_finish(&r);
        unlink(file);
        if (replay.n_hits != stats.expert_hits || replay.n_uploads != stats.expert_misses)
            fail_msg("%u slots: %u hits, %u in the simulator", n_slots, (unsigned)stats.expert_hits,
                     (unsigned)replay.n_hits);
    }
}

static void test_trace_failures(void **state)
{
    (void)state;
    struct sc_error e = {0};
    struct sc_engine_params params = params_of(0);
    params.device = "none of that name"; /* the trace is told before it is looked for */
    params.routing_trace = "/nowhere/\033at/all.trace";
    assert_null(sc_engine_create(&params, &e));
    assert_int_equal(e.code, SC_IO);
    assert_non_null(strstr(e.text, "/nowhere/\\x1bat/all.trace cannot be written: "));

    params.routing_trace = "/dev/full";
    if (access(params.routing_trace, W_OK) != 0)
        skip();
    e = (struct sc_error){0};
    assert_null(sc_engine_create(&params, &e));
    assert_int_equal(e.code, SC_IO);
    assert_non_null(strstr(e.text, params.routing_trace));
}

/* A disk that is full in the middle fails the evaluation, and those after it. */
static void test_trace_full(void **state)
{
    char path[80];
    (void)state;
    struct sc_error e = {0};
    struct sc_engine_params params = params_of(0);
    snprintf(path, sizeof path, "%s.trace", cache_dir);
    params.routing_trace = path;
    struct sc_engine *engine = trial_engine(&t, params);
    struct sc_session *session = trial_session(&t, engine);
    trial_eval(&t, session, 3);

    struct rlimit before, small;
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = (rlim_t)st.st_size + 5;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    const bool succeeded = sc_session_eval(session, t.tokens + 3, 1, NULL, 0, &e);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    assert_false(succeeded);
    assert_int_equal(e.code, SC_IO);
    assert_non_null(strstr(e.text, path));
    assert_int_equal(sc_session_n_past(session), 3);
    assert_false(sc_session_eval(session, t.tokens + 3, 1, NULL, 0, &e));
    n_warnings = 0;
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    assert_int_equal(n_warnings, 0); /* it has been told */
    unlink(path);
}

/* The micro-batch may grow when the model is placed again. */
static void test_trace_step_down(void **state)
{
    char path[80];
    (void)state;
    const struct sc_error full = {.code = SC_OUT_OF_DEVICE_MEMORY};
    struct sc_error e = {0};
    struct sc_engine_params params = params_of(N_SLOTS_MORE);
    snprintf(path, sizeof path, "%s.trace", cache_dir);
    params.routing_trace = path;
    params.n_batch = 1;
    struct sc_engine *engine = trial_engine(&t, params);
    engine->wished_batch = N_TOKENS;
    if (!engine_step_down(engine, &full, &e))
        fail_msg("%s", e.text);
    assert_int_equal(sc_engine_n_batch(engine), N_TOKENS);
    struct sc_session *session = trial_session(&t, engine);
    trial_eval(&t, session, N_TOKENS);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    struct routing_file r;
    if (!routing_file_init(&r, path, &e))
        fail_msg("%s", e.text);
    assert_int_equal(r.n_passes, 1);
    routing_file_finish(&r);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restart),     cmocka_unit_test(test_no_hot_set),
        cmocka_unit_test(test_damage),      cmocka_unit_test(test_short_starts),
        cmocka_unit_test(test_other_model), cmocka_unit_test(test_cannot_save),
        cmocka_unit_test(test_prompt),      cmocka_unit_test(test_trace),
        cmocka_unit_test(test_simulator),   cmocka_unit_test(test_trace_failures),
        cmocka_unit_test(test_trace_full),  cmocka_unit_test(test_trace_step_down),
    };
    return cmocka_run_group_tests(tests, make_trial, finish_trial);
}
