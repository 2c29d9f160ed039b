/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu_experts.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cpu_kernels.h"
#include "types.h"

/*
 * Rows of an item. A long run of memory is read faster, so items are long, but every thread gets several of them: for a
 * slow core the others step in.
 */
enum { MIN_ITEM_ROWS = 2 * CPU_TILE_ROWS, MAX_ITEM_ROWS = 16 * CPU_TILE_ROWS, ITEMS_PER_THREAD = 8 };

struct cpu_experts {
    struct cpu_pool *pool;
    const struct cpu_kernels *kernels;
    uint32_t n_embd, n_ff, max_rows;
    float *h;                     /* (max_rows, n_ff) silu(gate) * up of all jobs, one after the other */
    struct cpu_fixed *x_fixed[2]; /* (max_rows, n_embd / 256) x for gate and, where its type is another, for up */
    struct cpu_fixed *h_fixed;    /* (max_rows, n_ff / 256) */

    /* the call */
    const struct cpu_job *jobs;
    uint32_t n_jobs;
    uint32_t item_rows; /* of the phase */
    const float *x;
    float *y;
};

static uint32_t choose_item_rows(const struct cpu_experts *c, uint32_t rows)
{
    uint64_t n = (uint64_t)rows * c->n_jobs / (ITEMS_PER_THREAD * cpu_pool_threads(c->pool));
    uint32_t item_rows = n < MAX_ITEM_ROWS ? (uint32_t)n / CPU_TILE_ROWS * CPU_TILE_ROWS : MAX_ITEM_ROWS;
    return item_rows > MIN_ITEM_ROWS ? item_rows : MIN_ITEM_ROWS;
}

/* The job of an item, what came before it in the call, and the rows of the item. */
struct part {
    const struct cpu_job *job;
    uint32_t before;
    uint32_t first, n_rows;
};

static struct part part_of(const struct cpu_experts *c, uint32_t item, uint32_t rows)
{
    uint32_t n_items = (rows + c->item_rows - 1) / c->item_rows;
    struct part p = {.job = &c->jobs[item / n_items]};
    for (const struct cpu_job *j = c->jobs; j < p.job; j++)
        p.before += j->n;
    p.first = item % n_items * c->item_rows;
    p.n_rows = rows - p.first < c->item_rows ? rows - p.first : c->item_rows;
    return p;
}

static size_t bytes_of(enum sc_type type, uint32_t n)
{
    const struct sc_type_info *info = sc_type_info(type);
    return (size_t)n / info->block_size * info->block_bytes;
}

/* out[r * CPU_BATCH + t] = row first + r of w, times x[t], for n_rows <= CPU_TILE_ROWS and n <= CPU_BATCH. */
static void multiply_tile(const struct cpu_kernels *k, const struct weight *w, uint32_t first, uint32_t n_rows,
                          const float *const *x, uint32_t n, float *out)
{
    _Alignas(64) float tile[CPU_TILE_ROWS * CPU_TILE_COLS];
    size_t row_bytes = bytes_of(w->type, w->cols);
    memset(out, 0, CPU_TILE_ROWS * CPU_BATCH * sizeof out[0]);
    if (n_rows < CPU_TILE_ROWS)
        memset(tile, 0, sizeof tile);
    for (uint32_t col = 0; col < w->cols; col += CPU_TILE_COLS) {
        uint32_t n_cols = w->cols - col < CPU_TILE_COLS ? w->cols - col : CPU_TILE_COLS;
        const uint8_t *data = w->data + first * row_bytes + bytes_of(w->type, col);
        for (uint32_t r = 0; r < n_rows; r++)
            k->types[w->type].expand(data + r * row_bytes, n_cols, tile + r * CPU_TILE_COLS);
        k->multiply(tile, n_rows, x, n, col, n_cols, out);
    }
}

/* The columns that are done in fixed point. */
static uint32_t fixed_cols(const struct cpu_kernels *k, const struct weight *w)
{
    return k->types[w->type].dot_fixed ? w->cols / 256 * 256 : 0;
}

/* next: see cpu_kernels.h */
static void dot_rows(const struct cpu_kernels *k, const struct weight *w, uint32_t first, uint32_t n_rows,
                     const float *x, const struct cpu_fixed *x_fixed, float *out, const uint8_t *next)
{
    const struct cpu_type_kernels *t = &k->types[w->type];
    size_t row_bytes = bytes_of(w->type, w->cols);
    uint32_t done = fixed_cols(k, w);
    const uint8_t *data = w->data + first * row_bytes, *rest = data + bytes_of(w->type, done);
    if (done == 0) {
        t->dot(data, row_bytes, n_rows, w->cols, x, out, next);
        return;
    }
    t->dot_fixed(data, row_bytes, n_rows, done, x_fixed, out);
    if (done < w->cols) {
        float more[MAX_ITEM_ROWS];
        t->dot(rest, row_bytes, n_rows, w->cols - done, x + done, more, next);
        for (uint32_t r = 0; r < n_rows; r++)
            out[r] += more[r];
    }
}

static const uint8_t *row_of(const struct weight *w, uint32_t row)
{
    return w->data + row * bytes_of(w->type, w->cols);
}

static const float *x_row(const struct cpu_experts *c, const struct cpu_job *j, uint32_t i)
{
    return c->x + (size_t)(j->x_rows ? j->x_rows[i] : i) * c->n_embd;
}

static float *y_row(const struct cpu_experts *c, const struct cpu_job *j, uint32_t i)
{
    return c->y + (size_t)(j->y_rows ? j->y_rows[i] : i) * c->n_embd;
}

static float *h_row(const struct cpu_experts *c, uint32_t row)
{
    return c->h + (size_t)row * c->n_ff;
}

static struct cpu_fixed *x_fixed_row(const struct cpu_experts *c, uint32_t row, bool up)
{
    return c->x_fixed[up] + (size_t)row * (c->n_embd / 256);
}

static struct cpu_fixed *h_fixed_row(const struct cpu_experts *c, uint32_t row)
{
    return c->h_fixed + (size_t)row * (c->n_ff / 256);
}

static void quantize(const struct cpu_kernels *k, const struct weight *w, const float *x, struct cpu_fixed *out)
{
    uint32_t n = fixed_cols(k, w);
    if (n > 0)
        k->types[w->type].quantize(x, n, out);
}

/* Row `row` of the call: of x, then of h. */
static void quantize_x(void *context, uint32_t row)
{
    const struct cpu_experts *c = context;
    const struct cpu_job *j = c->jobs;
    uint32_t i = row;
    for (; i >= j->n; j++)
        i -= j->n;
    if (j->n > 1)
        return;
    quantize(c->kernels, &j->expert->gate, x_row(c, j, i), x_fixed_row(c, row, false));
    if (j->expert->up.type != j->expert->gate.type)
        quantize(c->kernels, &j->expert->up, x_row(c, j, i), x_fixed_row(c, row, true));
}

static void quantize_h(void *context, uint32_t row)
{
    const struct cpu_experts *c = context;
    const struct cpu_job *j = c->jobs;
    uint32_t i = row;
    for (; i >= j->n; j++)
        i -= j->n;
    if (j->n == 1)
        quantize(c->kernels, &j->expert->down, h_row(c, row), h_fixed_row(c, row));
}

/* h = silu(gate x) * (up x), some rows of it */
static void gate_up(void *context, uint32_t item)
{
    const struct cpu_experts *c = context;
    const struct cpu_kernels *k = c->kernels;
    struct part p = part_of(c, item, c->n_ff);
    const struct expert_weights *e = p.job->expert;
    _Alignas(64) float gate[CPU_TILE_ROWS * CPU_BATCH], up[CPU_TILE_ROWS * CPU_BATCH];

    if (p.job->n == 1) {
        const float *x = x_row(c, p.job, 0);
        dot_rows(k, &e->gate, p.first, p.n_rows, x, x_fixed_row(c, p.before, false), gate, row_of(&e->up, p.first));
        dot_rows(k, &e->up, p.first, p.n_rows, x, x_fixed_row(c, p.before, e->up.type != e->gate.type), up,
                 row_of(&e->gate, p.first + p.n_rows));
        memset(gate + p.n_rows, 0, 16 * sizeof gate[0]);
        memset(up + p.n_rows, 0, 16 * sizeof up[0]);
        k->silu_mul(gate, up, (p.n_rows + 15) / 16 * 16);
        memcpy(h_row(c, p.before) + p.first, gate, p.n_rows * sizeof gate[0]);
        return;
    }
    for (uint32_t r = 0; r < p.n_rows; r += CPU_TILE_ROWS) {
        uint32_t n_rows = p.n_rows - r < CPU_TILE_ROWS ? p.n_rows - r : CPU_TILE_ROWS;
        for (uint32_t first = 0; first < p.job->n; first += CPU_BATCH) {
            uint32_t n = p.job->n - first < CPU_BATCH ? p.job->n - first : CPU_BATCH;
            const float *x[CPU_BATCH];
            for (uint32_t t = 0; t < n; t++)
                x[t] = x_row(c, p.job, first + t);
            multiply_tile(k, &e->gate, p.first + r, n_rows, x, n, gate);
            multiply_tile(k, &e->up, p.first + r, n_rows, x, n, up);
            for (uint32_t i = 0; i < n_rows; i++)
                k->silu_mul(gate + i * CPU_BATCH, up + i * CPU_BATCH, (n + 15) / 16 * 16);
            for (uint32_t t = 0; t < n; t++)
                for (uint32_t i = 0; i < n_rows; i++)
                    h_row(c, p.before + first + t)[p.first + r + i] = gate[i * CPU_BATCH + t];
        }
    }
}

/* y = down h, some rows of it */
static void down(void *context, uint32_t item)
{
    const struct cpu_experts *c = context;
    const struct cpu_kernels *k = c->kernels;
    struct part p = part_of(c, item, c->n_embd);
    const struct weight *w = &p.job->expert->down;
    _Alignas(64) float out[CPU_TILE_ROWS * CPU_BATCH];

    if (p.job->n == 1) {
        dot_rows(k, w, p.first, p.n_rows, h_row(c, p.before), h_fixed_row(c, p.before), y_row(c, p.job, 0) + p.first,
                 row_of(w, p.first + p.n_rows));
        return;
    }
    for (uint32_t r = 0; r < p.n_rows; r += CPU_TILE_ROWS) {
        uint32_t n_rows = p.n_rows - r < CPU_TILE_ROWS ? p.n_rows - r : CPU_TILE_ROWS;
        for (uint32_t first = 0; first < p.job->n; first += CPU_BATCH) {
            uint32_t n = p.job->n - first < CPU_BATCH ? p.job->n - first : CPU_BATCH;
            const float *h[CPU_BATCH];
            for (uint32_t t = 0; t < n; t++)
                h[t] = h_row(c, p.before + first + t);
            multiply_tile(k, w, p.first + r, n_rows, h, n, out);
            for (uint32_t t = 0; t < n; t++)
                for (uint32_t i = 0; i < n_rows; i++)
                    y_row(c, p.job, first + t)[p.first + r + i] = out[i * CPU_BATCH + t];
        }
    }
}

static void run_phase(struct cpu_experts *c, void (*work)(void *context, uint32_t item), uint32_t rows)
{
    c->item_rows = choose_item_rows(c, rows);
    cpu_pool_run(c->pool, work, c, c->n_jobs * ((rows + c->item_rows - 1) / c->item_rows));
}

void cpu_experts_run(struct cpu_experts *c, const struct cpu_job *jobs, uint32_t n_jobs, const float *x, float *y)
{
    uint32_t n_rows = 0;
    for (uint32_t i = 0; i < n_jobs; i++) {
        const struct expert_weights *e = jobs[i].expert;
        assert(e->gate.rows == c->n_ff && e->gate.cols == c->n_embd && e->up.rows == c->n_ff &&
               e->up.cols == c->n_embd && e->down.rows == c->n_embd && e->down.cols == c->n_ff);
        (void)e;
        n_rows += jobs[i].n;
    }
    assert(n_rows <= c->max_rows);
    c->jobs = jobs;
    c->n_jobs = n_jobs;
    c->x = x;
    c->y = y;
    cpu_pool_run(c->pool, quantize_x, c, n_rows);
    run_phase(c, gate_up, c->n_ff);
    cpu_pool_run(c->pool, quantize_h, c, n_rows);
    run_phase(c, down, c->n_embd);
}

/* rows times cols, at least one, in whole lines of the cache; NULL if there is no such memory */
static void *allocate(size_t rows, size_t cols, size_t size)
{
    size_t row_bytes = cols * size;
    if (row_bytes > 0 && rows > (SIZE_MAX - 64) / row_bytes)
        return NULL;
    return aligned_alloc(64, (rows * row_bytes + 64) / 64 * 64);
}

struct cpu_experts *cpu_experts_create(struct cpu_pool *pool, uint32_t n_embd, uint32_t n_ff, uint32_t max_rows,
                                       const char *level, struct sc_error *e)
{
    assert(n_embd % 16 == 0 && n_ff % 16 == 0);
    const struct cpu_kernels *kernels = cpu_kernels_find(level, e);
    if (!kernels)
        return NULL;
    struct cpu_experts *c = malloc(sizeof *c);
    if (c)
        *c = (struct cpu_experts){
            .pool = pool,
            .kernels = kernels,
            .n_embd = n_embd,
            .n_ff = n_ff,
            .max_rows = max_rows,
            .h = allocate(max_rows, n_ff, sizeof(float)),
            .x_fixed = {allocate(max_rows, n_embd / 256, sizeof(struct cpu_fixed)),
                        allocate(max_rows, n_embd / 256, sizeof(struct cpu_fixed))},
            .h_fixed = allocate(max_rows, n_ff / 256, sizeof(struct cpu_fixed)),
        };
    if (!c || !c->h || !c->x_fixed[0] || !c->x_fixed[1] || !c->h_fixed) {
        sc_fail_memory(e, "experts on the CPU");
        cpu_experts_destroy(c);
        return NULL;
    }
    return c;
}

void cpu_experts_destroy(struct cpu_experts *c)
{
    if (!c)
        return;
    free(c->h_fixed);
    free(c->x_fixed[1]);
    free(c->x_fixed[0]);
    free(c->h);
    free(c);
}

const char *cpu_experts_level(const struct cpu_experts *c)
{
    return c->kernels->name;
}
