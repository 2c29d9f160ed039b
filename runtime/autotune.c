/* SPDX-License-Identifier: Apache-2.0 */
#include "autotune.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "gpu_timer.h"
#include "kernel_trials.h"

enum { N_COLUMNS = 3, MAX_COLUMNS = 256, N_TIMES = 3, MAX_REPEATS = 64, ALIGNMENT = 256 };
static_assert(N_COLUMNS * AUTOTUNE_MAX_MATRICES <= MAX_TUNED, "a model must not push out its own");

static const uint64_t WEIGHT_BYTES = 256 << 20; /* more than caches hold */
static const double RUN_SECONDS = 0.003,        /* of one timing, in which the matrix is multiplied as often as fits */
    CLEARLY = 0.97;                             /* of the time of the one before it in the table */

/*
 * What the matrix is multiplied by, each time standing for a family: one column, a few, as many as a long prompt gives
 * it, so that tiles are judged by how full they will be.
 */
static uint32_t columns_of(const struct matrix_shape *m, uint32_t c)
{
    static const uint32_t columns[N_COLUMNS] = {1, 8, MAX_COLUMNS};
    uint32_t n = m->n_columns && m->n_columns < columns[c] ? m->n_columns : columns[c];
    while (family_for(n) < family_for(columns[c]))
        n++;
    return n;
}

struct tuner {
    struct gpu *gpu;
    struct gpu_timer timer;
    struct kernel_trials trials; /* its weights and commands */
    struct buffer values;        /* x, then y, then scratch */
    enum sc_type filled;         /* what the weights are */
    bool is_filled;
};

/* NULL: nothing was timed yet. */
static struct tuned *find_tuned(struct gpu *gpu, enum family family, const struct matrix_shape *m)
{
    struct findings *f = &gpu->choices.findings;
    for (uint32_t i = 0; i < f->n_tuned; i++)
        if (f->tuned[i].family == family && f->tuned[i].type == m->type && f->tuned[i].rows == m->rows &&
            f->tuned[i].cols == m->cols)
            return &f->tuned[i];
    return NULL;
}

/* Variants from `first` on. */
static uint32_t n_usable(const struct gpu *gpu, enum family family, enum sc_type type, uint32_t first)
{
    uint32_t n, usable = 0;
    (void)family_variants(family, &n);
    for (uint32_t i = first; i < n; i++)
        usable += variant_is_usable(gpu, family, i, type);
    return usable;
}

/* How often different weights of this shape lie in so much memory; 0: not once. */
static uint64_t n_copies(const struct matrix_shape *m, uint64_t weight_bytes, uint64_t *stride)
{
    const struct tensor w = {.type = m->type, .rows = m->rows, .cols = m->cols};
    const uint64_t unit = kernel_unit(m->type), bytes = tensor_size_bytes(&w) + BUFFER_PADDING_BYTES;
    *stride = (bytes + unit - 1) / unit * unit;
    return weight_bytes / *stride;
}

/* Whether there is something to find out, and memory for it. */
static bool is_open(struct gpu *gpu, enum family family, const struct matrix_shape *m, uint64_t weight_bytes)
{
    const struct tuned *known = find_tuned(gpu, family, m);
    uint64_t stride;
    return n_copies(m, weight_bytes, &stride) > 0 &&
           (known ? n_usable(gpu, family, m->type, known->next) > 0 : n_usable(gpu, family, m->type, 0) > 1);
}

/* What this model has found goes behind the rest: what was wanted longest ago makes room for new findings. */
static void keep(struct gpu *gpu, enum family family, const struct matrix_shape *m)
{
    struct findings *f = &gpu->choices.findings;
    struct tuned *known = find_tuned(gpu, family, m);
    if (!known)
        return;
    const struct tuned wanted = *known;
    memmove(known, known + 1, (size_t)(&f->tuned[--f->n_tuned] - known) * sizeof(*known));
    f->tuned[f->n_tuned++] = wanted;
}

static struct tuned *add(struct findings *f)
{
    if (f->n_tuned == MAX_TUNED)
        memmove(f->tuned, f->tuned + 1, --f->n_tuned * sizeof(f->tuned[0]));
    return &f->tuned[f->n_tuned++];
}

static uint64_t value_bytes(const struct autotune *a)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < a->n_matrices; i++) {
        const struct matrix_shape *m = &a->matrices[i];
        const uint64_t bytes = ((uint64_t)m->rows + m->cols) * MAX_COLUMNS * sizeof(float) + ALIGNMENT +
                               op_scratch_bytes(MAX_COLUMNS, m->cols);
        most = most < bytes ? bytes : most;
    }
    return most;
}

/* For weights, beside the values. */
static uint64_t weight_bytes(const struct gpu *gpu, const struct autotune *a)
{
    const uint64_t values = value_bytes(a), most = a->max_bytes > values ? a->max_bytes - values : 0;
    return kernel_trials_bytes(gpu, most < WEIGHT_BYTES ? most : WEIGHT_BYTES);
}

static bool tuner_init(struct tuner *t, struct gpu *gpu, const struct autotune *a, struct sc_error *e)
{
    *t = (struct tuner){.gpu = gpu};
    return gpu_timer_init(&t->timer, gpu, e) && kernel_trials_init(&t->trials, gpu, weight_bytes(gpu, a), e) &&
           buffer_init(gpu, &t->values, MEMORY_DEVICE, value_bytes(a), "choosing kernels", e);
}

static void tuner_finish(struct tuner *t)
{
    t->gpu->vk.vkDeviceWaitIdle(t->gpu->device);
    buffer_finish(t->gpu, &t->values);
    kernel_trials_finish(&t->trials);
    gpu_timer_finish(&t->timer);
}

/*
 * One run of `repeats` products, the first with copy `first` of the weights. Those of many columns but fewer than
 * MAX_COLUMNS run side by side, as those of a layer's experts do; others wait for each other.
 */
static bool time_run(struct tuner *t, uint32_t n_columns, const struct matrix_shape *m, uint32_t repeats,
                     uint64_t first, double *seconds, struct sc_error *e)
{
    struct commands *c = &t->trials.commands;
    uint64_t stride;
    const uint64_t copies = n_copies(m, t->trials.weights.size_bytes, &stride),
                   x_bytes = (uint64_t)n_columns * m->cols * sizeof(float);
    const struct tensor x = {.address = t->values.address, .type = SC_F32, .rows = n_columns, .cols = m->cols},
                        first_y = {.address = x.address + x_bytes, .type = SC_F32, .rows = x.rows, .cols = m->rows};
    const uint32_t n_beside = family_for(n_columns) == FAMILY_MATMUL ? MAX_COLUMNS / n_columns : 1;
    const uint64_t used = (x_bytes + n_beside * tensor_size_bytes(&first_y) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT,
                   scratch_bytes = op_scratch_bytes(n_columns, m->cols);
    commands_begin(c, false);
    gpu_timer_start(&t->timer, c);
    for (uint32_t i = 0; i < repeats; i++) {
        const struct tensor w = {.address = t->trials.weights.address + (first + i) % copies * stride,
                                 .type = m->type,
                                 .rows = m->rows,
                                 .cols = m->cols};
        struct tensor y = first_y;
        y.address += i % n_beside * tensor_size_bytes(&y);
        c->scratch =
            (struct access){.address = x.address + used + i % n_beside * scratch_bytes, .size_bytes = scratch_bytes};
        op_linear(c, y, w, x);
    }
    gpu_timer_stop(&t->timer, c);
    return gpu_timer_run(&t->timer, c, seconds, e);
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median seconds of a product. */
static bool time_variant(struct tuner *t, uint32_t n_columns, uint32_t variant, const struct matrix_shape *m,
                         double *seconds, struct sc_error *e)
{
    double times[N_TIMES], once = 0;
    uint8_t *forced = &t->gpu->choices.forced[family_for(n_columns)];
    const uint8_t before = *forced;
    *forced = (uint8_t)(1 + variant);
    bool ok = time_run(t, n_columns, m, 1, 0, &once, e); /* compiles, and warms up */
    ok = ok && time_run(t, n_columns, m, 1, 1, &once, e);
    const double fitting = ok ? RUN_SECONDS / once : 1;
    const uint32_t repeats = fitting < 1 ? 1 : fitting > MAX_REPEATS ? MAX_REPEATS : (uint32_t)fitting;
    for (uint32_t i = 0; ok && i < N_TIMES; i++)
        ok = time_run(t, n_columns, m, repeats, 2 + i * repeats, &times[i], e);
    *forced = before;
    if (!ok)
        return false;
    qsort(times, N_TIMES, sizeof(times[0]), compare_doubles);
    *seconds = times[N_TIMES / 2] / repeats;
    return true;
}

/* Goes on with the variants until `deadline`, with one at least; the next start does with those that are left. */
static bool tune_matrix(struct tuner *t, uint32_t n_columns, const struct matrix_shape *m, struct listener listener,
                        double deadline, struct sc_error *e)
{
    const enum family family = family_for(n_columns);
    struct findings *f = &t->gpu->choices.findings;
    struct tuned *best = find_tuned(t->gpu, family, m);
    uint32_t n;
    (void)family_variants(family, &n);
    if (!t->is_filled || t->filled != m->type) {
        if (!kernel_trials_fill(&t->trials, m->type, e))
            return false;
        t->filled = m->type;
        t->is_filled = true;
    }
    if (!best) {
        best = add(f);
        *best = (struct tuned){.family = family, .type = m->type, .rows = m->rows, .cols = m->cols};
    }
    for (bool is_first = true; best->next < n && (is_first || clock_seconds() < deadline); best->next++) {
        bool is_right;
        double seconds;
        if (!variant_is_usable(t->gpu, family, best->next, m->type))
            continue;
        is_first = false;
        if (!self_test_variant(t->gpu, family, best->next, m->type, listener, &is_right, e))
            return false;
        if (!is_right)
            continue;
        if (!time_variant(t, n_columns, best->next, m, &seconds, e))
            return false;
        if (!(best->seconds > 0) || seconds < (double)best->seconds * CLEARLY) {
            best->seconds = (float)seconds;
            best->variant = best->next;
        }
    }
    return true;
}

/* Each open matrix gets its share of the time that is left. */
static bool tune_all(struct tuner *t, const struct autotune *a, uint32_t n_open, struct sc_error *e)
{
    const double end = clock_seconds() + a->seconds;
    uint32_t done = 0;
    for (uint32_t c = 0; c < N_COLUMNS; c++)
        for (uint32_t i = 0; i < a->n_matrices; i++) {
            const struct matrix_shape *m = &a->matrices[i];
            if (!is_open(t->gpu, family_for(columns_of(m, c)), m, t->trials.weights.size_bytes))
                continue;
            if (a->progress && !a->progress(a->user, SC_PHASE_TUNE, done, n_open))
                return sc_fail(e, SC_CANCELLED, "choosing the kernels was cancelled");
            const double now = clock_seconds(), left = end - now;
            if (left > 0 && !tune_matrix(t, columns_of(m, c), m, a->listener, now + left / (n_open - done), e))
                return false;
            done++;
        }
    if (a->progress && !a->progress(a->user, SC_PHASE_TUNE, n_open, n_open))
        return sc_fail(e, SC_CANCELLED, "choosing the kernels was cancelled");
    return true;
}

bool autotune(struct gpu *gpu, const struct autotune *a, struct sc_error *e)
{
    struct tuner t;
    struct sc_error failure = {0};
    const uint64_t bytes = weight_bytes(gpu, a);
    uint32_t n_open = 0;
    for (uint32_t c = 0; c < N_COLUMNS; c++)
        for (uint32_t i = 0; i < a->n_matrices; i++) {
            const struct matrix_shape *m = &a->matrices[i];
            keep(gpu, family_for(columns_of(m, c)), m);
            n_open += is_open(gpu, family_for(columns_of(m, c)), m, bytes);
        }
    if (n_open == 0)
        return true;
    const bool ok = tuner_init(&t, gpu, a, &failure) && tune_all(&t, a, n_open, &failure);
    tuner_finish(&t);
    return ok || failure.code == SC_OUT_OF_DEVICE_MEMORY || failure.code == SC_OUT_OF_MEMORY ||
           sc_fail(e, failure.code, "%s", failure.text);
}
