/* SPDX-License-Identifier: Apache-2.0 */
#include "autotune.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "findings.h"
#include "gpu_timer.h"
#include "kernel_trials.h"

enum { N_COLUMNS = 3, MAX_COLUMNS = 256, N_TIMES = 3, MAX_REPEATS = 64 };
enum { ONE_DEPTH = 4096, MANY_DEPTH = 2048, MANY_QUERIES = 512 }; /* attention's, at most */
enum { MAX_SUBJECTS = N_COLUMNS * AUTOTUNE_MAX_MATRICES + 2 };
static_assert((int)MAX_SUBJECTS <= (int)MAX_TUNED, "a model must not push out its own");

static const uint64_t WEIGHT_BYTES = 256 << 20; /* more than caches hold */
static const double RUN_SECONDS = 0.003,        /* of one timing, in which the operation runs as often as fits */
    WAKE_SECONDS = 0.1,                         /* of work, until clocks have risen */
    CLEARLY = 0.97,                             /* of the time of the one before it in the table */
    HOPELESS = 3;                               /* times that: two long runs are enough to tell */

/* What a family's variants are timed with. */
struct subject {
    const struct kernel_op *op;
    struct kernel_shape shape;
    enum sc_type type; /* of weights or cache */
    uint32_t n, n_beside, depth;

    /* what recording it tells, see kernel_cases.h */
    enum family family;
    struct tensor key;
    uint64_t weight_bytes, value_bytes;
};

struct subjects {
    struct subject list[MAX_SUBJECTS];
    uint32_t n;
    uint64_t value_bytes; /* the most */
};

struct tuner {
    struct gpu *gpu;
    struct gpu_timer timer;
    struct kernel_trials trials;
    const struct subject *filled; /* what the weights are for */
    bool is_awake;                /* the device's clocks have risen */
};

/* ---- what is timed ---- */

static struct kernel_trial trial_of(const struct subject *s)
{
    struct kernel_trial t = kernel_trial_of(&s->shape, s->type, s->n, s->depth);
    t.n_beside = s->n_beside;
    return t;
}

static void measure(struct subject *s)
{
    struct kernel_trial t = trial_of(s);
    kernel_measure(s->op, &t);
    s->family = t.family;
    s->key = t.matrix;
    s->weight_bytes = t.weight_bytes;
    s->value_bytes = kernel_trials_value_bytes(&t);
}

static void add_subject(struct subjects *all, struct subject s, enum family family)
{
    s.shape.n_vocab = 1;
    measure(&s);
    if (s.family != family)
        return;
    all->list[all->n++] = s;
    all->value_bytes = s.value_bytes > all->value_bytes ? s.value_bytes : all->value_bytes;
}

/* One token with a cache behind it, or a pass of many, which a model with small passes never has. */
static void add_attention(struct subjects *all, const struct autotune *a, enum family family)
{
    const bool is_one = family == FAMILY_ATTENTION;
    const uint32_t most = is_one ? 1 : MANY_QUERIES, n_batch = a->n_batch < most ? a->n_batch : most;
    const uint32_t n = n_batch < a->n_seen ? n_batch : a->n_seen;
    const uint32_t left = a->n_seen - n, depth = is_one ? ONE_DEPTH : MANY_DEPTH;
    const struct subject s = {
        .op = &kernel_attention,
        .shape = {.n_heads = a->heads.n, .n_kv_heads = a->heads.n_kv, .head_dim = a->heads.dim},
        .type = a->cache_type,
        .n = n,
        .n_beside = 1,
        .depth = depth < left ? depth : left,
    };
    if (a->heads.n && n)
        add_subject(all, s, family);
}

/*
 * What the matrix is multiplied by, each time standing for a family: one column, a few, as many as a long prompt gives
 * it, so that tiles are judged by how full they will be. Those of many columns but fewer than MAX_COLUMNS run side by
 * side, as those of a layer's experts do.
 */
static void add_product(struct subjects *all, const struct matrix_shape *m, uint32_t c)
{
    static const uint32_t columns[N_COLUMNS] = {1, 8, MAX_COLUMNS};
    const enum family family = family_for(columns[c]);
    uint32_t n = m->n_columns && m->n_columns < columns[c] ? m->n_columns : columns[c];
    while (family_for(n) < family)
        n++;
    const struct subject s = {
        .op = &kernel_products,
        .shape = {.n_ff = m->rows, .n_embd = m->cols},
        .type = m->type,
        .n = n,
        .n_beside = family == FAMILY_MATMUL ? MAX_COLUMNS / n : 1,
    };
    add_subject(all, s, family);
}

/* Attention comes before the products of as many tokens: one finding serves all layers. */
static void find_subjects(struct subjects *all, const struct autotune *a)
{
    for (uint32_t c = 0; c < N_COLUMNS; c++) {
        if (c == 0)
            add_attention(all, a, FAMILY_ATTENTION);
        if (c == N_COLUMNS - 1)
            add_attention(all, a, FAMILY_ATTENTION_MANY);
        for (uint32_t i = 0; i < a->n_matrices; i++)
            add_product(all, &a->matrices[i], c);
    }
}

/* ---- what is known ---- */

/* NULL: nothing was timed yet. */
static struct tuned *find_tuned(struct gpu *gpu, const struct subject *s)
{
    struct findings *f = &gpu->choices.findings;
    for (uint32_t i = 0; i < f->n_tuned; i++)
        if (f->tuned[i].family == s->family && f->tuned[i].type == s->key.type && f->tuned[i].rows == s->key.rows &&
            f->tuned[i].cols == s->key.cols)
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

/* Whether there is something to find out, and memory for it. */
static bool is_open(struct gpu *gpu, const struct subject *s, uint64_t weight_bytes)
{
    const struct tuned *known = find_tuned(gpu, s);
    const uint32_t left = n_usable(gpu, s->family, s->type, known ? known->next : 0);
    return s->weight_bytes <= weight_bytes && left > (known ? 0 : 1);
}

/* What this model has found goes behind the rest: what was wanted longest ago makes room for new findings. */
static void keep(struct gpu *gpu, const struct subject *s)
{
    struct findings *f = &gpu->choices.findings;
    struct tuned *known = find_tuned(gpu, s);
    if (!known)
        return;
    const struct tuned wanted = *known;
    memmove(known, known + 1, (size_t)(&f->tuned[--f->n_tuned] - known) * sizeof(*known));
    f->tuned[f->n_tuned++] = wanted;
}

static struct tuned *add(struct findings *f, const struct subject *s)
{
    if (f->n_tuned == MAX_TUNED)
        memmove(f->tuned, f->tuned + 1, --f->n_tuned * sizeof(f->tuned[0]));
    struct tuned *new = &f->tuned[f->n_tuned++];
    *new = (struct tuned){.family = s->family, .type = s->key.type, .rows = s->key.rows, .cols = s->key.cols};
    return new;
}

/* ---- timing ---- */

static bool tuner_init(struct tuner *t, struct gpu *gpu, uint64_t weight_bytes, struct sc_error *e)
{
    *t = (struct tuner){.gpu = gpu};
    return gpu_timer_init(&t->timer, gpu, e) && kernel_trials_init(&t->trials, gpu, weight_bytes, e);
}

static void tuner_finish(struct tuner *t)
{
    t->gpu->vk.vkDeviceWaitIdle(t->gpu->device);
    kernel_trials_finish(&t->trials);
    gpu_timer_finish(&t->timer);
}

/* The trial gets its memory; weights are filled only if they are not yet what it takes. */
static bool prepare(struct tuner *t, const struct subject *s, struct kernel_trial *trial, struct sc_error *e)
{
    const struct subject *before = t->filled;
    if (!before || before->type != s->type || before->op != s->op) {
        t->filled = NULL;
        if (!(s->op == &kernel_attention ? kernel_trials_fill_cache : kernel_trials_fill)(&t->trials, s->type, e))
            return false;
        t->filled = s;
    }
    *trial = trial_of(s);
    return kernel_trials_prepare(&t->trials, s->op, trial, e);
}

static bool time_run(struct tuner *t, const struct subject *s, const struct kernel_trial *trial, uint32_t repeats,
                     double *seconds, struct sc_error *e)
{
    struct commands *c = &t->trials.commands;
    commands_begin(c, false);
    gpu_timer_start(&t->timer, c);
    kernel_trials_record(&t->trials, s->op, trial, repeats);
    gpu_timer_stop(&t->timer, c);
    return gpu_timer_run(&t->timer, c, seconds, e);
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A device that was idle has low clocks, which would be held against the variant that happens to be the first. */
static bool wake(struct tuner *t, const struct subject *s, const struct kernel_trial *trial, struct sc_error *e)
{
    const double end = clock_seconds() + WAKE_SECONDS;
    double ignored;
    for (uint32_t repeats = 1; !t->is_awake && clock_seconds() < end; repeats *= repeats < MAX_REPEATS ? 2 : 1)
        if (!time_run(t, s, trial, repeats, &ignored, e))
            return false;
    t->is_awake = true;
    return true;
}

/* The median seconds of the operation. best: of the variants before this one, 0 if there are none. */
static bool time_variant(struct tuner *t, const struct subject *s, const struct kernel_trial *trial, uint32_t variant,
                         double best, double *seconds, struct sc_error *e)
{
    double times[N_TIMES], once = 0;
    uint8_t *forced = &t->gpu->choices.forced[s->family];
    const uint8_t before = *forced;
    *forced = (uint8_t)(1 + variant);
    bool ok = time_run(t, s, trial, 1, &once, e); /* compiles, and warms up */
    ok = ok && wake(t, s, trial, e) && time_run(t, s, trial, 1, &once, e);
    const double fitting = ok ? RUN_SECONDS / once : 1;
    const uint32_t repeats = fitting < 1 ? 1 : fitting > MAX_REPEATS ? MAX_REPEATS : (uint32_t)fitting;
    const uint32_t n_times = best > 0 && once > best * HOPELESS && once > RUN_SECONDS ? 1 : N_TIMES;
    for (uint32_t i = 0; ok && i < n_times; i++)
        ok = time_run(t, s, trial, repeats, &times[i], e);
    *forced = before;
    if (!ok)
        return false;
    qsort(times, n_times, sizeof(times[0]), compare_doubles);
    *seconds = times[n_times / 2] / repeats;
    return true;
}

/* Goes on with the variants until `deadline`, with one at least; the next start does with those that are left. */
static bool tune(struct tuner *t, const struct subject *s, struct listener listener, double deadline,
                 struct sc_error *e)
{
    struct tuned *best = find_tuned(t->gpu, s);
    struct kernel_trial trial;
    uint32_t n;
    (void)family_variants(s->family, &n);
    if (!prepare(t, s, &trial, e))
        return false;
    if (!best)
        best = add(&t->gpu->choices.findings, s);
    for (bool is_first = true; best->next < n && (is_first || clock_seconds() < deadline); best->next++) {
        bool is_right;
        double seconds;
        if (!variant_is_usable(t->gpu, s->family, best->next, s->type))
            continue;
        is_first = false;
        if (!self_test_variant(t->gpu, s->family, best->next, s->type, listener, &is_right, e))
            return false;
        if (!is_right)
            continue;
        findings_begin_test(t->gpu, s->family, best->next, s->type);
        const bool is_timed = time_variant(t, s, &trial, best->next, (double)best->seconds, &seconds, e);
        findings_end_test(t->gpu, is_timed ? SC_OK : e->code);
        if (!is_timed)
            return false;
        if (!(best->seconds > 0) || seconds < (double)best->seconds * CLEARLY) {
            best->seconds = (float)seconds;
            best->variant = best->next;
        }
    }
    return true;
}

/* Each open subject gets its share of the time that is left. */
static bool tune_all(struct tuner *t, const struct subjects *all, const struct autotune *a, uint32_t n_open,
                     struct sc_error *e)
{
    const double end = clock_seconds() + a->seconds;
    uint32_t done = 0;
    for (uint32_t i = 0; i < all->n; i++) {
        const struct subject *s = &all->list[i];
        if (!is_open(t->gpu, s, t->trials.weights.size_bytes))
            continue;
        if (a->progress && !a->progress(a->user, SC_PHASE_TUNE, done, n_open))
            return sc_fail(e, SC_CANCELLED, "choosing the kernels was cancelled");
        const double now = clock_seconds(), left = end - now;
        if (left > 0 && !tune(t, s, a->listener, now + left / (n_open - done), e))
            return false;
        done++;
    }
    if (a->progress && !a->progress(a->user, SC_PHASE_TUNE, n_open, n_open))
        return sc_fail(e, SC_CANCELLED, "choosing the kernels was cancelled");
    return true;
}

/* For weights, beside the values; where they are few, fewer products run side by side. */
static uint64_t share_memory(struct subjects *all, const struct gpu *gpu, uint64_t max_bytes)
{
    const uint64_t most = max_bytes > all->value_bytes ? max_bytes - all->value_bytes : 0;
    const uint64_t weight_bytes = kernel_trials_bytes(gpu, most < WEIGHT_BYTES ? most : WEIGHT_BYTES);
    for (uint32_t i = 0; i < all->n; i++)
        while (all->list[i].n_beside > 1 && all->list[i].weight_bytes > weight_bytes) {
            all->list[i].n_beside--;
            measure(&all->list[i]);
        }
    return weight_bytes;
}

bool autotune(struct gpu *gpu, const struct autotune *a, struct sc_error *e)
{
    struct tuner t;
    struct subjects all = {.n = 0};
    struct sc_error failure = {0};
    uint32_t n_open = 0;
    find_subjects(&all, a);
    const uint64_t weight_bytes = share_memory(&all, gpu, a->max_bytes);
    for (uint32_t i = 0; i < all.n; i++) {
        keep(gpu, &all.list[i]);
        n_open += is_open(gpu, &all.list[i], weight_bytes);
    }
    if (n_open == 0)
        return true;
    const bool ok = tuner_init(&t, gpu, weight_bytes, &failure) && tune_all(&t, &all, a, n_open, &failure);
    tuner_finish(&t);
    return ok || failure.code == SC_OUT_OF_DEVICE_MEMORY || failure.code == SC_OUT_OF_MEMORY ||
           sc_fail(e, failure.code, "%s", failure.text);
}
