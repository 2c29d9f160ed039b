/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The experts on the CPU: every type at every level of instructions that this processor has, awkward shapes and numbers
 * of tokens, against double precision with a derived bound; poison around the output; the same bits with any number of
 * threads and in every run.
 */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_experts.h"
#include "cpu_kernels.h"
#include "model_builder.h"
#include "types.h"

static const float poison = -12345.678f;
static const char *const levels[] = {"portable", "avx2", "avx512", "avx512_vnni"};
enum { N_LEVELS = sizeof levels / sizeof levels[0], MAX_TOKENS = 70, MAX_THREADS = 3 };

static struct cpu_pool *pools[MAX_THREADS + 1]; /* by number of threads */

static int create_pools(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= MAX_THREADS; n++) {
        struct sc_error e = {0};
        pools[n] = cpu_pool_create(n, &e);
        if (!pools[n])
            return -1;
    }
    return 0;
}

static int destroy_pools(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= MAX_THREADS; n++)
        cpu_pool_destroy(pools[n]);
    return 0;
}

static const struct cpu_kernels *kernels_or_skip(const char *level)
{
    struct sc_error e = {0};
    const struct cpu_kernels *k = cpu_kernels_find(level, &e);
    if (!k) {
        print_message("%s\n", e.text);
        skip();
    }
    return k;
}

/* A random matrix; its rows end where the allocation ends, so that a sanitizer sees what reads beyond them. */
static struct weight make_weight(const struct sc_type_info *type, uint32_t rows, uint32_t cols, uint64_t *state)
{
    uint64_t n_blocks = (uint64_t)rows * cols / type->block_size;
    uint8_t *data = malloc(n_blocks * type->block_bytes);
    assert_non_null(data);
    random_blocks(data, type->type, n_blocks, 0.05f, state);
    return (struct weight){
        .data = data, .type = type->type, .rows = rows, .cols = cols, .size_bytes = n_blocks * type->block_bytes};
}

struct types {
    const struct sc_type_info *gate, *up, *down;
};

static struct expert_weights make_expert(struct types t, uint32_t d, uint32_t ff, uint64_t *state)
{
    return (struct expert_weights){make_weight(t.gate, ff, d, state), make_weight(t.up, ff, d, state),
                                   make_weight(t.down, d, ff, state)};
}

static void free_expert(const struct expert_weights *e)
{
    free((void *)(uintptr_t)e->gate.data);
    free((void *)(uintptr_t)e->up.data);
    free((void *)(uintptr_t)e->down.data);
}

static float *expand(const struct weight *w)
{
    const struct sc_type_info *info = sc_type_info(w->type);
    size_t n = (size_t)w->rows * w->cols;
    float *out = malloc(n * sizeof *out);
    assert_non_null(out);
    info->dequantize(w->data, out, n / info->block_size);
    return out;
}

/*
 * The largest |d q| + |offset| that a weight could have with the scales of its block: the terms that fixed point adds
 * up. From the block with its quants, the bytes from first to end, at their extremes.
 */
static float *reach(const struct weight *w)
{
    static const struct quants {
        uint32_t first, end;
        int low, high;
    } quants[SC_BF16 + 1] = {
        [SC_Q4_0] = {2, 18, 0, 255},  [SC_Q4_1] = {4, 20, 0, 255},     [SC_Q5_0] = {2, 22, 0, 255},
        [SC_Q5_1] = {4, 24, 0, 255},  [SC_Q8_0] = {2, 34, 0x80, 0x7f}, [SC_Q2_K] = {16, 80, 0, 255},
        [SC_Q3_K] = {0, 96, 0, 255},  [SC_Q4_K] = {16, 144, 0, 255},   [SC_Q5_K] = {16, 176, 0, 255},
        [SC_Q6_K] = {0, 192, 0, 255}, [SC_IQ4_NL] = {2, 18, 0, 255},   [SC_IQ4_XS] = {8, 136, 0, 255},
    };
    const struct quants *q = &quants[w->type];
    assert_true(q->end > 0);
    const struct sc_type_info *info = sc_type_info(w->type);
    size_t n = (size_t)w->rows * w->cols;
    float *low = malloc(n * sizeof *low), *high = malloc(n * sizeof *high);
    uint8_t *data = malloc(w->size_bytes);
    assert_true(low && high && data);
    memcpy(data, w->data, w->size_bytes);
    for (uint64_t b = 0; b < w->size_bytes; b += info->block_bytes)
        memset(data + b + q->first, q->low, q->end - q->first);
    info->dequantize(data, low, n / info->block_size);
    for (uint64_t b = 0; b < w->size_bytes; b += info->block_bytes)
        memset(data + b + q->first, q->high, q->end - q->first);
    info->dequantize(data, high, n / info->block_size);
    for (size_t i = 0; i < n; i++)
        low[i] = 1.01f * (fabsf(high[i] - low[i]) + fabsf(low[i])); /* iq4: 128 instead of 127 */
    free(data);
    free(high);
    return low;
}

struct value {
    double value, error; /* what it is, and how far from it a right kernel may be */
};

struct matrix {
    uint32_t cols, fixed_cols; /* so many are done in fixed point */
    float *w, *reach;          /* (rows, cols); reach is NULL without fixed point */
    double bound;              /* times sum |w x| is the summation's */
};

/* sum w[i] x[i] of a row, when each x[i] may be off by its error. */
static struct value sum(const struct matrix *m, uint32_t row, const struct value *x)
{
    const float *w = m->w + (size_t)row * m->cols;
    double s = 0, magnitude = 0, error = 0;
    for (uint32_t i = 0; i < m->cols; i++) {
        bool fixed = i < m->fixed_cols;
        if (fixed && i % 256 == 0) {
            double most = 0, weights = 0;
            for (uint32_t k = i; k < i + 256; k++) {
                most = fmax(most, fabs(x[k].value) + x[k].error);
                weights += fabs((double)w[k]);
            }
            error += CPU_FIXED_ERROR * most * weights;
        }
        s += (double)w[i] * x[i].value;
        double reached = fixed ? (double)m->reach[(size_t)row * m->cols + i] : fabs((double)w[i]);
        magnitude += reached * (fabs(x[i].value) + x[i].error);
        error += fabs((double)w[i]) * x[i].error;
    }
    return (struct value){s, error + m->bound * magnitude};
}

/*
 * silu(g) * u. The slope of silu is at most 1.1; exp is right within 2 units, the sum, the quotient and the product are
 * rounded: 4 units in all.
 */
static struct value silu_mul(struct value g, struct value u)
{
    double silu = g.value / (1 + exp(-g.value)), silu_error = 1.1 * g.error + 4 * (double)FLT_EPSILON * fabs(silu);
    return (struct value){silu * u.value, silu_error * (fabs(u.value) + u.error) + fabs(silu) * u.error + 1e-37};
}

struct reference {
    uint32_t d, ff;
    struct matrix gate, up, down;
};

static struct matrix make_matrix(const struct cpu_kernels *k, const struct weight *w, enum sc_type with)
{
    struct matrix m = {.cols = w->cols, .w = expand(w)};
    if (k->types[w->type].multiply_fixed && k->types[with].multiply_fixed)
        m.fixed_cols = w->cols / 256 * 256;
    if (m.fixed_cols > 0)
        m.reach = reach(w);
    uint32_t depth = m.fixed_cols > 0 ? cpu_fixed_depth(k, w->cols) : cpu_kernels_depth(k, w->cols);
    m.bound = (depth + 2) * (double)FLT_EPSILON / 2 * 1.001; /* 1.001: products of errors */
    return m;
}

static void reference_init(struct reference *r, const struct cpu_kernels *k, const struct expert_weights *e)
{
    *r = (struct reference){e->down.rows, e->gate.rows, make_matrix(k, &e->gate, e->up.type),
                            make_matrix(k, &e->up, e->gate.type), make_matrix(k, &e->down, e->down.type)};
}

static void reference_finish(struct reference *r)
{
    struct matrix *all[] = {&r->gate, &r->up, &r->down};
    for (int i = 0; i < 3; i++) {
        free(all[i]->w);
        free(all[i]->reach);
    }
}

static void reference_run(const struct reference *r, const float *x, struct value *y)
{
    struct value *xs = malloc(r->d * sizeof *xs), *h = malloc(r->ff * sizeof *h);
    assert_true(xs && h);
    for (uint32_t i = 0; i < r->d; i++)
        xs[i] = (struct value){(double)x[i], 0};
    for (uint32_t i = 0; i < r->ff; i++)
        h[i] = silu_mul(sum(&r->gate, i, xs), sum(&r->up, i, xs));
    for (uint32_t i = 0; i < r->d; i++)
        y[i] = sum(&r->down, i, h);
    free(h);
    free(xs);
}

struct shape {
    uint32_t d, ff; /* in multiples of the type's step: 16, 32 or 256 */
};

static void check_rows(const struct reference *ref, const struct cpu_job *job, const float *x, const float *y,
                       const char *what)
{
    struct value *want = malloc(ref->d * sizeof *want);
    assert_non_null(want);
    for (uint32_t i = 0; i < job->n; i++) {
        reference_run(ref, x + (size_t)job->x_rows[i] * ref->d, want);
        for (uint32_t c = 0; c < ref->d; c++) {
            double got = (double)y[(size_t)job->y_rows[i] * ref->d + c];
            if (!(fabs(got - want[c].value) <= want[c].error)) /* so that NaN fails */
                fail_msg("%s, d %u, ff %u, row %u of %u, column %u: got %.9g, want %.9g +- %.3g", what, ref->d, ref->ff,
                         i, job->n, c, got, want[c].value, want[c].error);
        }
    }
    free(want);
}

/* Two jobs: n tokens and one, scattered rows, then the same with other threads and once more. */
static void check_case(const struct cpu_kernels *k, struct types t, uint32_t d, uint32_t ff, uint32_t n)
{
    struct sc_error e = {0};
    uint64_t state = 1000 * (uint64_t)t.gate->type + n;
    struct expert_weights experts[2] = {make_expert(t, d, ff, &state), make_expert(t, d, ff, &state)};
    uint32_t x_rows[MAX_TOKENS + 1], y_rows[MAX_TOKENS + 1], total = n + 1, n_y = 2 * total + 1;
    for (uint32_t i = 0; i < total; i++) {
        x_rows[i] = (i * 7 + 3) % total;
        y_rows[i] = 2 * (total - 1 - i) + 1; /* every second row is left alone */
    }
    float *x = malloc((size_t)total * d * sizeof *x), *y[2];
    size_t y_bytes = (size_t)n_y * d * sizeof(float);
    assert_non_null(x);
    for (size_t i = 0; i < (size_t)total * d; i++)
        x[i] = random_normal(&state);

    struct cpu_job jobs[2] = {{&experts[0], n, x_rows, y_rows}, {&experts[1], 1, x_rows + n, y_rows + n}};
    for (uint32_t run = 0; run < 4; run++) {
        uint32_t threads = run == 3 ? MAX_THREADS : run + 1;
        struct cpu_experts *c = cpu_experts_create(pools[threads], d, ff, total, k->name, &e);
        assert_non_null(c);
        float *out = y[run > 0] = malloc(y_bytes);
        assert_non_null(out);
        for (size_t i = 0; i < (size_t)n_y * d; i++)
            out[i] = poison;
        cpu_experts_run(c, jobs, 2, x, out);
        cpu_experts_destroy(c);
        if (run > 0) {
            assert_memory_equal(y[0], y[1], y_bytes);
            free(out);
        }
    }
    for (uint32_t row = 0; row < n_y; row += 2)
        for (uint32_t i = 0; i < d; i++)
            assert_memory_equal(&y[0][(size_t)row * d + i], &poison, sizeof poison);

    for (uint32_t j = 0; j < 2; j++) {
        struct reference ref;
        reference_init(&ref, k, &experts[j]);
        char what[64];
        snprintf(what, sizeof what, "%s, %s, %s, down %s", k->name, t.gate->name, t.up->name, t.down->name);
        check_rows(&ref, &jobs[j], x, y[0], what);
        reference_finish(&ref);
    }
    free(y[0]);
    free(x);
    free_expert(&experts[0]);
    free_expert(&experts[1]);
}

static void test_level(void **state)
{
    const struct cpu_kernels *k = kernels_or_skip(*state);
    static const struct shape shapes[] = {{1, 1}, {2, 1}, {1, 3}, {3, 2}, {5, 7}, {9, 16}};
    static const uint32_t tokens[] = {1, 2, 3, 16, 33, 64, MAX_TOKENS};
    size_t n_types, n_tokens = sizeof tokens / sizeof tokens[0];
    const struct sc_type_info *types = sc_types(&n_types);
    for (size_t t = 0; t < n_types; t++) {
        uint32_t step = types[t].block_size < 16 ? 16 : types[t].block_size;
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
            for (size_t i = 0; i < n_tokens; i++)
                if (step < 256 || (s < 2 && i < 4) || (s == i && s < 4)) /* large blocks make slow references */
                    check_case(k, (struct types){&types[t], &types[t], &types[t]}, step * shapes[s].d,
                               step * shapes[s].ff, tokens[i]);
    }
}

static struct types types_of(enum sc_type gate, enum sc_type up, enum sc_type down)
{
    return (struct types){sc_type_info(gate), sc_type_info(up), sc_type_info(down)};
}

/* As in files: up and gate mostly of one type, down of another; columns that end within a tile, or within 256. */
static void test_mixed_types(void **state)
{
    const struct cpu_kernels *k = kernels_or_skip(*state);
    for (uint32_t n = 1; n <= 5; n += 4) {
        check_case(k, types_of(SC_Q4_K, SC_Q4_K, SC_Q6_K), 768, 256, n);
        check_case(k, types_of(SC_Q4_0, SC_Q4_0, SC_Q8_0), 544, 1056, n);
        check_case(k, types_of(SC_Q3_K, SC_IQ4_XS, SC_Q5_0), 256, 1312, n);
        check_case(k, types_of(SC_F16, SC_F16, SC_F32), 1040, 1072, n);
    }
}

/* Every weight that a block can hold, one at a time: expand gives the loader's bits. */
static void test_expand(void **state)
{
    const struct cpu_kernels *k = kernels_or_skip(*state);
    size_t n_types;
    const struct sc_type_info *types = sc_types(&n_types);
    for (size_t t = 0; t < n_types; t++) {
        uint64_t seed = t;
        uint32_t n = types[t].block_size < 256 ? 512 : 1024, n_blocks = n / types[t].block_size;
        float *got = malloc(n * sizeof *got), *want = malloc(n * sizeof *want);
        uint8_t *blocks = malloc((size_t)n_blocks * types[t].block_bytes);
        assert_true(got && want && blocks);
        for (int round = 0; round < 50; round++) {
            random_blocks(blocks, types[t].type, n_blocks, 0.1f, &seed);
            if (round % 2) /* any scale whatever */
                for (uint32_t i = 0; i < n_blocks * types[t].block_bytes; i++)
                    blocks[i] = (uint8_t)random_u64(&seed);
            types[t].dequantize(blocks, want, n_blocks);
            k->types[types[t].type].expand(blocks, n, got);
            for (uint32_t i = 0; i < n; i++)
                if (!(got[i] == want[i] || (isnan(want[i]) && isnan(got[i]))))
                    fail_msg("%s, %s, weight %u: got %.9g, want %.9g", k->name, types[t].name, i, (double)got[i],
                             (double)want[i]);
        }
        free(blocks);
        free(want);
        free(got);
    }
}

/* Tokens together have the bits of each alone. */
static void check_tokens(const struct cpu_type_kernels *k, const struct weight *w, const char *name)
{
    enum { N = 5 };
    uint32_t n_blocks = w->cols / 256;
    uint64_t seed = 11;
    struct cpu_fixed *all = aligned_alloc(64, N * n_blocks * sizeof *all),
                     *one = aligned_alloc(64, n_blocks * sizeof *one);
    float *x = malloc(w->cols * sizeof *x), *y = malloc(N * w->rows * sizeof *y),
          *want = malloc(w->rows * sizeof *want);
    assert_true(all && one && x && y && want);
    for (int round = 0; round < 2; round++) { /* first all tokens, then each */
        seed = 11;
        for (uint32_t t = 0; t < N; t++) {
            for (uint32_t i = 0; i < w->cols; i++)
                x[i] = random_normal(&seed);
            if (round == 0) {
                k->quantize(x, w->cols, N, all + t);
                continue;
            }
            k->quantize(x, w->cols, 1, one);
            k->multiply_fixed(w->data, w->size_bytes / w->rows, w->rows, w->cols, one, 1, want);
            for (uint32_t r = 0; r < w->rows; r++)
                if (memcmp(&y[r * N + t], &want[r], sizeof want[r]) != 0)
                    fail_msg("%s, row %u, token %u: %.9g, alone %.9g", name, r, t, (double)y[r * N + t],
                             (double)want[r]);
        }
        if (round == 0)
            k->multiply_fixed(w->data, w->size_bytes / w->rows, w->rows, w->cols, all, N, y);
    }
    free(want);
    free(y);
    free(x);
    free(one);
    free(all);
}

/* In fixed point: what is no number stays visible, zeros are exact, and a power of two changes nothing. */
static void test_fixed(void **state)
{
    const struct cpu_kernels *k = kernels_or_skip(*state);
    enum { COLS = 512, ROWS = 3 };
    size_t n_types;
    const struct sc_type_info *types = sc_types(&n_types);
    for (size_t t = 0; t < n_types; t++) {
        const struct cpu_type_kernels *kernels = &k->types[types[t].type];
        if (!kernels->multiply_fixed)
            continue;
        uint64_t seed = t;
        struct weight w = make_weight(&types[t], ROWS, COLS, &seed);
        struct cpu_fixed fixed[COLS / 256];
        float x[COLS], y[2][ROWS];
        for (int i = 0; i < COLS; i++)
            x[i] = random_normal(&seed);
        static const float factors[] = {1, 0x1p-70f, 0x1p80f, 0, NAN, INFINITY, -INFINITY};
        for (size_t f = 0; f < sizeof factors / sizeof factors[0]; f++) {
            float changed[COLS];
            for (int i = 0; i < COLS; i++)
                changed[i] = isfinite(factors[f]) ? x[i] * factors[f] : i == 300 ? factors[f] : x[i];
            kernels->quantize(changed, COLS, 1, fixed);
            kernels->multiply_fixed(w.data, w.size_bytes / ROWS, ROWS, COLS, fixed, 1, y[f > 0]);
            for (int r = 0; r < ROWS; r++)
                if (isfinite(factors[f]) ? !(y[f > 0][r] == y[0][r] * factors[f]) : isfinite(y[1][r]))
                    fail_msg("%s, %s, times %g: %.9g became %.9g", k->name, types[t].name, (double)factors[f],
                             (double)y[0][r], (double)y[f > 0][r]);
        }
        check_tokens(kernels, &w, types[t].name);
        free((void *)(uintptr_t)w.data);
    }
}

static void test_silu(void **state)
{
    const struct cpu_kernels *k = kernels_or_skip(*state);
    float g[16], u[16];
    for (int i = -30000; i < 30000; i += 16) {
        for (int j = 0; j < 16; j++) {
            g[j] = (float)(i + j) * 0.003f;
            u[j] = 1;
        }
        k->silu_mul(g, u, 16);
        for (int j = 0; j < 16; j++) {
            double x = (double)((float)(i + j) * 0.003f), want = x / (1 + exp(-x));
            if (!(fabs((double)g[j] - want) <= 4 * (double)FLT_EPSILON * fabs(want) + 1e-36))
                fail_msg("%s: silu(%.9g) = %.9g, want %.9g", k->name, x, (double)g[j], want);
        }
    }
    for (int j = 0; j < 16; j++)
        g[j] = j ? (j % 2 ? 1e30f : -1e30f) : NAN;
    k->silu_mul(g, u, 16);
    assert_true(isnan(g[0]) && g[1] == 1e30f && fabsf(g[2]) < 1e-6f);
}

static void test_find(void **state)
{
    (void)state;
    struct sc_error e = {0};
    assert_non_null(cpu_kernels_find(NULL, &e));
    assert_int_equal(e.code, SC_OK);
    assert_null(cpu_kernels_find("sse9", &e));
    assert_int_equal(e.code, SC_INVALID_ARGUMENT);
    assert_string_equal(e.text, "there are no CPU kernels of level sse9");
}

struct counting {
    _Atomic uint32_t n_calls, sum;
};

static void count(void *context, uint32_t item)
{
    struct counting *c = context;
    c->n_calls++;
    c->sum += item;
}

/* Many short jobs, and pauses after which the threads sleep. */
static void test_pool(void **state)
{
    (void)state;
    assert_true(cpu_count() >= 1);
    for (uint32_t threads = 1; threads <= MAX_THREADS; threads++) {
        for (uint32_t i = 0; i < 3000; i++) {
            struct counting c = {0};
            uint32_t n = i % 17;
            cpu_pool_run(pools[threads], count, &c, n);
            assert_int_equal(c.n_calls, n);
            assert_int_equal(c.sum, n ? n * (n - 1) / 2 : 0);
            if (i % 100 == 0)
                for (volatile int wait = 0; wait < 1000000; wait++)
                    ;
        }
    }
}

int main(void)
{
    struct CMUnitTest tests[5 * N_LEVELS + 2];
    size_t n = 0;
    static char names[5 * N_LEVELS][32];
    for (size_t i = 0; i < N_LEVELS; i++) {
        void *level = (void *)(uintptr_t)levels[i];
        const struct CMUnitTest of_level[] = {
            {"expand", test_expand, NULL, NULL, level},     {"silu", test_silu, NULL, NULL, level},
            {"fixed point", test_fixed, NULL, NULL, level}, {"mixed types", test_mixed_types, NULL, NULL, level},
            {"experts", test_level, NULL, NULL, level},
        };
        for (size_t k = 0; k < 5; k++, n++) {
            tests[n] = of_level[k];
            snprintf(names[n], sizeof names[n], "%s, %s", of_level[k].name, levels[i]);
            tests[n].name = names[n];
        }
    }
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_find);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_pool);
    return cmocka_run_group_tests(tests, create_pools, destroy_pools);
}
