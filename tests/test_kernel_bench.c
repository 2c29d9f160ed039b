/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `scoria bench --kernels` measures: every operation is there, counts the bytes and operations that a model's
 * shape says, and computes with the memory that the benchmark gave it.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernel_trials.h"

enum { MAX_ROWS = 200 };

/* ---- the driver: the linker sends volk's loader through here ---- */

void __real_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device);
void __wrap_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device);

static struct {
    PFN_vkCreateComputePipelines create;
    uint32_t n_created, refused; /* the pipeline of this number, from 1 on */
} driver;

static VKAPI_ATTR VkResult VKAPI_CALL create_pipelines(VkDevice device, VkPipelineCache cache, uint32_t n,
                                                       const VkComputePipelineCreateInfo *infos,
                                                       const VkAllocationCallbacks *allocator, VkPipeline *pipelines)
{
    return ++driver.n_created == driver.refused ? VK_ERROR_UNKNOWN
                                                : driver.create(device, cache, n, infos, allocator, pipelines);
}

void __wrap_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device)
{
    __real_volkLoadDeviceTable(table, device);
    driver.create = table->vkCreateComputePipelines;
    table->vkCreateComputePipelines = create_pipelines;
}

/* ---- tests ---- */

struct seen {
    struct {
        char op[24], type[8];
        uint32_t n;
    } rows[MAX_ROWS];
    size_t n, n_failures, stop_after;
};

static bool see(void *user, const struct sc_device_info *device, const struct sc_kernel_result *r)
{
    struct seen *s = user;
    if (r->failure) {
        assert_non_null(strstr(r->failure, "compile"));
        s->n_failures++;
    } else if (!(r->seconds > 0) || !isfinite(r->seconds) || !(r->bytes > 0) || !(r->flop >= 0) ||
               !(r->read_rate > 0) || !(r->copy_rate > 0) || !device->name[0] || strcmp(r->shape, "tiny") != 0 ||
               !r->size[0])
        fail_msg("%s %s, %s, n %u: %g s, %g bytes, %g operations", r->op, r->type, r->size, r->n_tokens, r->seconds,
                 r->bytes, r->flop);
    assert_true(s->n < MAX_ROWS);
    snprintf(s->rows[s->n].op, sizeof s->rows[0].op, "%s", r->op);
    snprintf(s->rows[s->n].type, sizeof s->rows[0].type, "%s", r->type);
    s->rows[s->n++].n = r->n_tokens;
    return s->n != s->stop_after;
}

static bool has(const struct seen *s, const char *op, const char *type, uint32_t n)
{
    for (size_t i = 0; i < s->n; i++)
        if (!strcmp(s->rows[i].op, op) && !strcmp(s->rows[i].type, type) && s->rows[i].n == n)
            return true;
    return false;
}

static const enum sc_type types[] = {SC_Q4_K, SC_F16};
static const uint32_t n_tokens[] = {1, 5};

static struct sc_kernel_bench_params params_of(struct seen *seen)
{
    return (struct sc_kernel_bench_params){.cache_dir = "",
                                           .shape = "tiny",
                                           .types = types,
                                           .n_types = 2,
                                           .n_tokens = n_tokens,
                                           .n_n_tokens = 2,
                                           .n_repetitions = 1,
                                           .report = see,
                                           .user = seen};
}

static void test_every_operation_is_measured(void **state)
{
    static struct seen seen;
    struct sc_error e = {0};
    const struct sc_kernel_bench_params p = params_of(&seen);
    size_t n_ops, n_shapes, n_wanted = 0;
    const struct kernel_op *ops = kernel_ops(&n_ops);
    const struct kernel_shape *tiny = &kernel_shapes(&n_shapes)[n_shapes - 1];
    (void)state;
    if (!sc_kernel_bench(&p, &e))
        fail_msg("%s", e.text);
    for (size_t i = 0; i < n_ops * 4; i++) {
        const struct kernel_op *op = &ops[i / 4];
        const uint32_t n = n_tokens[i % 2];
        const enum sc_type type = types[i / 2 % 2];
        const bool has_two = op->weights == WEIGHTS_TYPED || op->weights == WEIGHTS_CACHE;
        if (!op->is_in(tiny) || n < op->least || n > op->most || (!has_two && type != types[0]))
            continue;
        const char *name = op->weights == WEIGHTS_TYPED   ? sc_type_info((uint32_t)type)->name
                           : op->weights == WEIGHTS_CACHE ? (type == types[0] ? "f16" : "q8_0")
                           : op->weights == WEIGHTS_F32   ? "f32"
                                                          : "";
        if (!has(&seen, op->name, name, n))
            fail_msg("%s %s with %u tokens was not measured", op->name, name, n);
        n_wanted++;
    }
    assert_int_equal(seen.n, n_wanted);
}

static void test_variants_are_measured_one_by_one(void **state)
{
    static struct seen seen;
    struct sc_error e = {0};
    struct sc_kernel_bench_params p = params_of(&seen);
    size_t n = 0;
    (void)state;
    p.n_types = p.n_n_tokens = 1;
    p.all_variants = true;
    if (!sc_kernel_bench(&p, &e))
        fail_msg("%s", e.text);
    for (size_t i = 0; i < seen.n; i++)
        n += strcmp(seen.rows[i].op, "attn_output") == 0;
    assert_true(n >= 4); /* 8, 16, 32 and 64 lanes a row run on every device */
    assert_int_equal(seen.n_failures, 0);
}

/* One kernel that does not compile costs its own row, no other. */
static void test_a_refused_kernel_is_left_out(void **state)
{
    static struct seen all, seen;
    struct sc_error e = {0};
    struct sc_kernel_bench_params p = params_of(&all);
    (void)state;
    p.n_types = p.n_n_tokens = 1;
    driver.n_created = 0;
    if (!sc_kernel_bench(&p, &e))
        fail_msg("%s", e.text);
    driver.refused = driver.n_created; /* the last one */
    driver.n_created = 0;
    p.user = &seen;
    const bool ok = sc_kernel_bench(&p, &e);
    driver.refused = 0;
    if (!ok)
        fail_msg("%s", e.text);
    assert_int_equal(seen.n_failures, 1);
    assert_int_equal(seen.n, all.n);
}

static void test_it_stops_when_told_to(void **state)
{
    static struct seen seen;
    struct sc_error e = {0};
    const struct sc_kernel_bench_params p = params_of(&seen);
    (void)state;
    seen.stop_after = 2;
    assert_false(sc_kernel_bench(&p, &e));
    assert_int_equal(e.code, SC_CANCELLED);
    assert_int_equal(seen.n, 2);
}

static void test_wrong_parameters_are_told(void **state)
{
    static struct seen seen;
    static const uint32_t none = 0, many = KERNEL_MAX_TOKENS + 1;
    static const enum sc_type wrong_type = (enum sc_type)4;
    struct sc_kernel_bench_params cases[4];
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        cases[i] = params_of(&seen);
        cases[i].n_n_tokens = cases[i].n_types = 1;
    }
    cases[0].shape = "9x9b";
    cases[1].n_tokens = &none;
    cases[2].n_tokens = &many;
    cases[3].types = &wrong_type;
    for (size_t i = 0; i < 4; i++) {
        struct sc_error e = {0};
        if (sc_kernel_bench(&cases[i], &e) || e.code != SC_INVALID_ARGUMENT || seen.n)
            fail_msg("case %zu: %s", i, e.text);
    }
}

/* One layer of Mixtral 8x7B and the output, by hand: 12.7 G multiply-adds a token. */
static void test_counts_are_those_of_the_model(void **state)
{
    size_t n_ops, n_shapes;
    const struct kernel_op *ops = kernel_ops(&n_ops);
    const struct kernel_shape *s = kernel_shapes(&n_shapes);
    double bytes = 0, flop = 0;
    (void)state;
    assert_string_equal(s->name, "8x7b");
    for (size_t i = 0; i < n_ops; i++) {
        const double times = strcmp(ops[i].name, "output") == 0 ? 1 : 32;
        struct kernel_trial t = kernel_trial_of(s, SC_Q8_0, 1, 0);
        if (!ops[i].is_in(s) || ops[i].weights != WEIGHTS_TYPED || strcmp(ops[i].name, "embed") == 0 ||
            ops[i].least > 1)
            continue;
        kernel_measure(&ops[i], &t);
        bytes += times * t.bytes;
        flop += times * t.flop;
    }
    const double want = 32 * (2.0 * 4096 * 4096 + 2.0 * 1024 * 4096 + 2 * 3.0 * 4096 * 14336) + 32000.0 * 4096;
    assert_true(flop == 2 * want);
    /* activations are a thousandth of that */
    assert_true(bytes > want * 34 / 32 && bytes < 1.001 * want * 34 / 32);
}

/* How many words of all activations a trial changes, once it has memory. */
static uint32_t changed_words(struct kernel_trials *k, const struct kernel_op *op, struct kernel_trial t)
{
    struct kernel_trial measured = t;
    struct buffer seen = {0};
    struct sc_error e = {0};
    uint32_t n_changed = 0;
    if (!kernel_trials_prepare(k, op, &t, &e))
        fail_msg("%s: %s", op->name, e.text);
    kernel_measure(op, &measured);
    const uint32_t n_words = (uint32_t)measured.value_bytes / 4;
    const struct tensor values = {.address = k->values.address, .type = SC_F32, .rows = 1, .cols = n_words};
    bool ok = buffer_init(k->gpu, &seen, MEMORY_READBACK, 2 * measured.value_bytes, "the test", &e);
    for (uint32_t after = 0; ok && after < 2; after++) {
        struct tensor copy = values;
        struct commands *c = &k->commands;
        uint64_t value = 0;
        copy.address = seen.address + after * measured.value_bytes;
        commands_begin(c, false);
        if (after)
            kernel_trials_record(k, op, &t, 1);
        op_copy(c, copy, values);
        ok = commands_end(c, &e) && gpu_submit(k->gpu, &c, 1, &value, &e) && gpu_wait(k->gpu, value, &e);
    }
    for (uint32_t i = 0; ok && i < n_words; i++)
        n_changed += ((const uint32_t *)seen.mapped)[i] != ((const uint32_t *)seen.mapped)[n_words + i];
    buffer_finish(k->gpu, &seen);
    if (!ok)
        fail_msg("%s: %s", op->name, e.text);
    return n_changed;
}

/* What is timed is computed: each expert of each token is found, and writes its whole row. */
static void test_experts_compute_every_row(void **state)
{
    size_t n_ops, n_shapes;
    const struct kernel_op *ops = kernel_ops(&n_ops);
    const struct kernel_shape *s = &kernel_shapes(&n_shapes)[n_shapes - 1];
    struct kernel_trials k = {0};
    struct sc_error e = {0};
    (void)state;
    struct gpu *gpu = gpu_create(NULL, "", &e);
    if (!gpu || !kernel_trials_init(&k, gpu, 4 << 20, &e) || !kernel_trials_fill(&k, SC_Q4_K, &e))
        fail_msg("%s", e.text);
    for (size_t i = 0; i < n_ops * 2; i++) {
        const struct kernel_op *op = &ops[i / 2];
        const uint32_t n = n_tokens[i % 2], n_pairs = n * s->n_used;
        const bool gate = strncmp(op->name, "experts gate", 12) == 0, down = strcmp(op->name, "experts down") == 0;
        if ((!gate && !down) || n < op->least || n > op->most)
            continue;
        const uint32_t n_changed = changed_words(&k, op, kernel_trial_of(s, SC_Q4_K, n, 0));
        /* one token's experts are summed; where the norm is taken apart, its result is a value too */
        const uint32_t want = gate     ? n_pairs * s->n_ff
                              : n == 1 ? s->n_embd
                                       : n_pairs * s->n_embd,
                       spare = n == 1 ? s->n_embd : 0;
        if (n_changed > want + spare || n_changed < want - want / 100)
            fail_msg("%s with %u tokens wrote %u values of %u", op->name, n, n_changed, want);
    }
    kernel_trials_finish(&k);
    gpu_destroy(gpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_operation_is_measured),  cmocka_unit_test(test_variants_are_measured_one_by_one),
        cmocka_unit_test(test_a_refused_kernel_is_left_out), cmocka_unit_test(test_it_stops_when_told_to),
        cmocka_unit_test(test_wrong_parameters_are_told),    cmocka_unit_test(test_counts_are_those_of_the_model),
        cmocka_unit_test(test_experts_compute_every_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
