/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "findings.h"
#include "gpu_timer.h"
#include "kernel_trials.h"

enum { DEFAULT_REPETITIONS = 5, MAX_REPETITIONS = 100, MAX_REPEATS = 128, N_READERS = 1 << 16, CACHE_LINE = 64 };

static const uint64_t MAX_WEIGHT_BYTES = 1 << 30, LEAST_COPIES = 64; /* of the largest operation */
static const double REPETITION_SECONDS = 0.01,                       /* in which the operation runs as often as fits */
    CASE_SECONDS = 1, LONGEST_SECONDS = 5;
static const uint32_t DEPTHS[] = {0, 4096, 16384, 32768};
static const uint32_t N_TOKENS[] = {1, 16, 512};
static const enum sc_type TYPES[] = {SC_Q4_K, SC_Q6_K, SC_Q8_0}, CACHE_TYPES[] = {SC_F16, SC_Q8_0};

struct bench {
    struct sc_kernel_bench_params p; /* the defaults filled in */
    struct gpu *gpu;
    struct gpu_timer timer;
    struct kernel_trials trials;
    double read_rate, copy_rate;
};

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static uint32_t repeats_of(double seconds)
{
    const double n = REPETITION_SECONDS / seconds;
    return n < 1 ? 1 : n < MAX_REPEATS ? (uint32_t)n : MAX_REPEATS;
}

/* The median seconds of what `record` puts into the commands. */
static bool time_it(struct bench *b, void (*record)(struct bench *, const void *, uint32_t repeats), const void *what,
                    double *seconds, struct sc_error *e)
{
    double times[MAX_REPETITIONS], all = 0;
    uint32_t repeats = 1, n = 0;
    struct commands *c = &b->trials.commands;
    for (uint32_t run = 0; n == 0 || (n < b->p.n_repetitions && all < CASE_SECONDS); run++) {
        double t;
        commands_begin(c, false);
        gpu_timer_start(&b->timer, c);
        record(b, what, repeats);
        gpu_timer_stop(&b->timer, c);
        if (!gpu_timer_run(&b->timer, c, &t, e))
            return false;
        if (run == 0 || (run == 1 && t < CASE_SECONDS)) { /* some drivers compile in the first one */
            repeats = repeats_of(t);
            continue;
        }
        all += t;
        times[n++] = t / repeats;
    }
    qsort(times, n, sizeof(times[0]), compare_doubles);
    *seconds = times[n / 2];
    return true;
}

/* ---- the device's own rates ---- */

static void record_read(struct bench *b, const void *unused, uint32_t repeats)
{
    const struct buffer *w = &b->trials.weights;
    const struct tensor to = {.address = b->trials.values.address, .type = SC_F32, .rows = 1, .cols = N_READERS};
    (void)unused;
    for (uint32_t i = 0; i < repeats; i++) {
        op_read(&b->trials.commands, to,
                (struct tensor){
                    .address = w->address, .type = SC_F32, .rows = (uint32_t)(w->size_bytes / CACHE_LINE), .cols = 16});
        commands_barrier(&b->trials.commands);
    }
}

static void record_copy(struct bench *b, const void *unused, uint32_t repeats)
{
    const struct buffer *w = &b->trials.weights;
    const uint64_t half = w->size_bytes / 2 / CACHE_LINE * CACHE_LINE;
    (void)unused;
    for (uint32_t i = 0; i < repeats; i++) {
        commands_copy(&b->trials.commands, w, i % 2 ? half : 0, w, i % 2 ? 0 : half, half);
        commands_barrier(&b->trials.commands);
    }
}

static bool measure_device(struct bench *b, struct sc_error *e)
{
    struct kernel_trials *k = &b->trials;
    double read, copy;
    if (!kernel_trials_fill(k, SC_F32, e) ||
        !buffer_init(b->gpu, &k->values, MEMORY_DEVICE, N_READERS * sizeof(uint32_t), "the benchmark", e) ||
        !time_it(b, record_read, NULL, &read, e) || !time_it(b, record_copy, NULL, &copy, e))
        return false;
    b->read_rate = (double)k->weights.size_bytes / read;
    b->copy_rate = (double)k->weights.size_bytes / copy;
    return true;
}

/* ---- the operations ---- */

struct one_case {
    const struct kernel_op *op;
    struct kernel_trial trial;
};

static void record_case(struct bench *b, const void *what, uint32_t repeats)
{
    const struct one_case *c = what;
    kernel_trials_record(&b->trials, c->op, &c->trial, repeats);
}

/* A driver may refuse a kernel: that is told in the place of its times, and the others are measured. */
static bool measure_case(struct bench *b, const struct kernel_op *op, const struct kernel_trial *trial,
                         const char *variant, double *flops, struct sc_error *e)
{
    struct one_case c = {.op = op, .trial = *trial};
    struct sc_error failure = {0};
    double seconds = 0;
    if (!kernel_trials_prepare(&b->trials, op, &c.trial, &failure) || !time_it(b, record_case, &c, &seconds, &failure))
        if (failure.code != SC_UNSUPPORTED)
            return sc_fail(e, failure.code, "%s", failure.text);
    kernel_measure(op, &c.trial);
    *flops = seconds > 0 ? c.trial.flop / seconds : 0;
    const struct sc_kernel_result r = {
        .shape = trial->shape->name,
        .op = op->name,
        .type = op->weights == WEIGHTS_NONE ? "" : sc_type_info((uint32_t)trial->type)->name,
        .size = c.trial.size,
        .variant = variant,
        .failure = failure.code ? failure.text : NULL,
        .n_tokens = trial->n,
        .seconds = seconds,
        .bytes = c.trial.bytes,
        .flop = c.trial.flop,
        .read_rate = b->read_rate,
        .copy_rate = b->copy_rate,
        .by_device_clock = b->timer.pool != VK_NULL_HANDLE,
    };
    return b->p.report(b->p.user, &b->gpu->info, &r) || sc_fail(e, SC_CANCELLED, "interrupted");
}

/* *flops: of the case before this one, 0 if there was none; a case that would take too long by it is left out. */
static bool measure_variants(struct bench *b, const struct kernel_op *op, const struct kernel_trial *trial,
                             double *flops, struct sc_error *e)
{
    struct kernel_trial told = *trial;
    uint32_t n = 1;
    bool ok = true;
    kernel_measure(op, &told);
    const enum family family = told.family;
    const struct tensor *w = &told.matrix;
    if (told.weight_bytes > b->trials.weights.size_bytes || (*flops > 0 && told.flop / *flops > LONGEST_SECONDS))
        return true;
    if (family == N_FAMILIES)
        return measure_case(b, op, trial, "", flops, e);
    if (!b->p.all_variants)
        return measure_case(b, op, trial, variant_of(b->gpu, family, w->type, w->rows, w->cols)->name, flops, e);
    const struct variant *variants = family_variants(family, &n);
    for (uint32_t i = 0; i < n && ok; i++) {
        if (!variant_is_usable(b->gpu, family, i, w->type))
            continue;
        b->gpu->choices.forced[family] = (uint8_t)(1 + i);
        ok = measure_case(b, op, trial, variants[i].name, flops, e);
    }
    b->gpu->choices.forced[family] = 0;
    return ok;
}

static bool measure_op(struct bench *b, const struct kernel_op *op, const struct kernel_shape *s, enum sc_type type,
                       struct sc_error *e)
{
    const size_t n_depths = op->has_depth ? sizeof(DEPTHS) / sizeof(DEPTHS[0]) : 1;
    double flops = 0;
    for (size_t i = 0; i < b->p.n_n_tokens * n_depths; i++) {
        const uint32_t n = b->p.n_tokens[i / n_depths], depth = DEPTHS[i % n_depths];
        const struct kernel_trial trial = kernel_trial_of(s, type, n, depth);
        if (n >= op->least && n <= op->most && depth <= s->n_ctx && !measure_variants(b, op, &trial, &flops, e))
            return false;
    }
    return true;
}

static bool has_columns(const struct kernel_shape *s, enum sc_type type)
{
    const uint32_t block = sc_type_info(type)->block_size;
    return s->n_embd % block == 0 && s->n_ff % block == 0;
}

/* Those operations whose weights, or cache, are of this type; with F32 those that have none. */
static bool measure_type(struct bench *b, const struct kernel_shape *s, enum kernel_weights weights, enum sc_type type,
                         struct sc_error *e)
{
    size_t n_ops;
    const struct kernel_op *ops = kernel_ops(&n_ops);
    if (!has_columns(s, type))
        return true;
    if (!(weights == WEIGHTS_CACHE ? kernel_trials_fill_cache : kernel_trials_fill)(&b->trials, type, e))
        return false;
    for (size_t i = 0; i < n_ops; i++)
        if ((ops[i].weights == weights || (ops[i].weights == WEIGHTS_NONE && weights == WEIGHTS_F32)) &&
            ops[i].is_in(s) && !measure_op(b, &ops[i], s, type, e))
            return false;
    return true;
}

static bool is_chosen(const struct bench *b, const struct kernel_shape *s)
{
    return strcmp(s->name, b->p.shape ? b->p.shape : "tiny") == 0 ? b->p.shape != NULL : b->p.shape == NULL;
}

static bool measure(struct bench *b, struct sc_error *e)
{
    size_t n_shapes;
    const struct kernel_shape *shapes = kernel_shapes(&n_shapes);
    for (size_t i = 0; i < n_shapes; i++) {
        if (!is_chosen(b, &shapes[i]))
            continue;
        if (!measure_type(b, &shapes[i], WEIGHTS_F32, SC_F32, e))
            return false;
        for (size_t t = 0; t < sizeof(CACHE_TYPES) / sizeof(CACHE_TYPES[0]); t++)
            if (!measure_type(b, &shapes[i], WEIGHTS_CACHE, CACHE_TYPES[t], e))
                return false;
        for (size_t t = 0; t < b->p.n_types; t++)
            if (!measure_type(b, &shapes[i], WEIGHTS_TYPED, b->p.types[t], e))
                return false;
    }
    return true;
}

/* So much that caches hold little of even the largest operation's copies. */
static uint64_t wanted_bytes(const struct bench *b)
{
    size_t n_shapes, n_ops;
    const struct kernel_shape *shapes = kernel_shapes(&n_shapes);
    const struct kernel_op *ops = kernel_ops(&n_ops);
    uint64_t most = 1;
    for (size_t i = 0; i < n_shapes * n_ops * b->p.n_types; i++) {
        const struct kernel_shape *s = &shapes[i / n_ops / b->p.n_types];
        const struct kernel_op *op = &ops[i / b->p.n_types % n_ops];
        if (!is_chosen(b, s) || !op->is_in(s))
            continue;
        struct kernel_trial t = kernel_trial_of(s, b->p.types[i % b->p.n_types], 1, 0);
        kernel_measure(op, &t);
        most = t.weight_bytes > most ? t.weight_bytes : most;
    }
    return most < MAX_WEIGHT_BYTES / LEAST_COPIES ? most * LEAST_COPIES : MAX_WEIGHT_BYTES;
}

static bool complete(struct sc_kernel_bench_params *p, struct sc_error *e)
{
    size_t n_shapes, i = 0;
    const struct kernel_shape *shapes = kernel_shapes(&n_shapes);
    while (p->shape && i < n_shapes && strcmp(shapes[i].name, p->shape) != 0)
        i++;
    if (i == n_shapes)
        return sc_fail(e, SC_INVALID_ARGUMENT,
                       "there is no shape \"%.40s\"; there are 8x7b, 8x22b, 7b, 30b-a3b and tiny", p->shape);
    if (!p->n_types) {
        p->types = TYPES;
        p->n_types = sizeof(TYPES) / sizeof(TYPES[0]);
    }
    if (!p->n_n_tokens) {
        p->n_tokens = N_TOKENS;
        p->n_n_tokens = sizeof(N_TOKENS) / sizeof(N_TOKENS[0]);
    }
    for (i = 0; i < p->n_types; i++)
        if (!sc_type_info((uint32_t)p->types[i]))
            return sc_fail(e, SC_INVALID_ARGUMENT,
                           "the benchmark of kernels was called with a type that does not exist");
    for (i = 0; i < p->n_n_tokens; i++)
        if (p->n_tokens[i] < 1 || p->n_tokens[i] > KERNEL_MAX_TOKENS)
            return sc_fail(e, SC_INVALID_ARGUMENT, "kernels are measured with 1 to %d tokens, not with %u",
                           KERNEL_MAX_TOKENS, p->n_tokens[i]);
    p->n_repetitions = p->n_repetitions ? p->n_repetitions : DEFAULT_REPETITIONS;
    p->n_repetitions = p->n_repetitions < MAX_REPETITIONS ? p->n_repetitions : MAX_REPETITIONS;
    return true;
}

bool sc_kernel_bench(const struct sc_kernel_bench_params *params, struct sc_error *e)
{
    struct bench b = {.p = *params};
    if (!complete(&b.p, e))
        return false;
    b.gpu = gpu_create(b.p.device, b.p.cache_dir, e);
    if (b.gpu) {
        b.gpu->choices.may_round = b.gpu->info.kind != SC_DEVICE_CPU;
        findings_load(b.gpu, b.p.cache_dir);
    }
    const bool ok = b.gpu && gpu_timer_init(&b.timer, b.gpu, e) &&
                    kernel_trials_init(&b.trials, b.gpu, wanted_bytes(&b), e) && measure_device(&b, e) &&
                    measure(&b, e);
    if (b.gpu)
        b.gpu->vk.vkDeviceWaitIdle(b.gpu->device);
    kernel_trials_finish(&b.trials);
    gpu_timer_finish(&b.timer);
    gpu_destroy(b.gpu);
    return ok;
}
