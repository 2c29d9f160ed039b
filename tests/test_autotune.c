/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The autotuner where one variant's kernels are slower by the clock: the other one is chosen, kept, and taken by
 * operations of that shape, or of those heads, alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "autotune.h"
#include "findings.h"
#include "gpu_timer.h"
#include "kernel_trials.h"

/* ---- the driver and the clock: the linker sends volk's loader and the timer through here ---- */

bool __real_gpu_timer_run(struct gpu_timer *t, struct commands *c, double *seconds, struct sc_error *e);
bool __wrap_gpu_timer_run(struct gpu_timer *t, struct commands *c, double *seconds, struct sc_error *e);
void __real_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device);
void __wrap_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device);

enum { TIMES_SLOWER = 12 };

static struct {
    VkPipeline slow, bound;
    uint32_t n_dispatches, most_columns; /* tiles of them in a dispatch */
    double seconds;                      /* since the last timing, a millisecond for each dispatch, or more */
    uint64_t most_submits;               /* of a timing */
    PFN_vkCmdBindPipeline bind;
    PFN_vkCmdDispatch dispatch;
} driver;

static void VKAPI_CALL bind(VkCommandBuffer b, VkPipelineBindPoint point, VkPipeline pipeline)
{
    driver.bound = pipeline;
    driver.bind(b, point, pipeline);
}

static void VKAPI_CALL dispatch(VkCommandBuffer b, uint32_t x, uint32_t y, uint32_t z)
{
    driver.n_dispatches++;
    driver.most_columns = x > driver.most_columns ? x : driver.most_columns;
    driver.seconds += 1e-3 * (driver.slow && driver.bound == driver.slow ? TIMES_SLOWER : 1);
    driver.dispatch(b, x, y, z);
}

/* While something is slow, by what was recorded: tests are not to hang on what else the machine does. */
bool __wrap_gpu_timer_run(struct gpu_timer *t, struct commands *c, double *seconds, struct sc_error *e)
{
    const uint64_t before = t->gpu->n_submits;
    const bool ok = __real_gpu_timer_run(t, c, seconds, e);
    const uint64_t n_submits = t->gpu->n_submits - before;
    driver.most_submits = n_submits > driver.most_submits ? n_submits : driver.most_submits;
    if (driver.slow)
        *seconds = driver.seconds;
    driver.seconds = 0;
    return ok;
}

void __wrap_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device)
{
    __real_volkLoadDeviceTable(table, device);
    driver.bind = table->vkCmdBindPipeline;
    driver.dispatch = table->vkCmdDispatch;
    table->vkCmdBindPipeline = bind;
    table->vkCmdDispatch = dispatch;
}

/* ---- tests ---- */

static const struct matrix_shape shape = {SC_Q8_0, 256, 512, 0};

static uint32_t n_calls, calls_left;

static bool count(void *user, enum sc_phase phase, uint64_t done, uint64_t total)
{
    (void)user;
    n_calls++;
    assert_int_equal(phase, SC_PHASE_TUNE);
    assert_true(done <= total);
    return calls_left-- > 0;
}

static const struct autotune job = {
    .matrices = &shape,
    .n_matrices = 1,
    .heads = {.n = 4, .n_kv = 2, .dim = 64},
    .cache_type = SC_F16,
    .n_batch = 64,
    .n_seen = 300,
    .max_bytes = 8 << 20,
    .seconds = 1e9,
    .progress = count,
};

/* Under which a family's finding is kept. */
static struct tensor key_of(enum family family)
{
    const struct tensor w = {.type = shape.type, .rows = shape.rows, .cols = shape.cols};
    return family_has_cache(family) ? attention_key(job.cache_type, job.heads) : w;
}

static const struct variant *chosen(const struct gpu *gpu, enum family family, struct tensor key)
{
    return variant_of(gpu, family, key.type, key.rows, key.cols);
}

static void tune(struct gpu *gpu)
{
    struct sc_error e = {0};
    calls_left = 1000;
    if (!autotune(gpu, &job, &e))
        fail_msg("%s", e.text);
}

/* Of all variants the device may use only those that are left of this family. */
static void leave(struct gpu *gpu, enum family family, const uint32_t *left, uint32_t n_left)
{
    findings_forget(gpu);
    memset(gpu->choices.findings.failed, 0xFF, sizeof gpu->choices.findings.failed);
    for (uint32_t i = 0; i < n_left; i++)
        gpu->choices.findings.failed[family][left[i]] = 0;
}

/* The first one from `from` on that rounds, or does not; MAX_VARIANTS: the device has none. */
static uint32_t find_variant(struct gpu *gpu, enum family family, uint32_t from, bool rounds)
{
    uint32_t n;
    const struct variant *v = family_variants(family, &n);
    findings_forget(gpu);
    for (uint32_t i = from; i < n; i++)
        if (variant_is_usable(gpu, family, i, key_of(family).type) && (v[i].rounding != ROUNDS_NOTHING) == rounds)
            return i;
    return MAX_VARIANTS;
}

/* The device may use two variants of the family only, that do not round; their numbers. */
static bool leave_two(struct gpu *gpu, enum family family, uint32_t left[2])
{
    left[0] = find_variant(gpu, family, 0, false);
    left[1] = find_variant(gpu, family, left[0] + 1, false);
    leave(gpu, family, left, left[1] < MAX_VARIANTS ? 2 : 1);
    return left[1] < MAX_VARIANTS;
}

static void slow_down(struct gpu *gpu, enum family family, const struct variant *v)
{
    struct sc_error e = {0};
    struct program program = variant_program(v, key_of(family).type);
    if (program.constants[CONSTANT_HEAD_DIM])
        program.constants[CONSTANT_HEAD_DIM] = job.heads.dim;
    driver.slow = gpu_pipeline(gpu, &program, &e);
    assert_true(driver.slow != VK_NULL_HANDLE);
}

static struct gpu *open_gpu(void)
{
    struct sc_error e = {0};
    struct gpu *gpu = gpu_create(NULL, "", &e);
    if (!gpu)
        fail_msg("%s", e.text);
    return gpu;
}

/* Whether attention with these heads is computed by the slow kernel. */
static bool is_slow(struct gpu *gpu, struct heads h, enum family family)
{
    const struct kernel_shape with = {.n_heads = h.n, .n_kv_heads = h.n_kv, .head_dim = h.dim, .n_vocab = 1};
    struct kernel_trial t = kernel_trial_of(&with, job.cache_type, family == FAMILY_ATTENTION ? 1 : 64, 3);
    struct kernel_trials k = {0};
    struct sc_error e = {0};
    bool ok = kernel_trials_init(&k, gpu, 4 << 20, &e) && kernel_trials_prepare(&k, &kernel_attention, &t, &e);
    commands_begin(&k.commands, false);
    kernel_trials_record(&k, &kernel_attention, &t, 1);
    ok = ok && commands_end(&k.commands, &e);
    kernel_trials_finish(&k);
    if (!ok)
        fail_msg("%s", e.text);
    return driver.bound == driver.slow;
}

static void check_other_heads(struct gpu *gpu, enum family family, bool first_is_slow)
{
    static const struct heads others[] = {
        {.n = 8, .n_kv = 2, .dim = 64}, {.n = 4, .n_kv = 1, .dim = 64}, {.n = 2, .n_kv = 2, .dim = 64}};
    assert_int_equal(is_slow(gpu, job.heads, family), false);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (is_slow(gpu, others[i], family) != first_is_slow)
            fail_msg("%u heads on %u share what was found of others", others[i].n, others[i].n_kv);
}

static void check_slow(struct gpu *gpu, enum family family, const uint32_t left[2], uint32_t slow)
{
    uint32_t n;
    const struct variant *variants = family_variants(family, &n), *fast = &variants[left[1 - slow]];
    const struct tensor key = key_of(family);
    struct tensor other = key;
    other.cols *= 2;
    slow_down(gpu, family, &variants[left[slow]]);
    n_calls = 0;
    tune(gpu);
    assert_true(n_calls >= 2);
    if (chosen(gpu, family, key) != fast)
        fail_msg("%s: %s was chosen, which is %d times slower than %s", family_names[family], variants[left[slow]].name,
                 TIMES_SLOWER, fast->name);

    /* of other shapes nothing is known; and with --no-autotune nothing is asked */
    assert_ptr_equal(chosen(gpu, family, other), &variants[left[0]]);
    if (family_has_cache(family))
        check_other_heads(gpu, family, slow == 0);
    gpu->choices.ignores_tuned = true;
    assert_ptr_equal(chosen(gpu, family, key), &variants[left[0]]);
    gpu->choices.ignores_tuned = false;

    driver.n_dispatches = 0;
    tune(gpu);
    assert_int_equal(driver.n_dispatches, 0); /* known by now */

    /* what was tuned and is wrong after all is not used */
    gpu->choices.findings.failed[family][left[1 - slow]] = UINT32_MAX;
    assert_ptr_equal(chosen(gpu, family, key), &variants[left[slow]]);
}

static void test_slow_one(void **state)
{
    static const enum family timed[] = {FAMILY_MATVEC, FAMILY_ATTENTION, FAMILY_ATTENTION_MANY};
    (void)state;
    struct gpu *gpu = open_gpu();
    for (size_t i = 0; i < 2 * sizeof timed / sizeof timed[0]; i++) {
        uint32_t left[2];
        if (leave_two(gpu, timed[i / 2], left))
            check_slow(gpu, timed[i / 2], left, i % 2);
        else
            print_message("%s: this device has one variant\n", family_names[timed[i / 2]]);
    }
    driver.slow = VK_NULL_HANDLE;
    gpu_destroy(gpu);
}

/* What rounds is chosen where it is the fastest and that is allowed, and is not so much as tried where it is not. */
static void test_rounding(void **state)
{
    static const enum family timed[] = {FAMILY_MATVEC, FAMILY_ATTENTION_MANY};
    (void)state;
    struct gpu *gpu = open_gpu();
    for (size_t i = 0; i < sizeof timed / sizeof timed[0]; i++) {
        const enum family family = timed[i];
        const struct tensor key = key_of(family);
        uint32_t n;
        const struct variant *variants = family_variants(family, &n);
        gpu->choices.may_round = true;
        const uint32_t left[] = {find_variant(gpu, family, 0, false), find_variant(gpu, family, 0, true)};
        if (left[1] == MAX_VARIANTS) {
            print_message("%s: this device has no variant that rounds\n", family_names[family]);
            continue;
        }
        leave(gpu, family, left, 2);
        slow_down(gpu, family, &variants[left[0]]);
        gpu->choices.may_round = false;
        driver.n_dispatches = 0;
        tune(gpu);
        assert_int_equal(driver.n_dispatches, 0); /* there is one left, and nothing to compare */
        assert_ptr_equal(chosen(gpu, family, key), &variants[left[0]]);
        gpu->choices.may_round = true;
        tune(gpu);
        assert_ptr_equal(chosen(gpu, family, key), &variants[left[1]]);
        gpu->choices.may_round = false;
        assert_ptr_equal(chosen(gpu, family, key), &variants[left[0]]);
    }
    driver.slow = VK_NULL_HANDLE;
    gpu_destroy(gpu);
}

/* A start that has too little time goes on where the one before it stopped, and the last one chooses as if at once. */
static void test_hasty_starts(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    const enum family family = FAMILY_MATVEC;
    uint32_t n, left[2], n_starts = 0;
    struct sc_error e = {0};
    struct autotune hasty = job;
    hasty.seconds = 1e-4;
    assert_true(leave_two(gpu, family, left));
    const struct variant *variants = family_variants(family, &n);
    slow_down(gpu, family, &variants[left[0]]);
    calls_left = 1000;
    for (n_calls = 1; n_calls > 0 && n_starts < 100; n_starts++) {
        n_calls = 0;
        if (!autotune(gpu, &hasty, &e))
            fail_msg("%s", e.text);
    }
    assert_in_range(n_starts, 3, 99); /* two variants, and nothing is left */
    assert_int_equal(gpu->choices.findings.n_tuned, 1);
    assert_ptr_equal(chosen(gpu, family, key_of(family)), &variants[left[1]]);
    driver.slow = VK_NULL_HANDLE;
    gpu_destroy(gpu);
}

/* There is room for a number of matrices; what was wanted longest ago makes room for others. */
static void test_full(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    const enum family family = FAMILY_MATVEC;
    struct findings *f = &gpu->choices.findings;
    uint32_t left[2], n_found = 0;
    assert_true(leave_two(gpu, family, left));
    tune(gpu);
    const uint32_t n_own = f->n_tuned;
    assert_in_range(n_own, 1, 3);
    for (; f->n_tuned < MAX_TUNED; f->n_tuned++)
        f->tuned[f->n_tuned] = (struct tuned){family, SC_F32, f->n_tuned, 32, left[0], MAX_VARIANTS, 1};

    struct autotune other = job;
    const struct matrix_shape another = {shape.type, shape.rows / 2, shape.cols, 0}, both[] = {another, shape};
    struct sc_error e = {0};
    other.matrices = both;
    other.n_matrices = 2;
    calls_left = 1000;
    assert_true(autotune(gpu, &other, &e));
    assert_int_equal(f->n_tuned, MAX_TUNED);
    for (uint32_t i = 0; i < f->n_tuned; i++) {
        n_found += f->tuned[i].type == shape.type;
        assert_true(f->tuned[i].type == shape.type ||
                    f->tuned[i].rows >= 2 * n_own); /* the first of the others are gone */
    }
    assert_int_equal(n_found, 2 * n_own); /* and none of its own */
    gpu_destroy(gpu);
}

/* Tiles are timed with the columns that an expert gets, not with those of all. */
static void test_columns(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    uint32_t left[2], n;
    const uint32_t columns[][2] = {{0, 256}, {17, 17}, {48, 48}, {3, 17}}; /* told, timed */
    for (uint32_t i = 0; i < sizeof columns / sizeof columns[0]; i++) {
        const struct matrix_shape m = {shape.type, 64, 256, columns[i][0]};
        struct autotune a = job;
        struct sc_error e = {0};
        assert_true(leave_two(gpu, FAMILY_MATMUL, left));
        const struct variant *v = family_variants(FAMILY_MATMUL, &n);
        const uint32_t tile = v[left[v[left[0]].tile_columns > v[left[1]].tile_columns]].tile_columns; /* the smaller */
        for (uint32_t k = 0; k < 2; k++) /* no self-test now, which has columns of its own */
            gpu->choices.findings.passed[FAMILY_MATMUL][left[k]] = UINT32_MAX;
        a.matrices = &m;
        calls_left = 1000;
        driver.most_columns = 0;
        assert_true(autotune(gpu, &a, &e));
        assert_int_equal(driver.most_columns, (columns[i][1] + tile - 1) / tile);
    }
    gpu_destroy(gpu);
}

/* A matrix that never fits costs no start anything. */
static void test_large_matrix(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    const struct matrix_shape large = {SC_Q8_0, 1 << 14, 512, 0};
    struct autotune a = job;
    struct sc_error e = {0};
    a.matrices = &large;
    a.heads.n = 0;
    a.max_bytes = 32 << 20; /* its vectors and scratch take 26 MB, and it 9 */
    findings_forget(gpu);
    n_calls = driver.n_dispatches = 0;
    assert_true(autotune(gpu, &a, &e));
    assert_int_equal(n_calls, 0);
    assert_int_equal(driver.n_dispatches, 0);
    gpu_destroy(gpu);
}

/* All that the device can run: each family has a choice, and one that it can use. */
static void test_all(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    findings_forget(gpu);
    tune(gpu);
    const struct findings *f = &gpu->choices.findings;
    for (uint32_t i = 0; i < f->n_tuned; i++) {
        uint32_t n;
        assert_true(variant_is_usable(gpu, f->tuned[i].family, f->tuned[i].variant, f->tuned[i].type));
        assert_true(f->passed[f->tuned[i].family][f->tuned[i].variant] >> f->tuned[i].type & 1);
        print_message("%s: %s\n", family_names[f->tuned[i].family],
                      family_variants(f->tuned[i].family, &n)[f->tuned[i].variant].name);
    }
    assert_true(f->n_tuned >= 1);
    gpu_destroy(gpu);
}

static void test_limits(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    uint32_t left[2];
    struct sc_error e = {0};
    assert_true(leave_two(gpu, FAMILY_MATVEC, left));
    calls_left = 0;
    assert_false(autotune(gpu, &job, &e));
    assert_int_equal(e.code, SC_CANCELLED);
    assert_int_equal(gpu->allocated_bytes, 0);

    struct autotune hasty = job;
    hasty.seconds = 0;
    calls_left = 1000;
    e = (struct sc_error){0};
    assert_true(autotune(gpu, &hasty, &e));
    assert_int_equal(gpu->choices.findings.n_tuned, 0);

    gpu->budget_bytes = 1 << 20; /* too little memory is no error */
    assert_true(autotune(gpu, &job, &e));
    assert_int_equal(gpu->choices.findings.n_tuned, 0);
    assert_int_equal(gpu->allocated_bytes, 0);
    gpu_destroy(gpu);
}

/* What a slow device would take seconds for is several submissions, which no watchdog takes for a hang. */
static void test_pieces(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    gpu->piece_work = (double)shape.rows * shape.cols; /* a column's, of 256 */
    driver.most_submits = 0;
    tune(gpu);
    gpu_destroy(gpu);
    if (driver.most_submits < 2)
        fail_msg("at most %u submissions", (unsigned)driver.most_submits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slow_one),     cmocka_unit_test(test_rounding), cmocka_unit_test(test_hasty_starts),
        cmocka_unit_test(test_large_matrix), cmocka_unit_test(test_full),     cmocka_unit_test(test_columns),
        cmocka_unit_test(test_all),          cmocka_unit_test(test_limits),   cmocka_unit_test(test_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
