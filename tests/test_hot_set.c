/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the policy learned survives a restart: the logits stay right and repeatable, the first tokens find their
 * experts, and a file that is damaged, forged, of another model or cannot be written does no harm.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine.h"
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
    trial_init(&t, "hot_set", &spec, N_TOKENS);
    snprintf(cache_dir, sizeof cache_dir, "test_hot_set.%ld", (long)getpid());
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

/* An engine that takes this path, whatever is faster here. */
static struct sc_engine *engine_of(const char *dir, enum expert_path path)
{
    struct sc_error e = {0};
    struct sc_engine_params params = {.model_path = t.path,
                                      .n_ctx = N_TOKENS,
                                      .n_batch = N_BATCH,
                                      .kv_type = SC_KV_F32,
                                      .cpu_experts = path == PATH_DEVICE ? SC_CPU_OFF : SC_CPU_ALL,
                                      .n_threads = 2,
                                      .cache_dir = "",
                                      .log = count_warnings};
    static uint64_t minimum_bytes;
    if (!minimum_bytes) {
        struct sc_engine *engine = trial_engine(&t, params);
        minimum_bytes = sc_engine_placement(engine)->minimum_bytes;
        sc_engine_destroy(engine);
    }
    params.vram_bytes = minimum_bytes + N_SLOTS_MORE * SLOT_BYTES;
    params.cache_dir = dir;
    struct sc_engine *engine = sc_engine_create(&params, &e);
    if (!engine)
        fail_msg("%s", e.text);
    engine->path = path;
    engine->n_host_tokens = path == PATH_DEVICE ? 0 : N_BATCH;
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
    trial_decode(&t, session, 4);
    sc_session_stats(session, &stats);
    trial_decode(&t, session, N_TOKENS - 4);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    return stats.expert_hits;
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
        struct policy learned = {0};
        struct sc_error e = {0};
        assert_true(policy_init(&learned, spec.layers, spec.experts, 2, &e) && hot_set_restore(&hot_set, &learned));
        const uint64_t hot_hits = run(cache_dir, path, &was_hot);
        assert_true(was_hot);
        if (hot_hits <= cold_hits)
            fail_msg("path %d: %u hits with the hot set, %u without", path, (unsigned)hot_hits, (unsigned)cold_hits);
        memcpy(first, t.got, size_bytes);

        /* the same beginning gives the same bits */
        assert_true(hot_set_save(&hot_set, &learned));
        run(cache_dir, path, &was_hot);
        assert_true(was_hot);
        assert_memory_equal(t.got, first, size_bytes);
        policy_finish(&learned);
    }
    free(first);
}

static void test_no_cache_dir(void **state)
{
    (void)state;
    bool was_hot;
    run("", PATH_BOTH, &was_hot);
    run("", PATH_BOTH, &was_hot);
    assert_false(was_hot);
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

static void write_bytes(const char *path, const uint8_t *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static void test_damage(void **state)
{
    (void)state;
    struct policy p = make_policy(3, 8);
    for (uint32_t i = 0; i < 24; i++)
        policy_count(&p, i * 5 % 24, 1, 1 + i % 2);
    assert_true(hot_set_save(&hot_set, &p));
    uint8_t bytes[1024];
    FILE *f = fopen(hot_set.path, "rb");
    assert_non_null(f);
    const size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_true(n > 200 && n < sizeof bytes);
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
    assert_memory_equal(q.heat, p.heat, 24 * sizeof *p.heat);
    assert_memory_equal(q.used_at, p.used_at, 24 * sizeof *p.used_at);
    assert_int_equal(q.n_steps, p.n_steps);
    policy_finish(&q);

    /* sound as a file, and yet nothing that a policy could have written */
    static const float bad[] = {-1, 1e30f, -0.5f};
    for (size_t i = 0; i <= sizeof bad / sizeof bad[0]; i++) {
        p.heat[7] = i < 3 ? bad[i] : 0.0f / 0.0f;
        assert_true(hot_set_save(&hot_set, &p));
        check_unread(&hot_set, 3, 8, "an impossible heat");
    }
    p.heat[7] = 1;
    p.used_at[3] = p.n_steps + 1;
    assert_true(hot_set_save(&hot_set, &p));
    check_unread(&hot_set, 3, 8, "a use in the future");
    policy_finish(&p);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restart),     cmocka_unit_test(test_no_cache_dir), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_other_model), cmocka_unit_test(test_cannot_save),
    };
    return cmocka_run_group_tests(tests, make_trial, finish_trial);
}
