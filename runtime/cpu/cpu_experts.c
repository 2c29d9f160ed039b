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

/* The columns that are done in fixed point. */
static uint32_t fixed_cols(const struct cpu_kernels *k, const struct weight *w)
{
    return k->types[w->type].multiply_fixed ? w->cols / 256 * 256 : 0;
}

/* Both or neither, so that they can be done together. */
static bool gate_up_fixed(const struct cpu_kernels *k, const struct expert_weights *e)
{
    return fixed_cols(k, &e->gate) > 0 && fixed_cols(k, &e->up) > 0;
}

static const uint8_t *row_of(const struct weight *w, uint32_t row)
{
    return w->data + row * bytes_of(w->type, w->cols);
}

/* As multiply_chunk does, for n_rows <= CPU_TILE_ROWS, by expanding the weights first. */
static void multiply_tile(const struct cpu_kernels *k, const struct weight *w, uint32_t first, uint32_t n_rows,
                          const float *const *x, uint32_t n, float *out)
{
    _Alignas(64) float tile[CPU_TILE_ROWS * CPU_TILE_COLS], sums[CPU_TILE_ROWS * CPU_BATCH] = {0};
    if (n_rows < CPU_TILE_ROWS)
        memset(tile, 0, sizeof tile);
    for (uint32_t col = 0; col < w->cols; col += CPU_TILE_COLS) {
        uint32_t n_cols = w->cols - col < CPU_TILE_COLS ? w->cols - col : CPU_TILE_COLS;
        for (uint32_t r = 0; r < n_rows; r++)
            k->types[w->type].expand(row_of(w, first + r) + bytes_of(w->type, col), n_cols, tile + r * CPU_TILE_COLS);
        k->multiply(tile, n_rows, x, n, col, n_cols, sums);
    }
    for (uint32_t r = 0; r < n_rows; r++)
        memcpy(out + r * n, sums + r * CPU_BATCH, n * sizeof out[0]);
}

static void multiply_fixed(const struct cpu_kernels *k, const struct weight *w, uint32_t first, uint32_t n_rows,
                           const float *const *x, const struct cpu_fixed *x_fixed, uint32_t n, float *out)
{
    const struct cpu_type_kernels *t = &k->types[w->type];
    uint32_t done = fixed_cols(k, w);
    size_t row_bytes = bytes_of(w->type, w->cols);
    t->multiply_fixed(row_of(w, first), row_bytes, n_rows, done, x_fixed, n, out);
    for (uint32_t i = 0; i < n && done < w->cols; i++) {
        const uint8_t *rest = row_of(w, first) + bytes_of(w->type, done);
        float more[MAX_ITEM_ROWS];
        t->dot(rest, row_bytes, n_rows, w->cols - done, x[i] + done, more, rest);
        for (uint32_t r = 0; r < n_rows; r++)
            out[r * n + i] += more[r];
    }
}

/* The rows and tokens that are done at once: rows as many as there are, or in tiles. */
enum { MAX_CHUNK = MAX_ITEM_ROWS * CPU_FIXED_TOKENS };
_Static_assert(MAX_CHUNK >= CPU_TILE_ROWS * CPU_BATCH, "a chunk holds a tile");

struct chunk {
    uint32_t row, n_rows;     /* of the matrix */
    uint32_t token, n_tokens; /* of the job */
    bool fixed;
    const float *x[CPU_BATCH]; /* (n_tokens) */
    const struct cpu_fixed *x_fixed;
};

/* out[r * n_tokens + t] = row r of the chunk times x[t]. next: see cpu_kernels.h */
static void multiply_chunk(const struct cpu_kernels *k, const struct weight *w, const struct chunk *c, float *out,
                           const uint8_t *next)
{
    if (c->fixed)
        multiply_fixed(k, w, c->row, c->n_rows, c->x, c->x_fixed, c->n_tokens, out);
    else if (c->n_tokens == 1)
        k->types[w->type].dot(row_of(w, c->row), bytes_of(w->type, w->cols), c->n_rows, w->cols, c->x[0], out, next);
    else
        multiply_tile(k, w, c->row, c->n_rows, c->x, c->n_tokens, out);
}

/* The next chunk of a part, in place; starts with one that is all 0 but for `fixed`. Tokens first: rows stay cached. */
static bool next_chunk(struct chunk *c, const struct part *p)
{
    uint32_t n = p->job->n, most_rows = c->fixed || n == 1 ? p->n_rows : CPU_TILE_ROWS;
    uint32_t most_tokens = c->fixed ? CPU_FIXED_TOKENS : CPU_BATCH;
    if (c->n_rows == 0) {
        c->row = p->first;
    } else {
        c->token += c->n_tokens;
        if (c->token == n) {
            c->token = 0;
            c->row += c->n_rows;
        }
    }
    uint32_t rows_left = p->first + p->n_rows - c->row;
    c->n_rows = rows_left < most_rows ? rows_left : most_rows;
    c->n_tokens = n - c->token < most_tokens ? n - c->token : most_tokens;
    return rows_left > 0;
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

/* Blocks of the call's rows from the `row`-th on, where a chunk begins. */
static struct cpu_fixed *x_fixed_of(const struct cpu_experts *c, uint32_t row, bool up)
{
    return c->x_fixed[up] + (size_t)row * (c->n_embd / 256);
}

static struct cpu_fixed *h_fixed_of(const struct cpu_experts *c, uint32_t row)
{
    return c->h_fixed + (size_t)row * (c->n_ff / 256);
}

/* A row of the call: the job's row i, and the chunk of tokens that it will be in. */
struct row {
    const struct cpu_job *job;
    uint32_t i, chunk, n_tokens; /* chunk: its first row in the call */
};

static struct row find_row(const struct cpu_experts *c, uint32_t row)
{
    struct row r = {.job = c->jobs, .i = row};
    for (; r.i >= r.job->n; r.job++)
        r.i -= r.job->n;
    uint32_t in_chunk = r.i % CPU_FIXED_TOKENS, left = r.job->n - (r.i - in_chunk);
    r.chunk = row - in_chunk;
    r.n_tokens = left < CPU_FIXED_TOKENS ? left : CPU_FIXED_TOKENS;
    return r;
}

static void quantize(const struct cpu_kernels *k, const struct weight *w, const float *x, const struct row *r,
                     struct cpu_fixed *chunk)
{
    k->types[w->type].quantize(x, fixed_cols(k, w), r->n_tokens, chunk + r->i % CPU_FIXED_TOKENS);
}

static void quantize_x(void *context, uint32_t row)
{
    const struct cpu_experts *c = context;
    struct row r = find_row(c, row);
    const struct expert_weights *e = r.job->expert;
    if (!gate_up_fixed(c->kernels, e))
        return;
    quantize(c->kernels, &e->gate, x_row(c, r.job, r.i), &r, x_fixed_of(c, r.chunk, false));
    if (e->up.type != e->gate.type)
        quantize(c->kernels, &e->up, x_row(c, r.job, r.i), &r, x_fixed_of(c, r.chunk, true));
}

static void quantize_h(void *context, uint32_t row)
{
    const struct cpu_experts *c = context;
    struct row r = find_row(c, row);
    if (fixed_cols(c->kernels, &r.job->expert->down) > 0)
        quantize(c->kernels, &r.job->expert->down, h_row(c, row), &r, h_fixed_of(c, r.chunk));
}

/* h = silu(gate x) * (up x), some rows of it */
static void gate_up(void *context, uint32_t item)
{
    const struct cpu_experts *c = context;
    const struct cpu_kernels *k = c->kernels;
    struct part p = part_of(c, item, c->n_ff);
    const struct expert_weights *e = p.job->expert;
    _Alignas(64) float gate[MAX_CHUNK], up[MAX_CHUNK];

    struct chunk chunk = {.fixed = gate_up_fixed(k, e)};
    while (next_chunk(&chunk, &p)) {
        uint32_t n = chunk.n_tokens, n_sums = chunk.n_rows * n, padding = (16 - n_sums % 16) % 16;
        for (uint32_t t = 0; t < n; t++)
            chunk.x[t] = x_row(c, p.job, chunk.token + t);
        chunk.x_fixed = x_fixed_of(c, p.before + chunk.token, false);
        multiply_chunk(k, &e->gate, &chunk, gate, row_of(&e->up, chunk.row));
        chunk.x_fixed = x_fixed_of(c, p.before + chunk.token, e->up.type != e->gate.type);
        multiply_chunk(k, &e->up, &chunk, up, row_of(&e->gate, chunk.row + chunk.n_rows));
        memset(gate + n_sums, 0, padding * sizeof gate[0]);
        memset(up + n_sums, 0, padding * sizeof up[0]);
        k->silu_mul(gate, up, n_sums + padding);
        for (uint32_t t = 0; t < n; t++) {
            float *h = h_row(c, p.before + chunk.token + t) + chunk.row;
            for (uint32_t i = 0; i < chunk.n_rows; i++)
                h[i] = gate[i * n + t];
        }
    }
}

/* y = down h, some rows of it */
static void down(void *context, uint32_t item)
{
    const struct cpu_experts *c = context;
    struct part p = part_of(c, item, c->n_embd);
    const struct weight *w = &p.job->expert->down;
    _Alignas(64) float out[MAX_CHUNK];

    struct chunk chunk = {.fixed = fixed_cols(c->kernels, w) > 0};
    while (next_chunk(&chunk, &p)) {
        uint32_t n = chunk.n_tokens;
        for (uint32_t t = 0; t < n; t++)
            chunk.x[t] = h_row(c, p.before + chunk.token + t);
        chunk.x_fixed = h_fixed_of(c, p.before + chunk.token);
        multiply_chunk(c->kernels, w, &chunk, out, row_of(w, chunk.row + chunk.n_rows));
        for (uint32_t t = 0; t < n; t++) {
            float *y = y_row(c, p.job, chunk.token + t) + chunk.row;
            for (uint32_t i = 0; i < chunk.n_rows; i++)
                y[i] = out[i * n + t];
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
