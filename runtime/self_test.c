/* SPDX-License-Identifier: Apache-2.0 */
#include "self_test.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "findings.h"
#include "random_blocks.h"
#include "self_test_bench.h"

/* Three blocks of 256: the rows of types with odd halves begin in both halves of a word. */
enum { COLS = 768, MAX_ROWS = 512, MAX_TOKENS = 136 };

/* Activations that no variant rounds: whole numbers up to 127, the largest among every 4. */
static struct tensor lay_whole(struct bench *b, uint32_t rows)
{
    const struct tensor t = bench_lay(b, SC_F32, rows, COLS);
    float *x = bench_host(b, t);
    for (uint32_t i = 0; i < rows * COLS; i++)
        x[i] = (float)(i % 4 == 0 ? 127 : (int)(random_u64(&b->seed) % 255) - 127) / 64;
    return t;
}

/* What rounding to less than fp32 may change in the sum of w x: halves round the weights; none rounds whole numbers. */
static double rounding_error(enum rounding rounding, double magnitude)
{
    /* 11 bits each, or the rest cut; below 6e-5 off by 6e-8 */
    return rounding == ROUNDS_TO_F16 ? magnitude * 2.01 / 1024 + COLS * 2e-7 : 0;
}

/* Whether y (n, rows) is W x within what the variant's roundings may change, and nothing was written behind it. */
static bool is_product(struct bench *b, const struct variant *v, struct tensor y, struct tensor w, struct tensor x)
{
    const float *got = bench_host(b, y), *xs = bench_host(b, x);
    for (uint32_t r = 0; r < w.rows; r++) {
        float weights[COLS];
        bench_weights(b, w, r, weights);
        for (uint32_t t = 0; t < x.rows; t++) {
            double want = 0, magnitude = 0;
            for (uint32_t i = 0; i < COLS; i++) {
                const double product = (double)weights[i] * (double)xs[t * COLS + i];
                want += product;
                magnitude += fabs(product);
            }
            const double bound = v->roundings(v, COLS) * (double)FLT_EPSILON / 2 * 1.01 * magnitude + COLS * FLT_MIN +
                                 rounding_error(v->rounding, magnitude);
            if (!(fabs((double)got[t * w.rows + r] - want) <= bound))
                return false;
        }
    }
    return bench_is_guarded(b, y);
}

static uint32_t at_most(uint32_t n, uint32_t most)
{
    return n < most ? n : most;
}

/* Columns that make op_linear take this family, and where they are many more than a tile of the variant. */
static uint32_t columns_of(enum family family, const struct variant *v)
{
    uint32_t n = family == FAMILY_MATVEC ? 1 : v->tile_columns + 2;
    while (family_for(n) < family_timed(family))
        n++;
    return n;
}

/* More than a tile of each. */
static bool test_linear(struct bench *b, enum family family, const struct variant *v, enum sc_type type, bool *is_right,
                        struct sc_error *e)
{
    const uint32_t rows = at_most(v->tile_rows + 3, MAX_ROWS);
    const uint32_t n = at_most(columns_of(family, v), MAX_TOKENS);
    const struct tensor w = bench_lay_random(b, type, rows, COLS, 1 / sqrtf(COLS)), x = lay_whole(b, n),
                        y = bench_lay(b, SC_F32, n, rows);
    (family == FAMILY_MATMUL_EXACT ? op_linear_exact : op_linear)(&b->commands, y, w, x);
    if (!bench_run(b, e))
        return false;
    *is_right = is_product(b, v, y, w, x);
    return true;
}

/*
 * For the fused operations: x is 1 or -1, so that its mean square is 1, and with eps of 3 its norm is half of x times
 * the norm's weights, 2 or -2: exact, and `normed` holds it.
 */
static struct tensor lay_normed(struct bench *b, struct norm *norm, struct tensor *normed)
{
    const struct tensor x = bench_lay(b, SC_F32, 1, COLS);
    *norm = (struct norm){.w = bench_lay(b, SC_F32, 1, COLS), .eps = 3};
    *normed = bench_lay(b, SC_F32, 1, COLS);
    float *xs = bench_host(b, x), *ws = bench_host(b, norm->w), *want = bench_host(b, *normed);
    for (uint32_t i = 0; i < COLS; i++) {
        const uint64_t random = random_u64(&b->seed);
        xs[i] = random & 1 ? 1.0F : -1.0F;
        ws[i] = random & 2 ? 2.0F : -2.0F;
        want[i] = 0.5F * xs[i] * ws[i];
    }
    return x;
}

/* A token at the beginning of its cache, which is turned by nothing. */
static bool test_qkv(struct bench *b, enum family family, const struct variant *v, enum sc_type type, bool *is_right,
                     struct sc_error *e)
{
    (void)family;
    enum { DIM = 4 };
    const uint32_t rows = at_most((v->tile_rows + 3 + DIM) / DIM * DIM, MAX_ROWS);
    const struct heads heads = {.n = rows / DIM, .n_kv = 1, .dim = DIM, .n_rot = 2};
    struct norm norm;
    struct tensor normed, x = lay_normed(b, &norm, &normed), angles = bench_lay(b, SC_F32, 1, 2);
    struct tensor step = bench_lay(b, SC_F32, 1, sizeof(struct step) / sizeof(uint32_t)), y[3], w[3];
    const uint32_t n_rows[3] = {rows, DIM, DIM};
    for (uint32_t i = 0; i < 3; i++) {
        w[i] = bench_lay_random(b, type, n_rows[i], COLS, 1 / sqrtf(COLS));
        y[i] = bench_lay(b, SC_F32, 1, n_rows[i]);
    }
    memcpy(bench_host(b, angles), (const float[]){1, 0}, 2 * sizeof(float));
    memset(bench_host(b, step), 0, sizeof(struct step));
    op_qkv(&b->commands, (struct kv_cache){y[1], y[2]}, y[0], y[1], y[2], w, x, norm, angles, step, heads);
    if (!bench_run(b, e))
        return false;
    *is_right = true;
    for (uint32_t i = 0; i < 3; i++)
        *is_right = *is_right && is_product(b, v, y[i], w[i], normed);
    return true;
}

/* The choice of expert 1 of two, whose slot is `matrix`; the other one has none. */
static struct routing lay_routing(struct bench *b, struct tensor *table, struct tensor matrix)
{
    const struct routing r = {.ids = bench_lay(b, SC_F32, 1, 1), .probs = bench_lay(b, SC_F32, 1, 1)};
    *table = bench_lay(b, SC_F32, 2, 2);
    memcpy(bench_host(b, *table), (const uint64_t[]){0, matrix.address}, 2 * sizeof(uint64_t));
    memcpy(bench_host(b, r.ids), &(const uint32_t){1}, sizeof(uint32_t));
    memcpy(bench_host(b, r.probs), &(const float){1}, sizeof(float));
    return r;
}

/* gate and up are the same matrix, so that y is silu(g) g. */
static bool test_gate_up(struct bench *b, enum family family, const struct variant *v, enum sc_type type,
                         bool *is_right, struct sc_error *e)
{
    (void)family;
    const uint32_t rows = at_most(v->tile_rows / 2 + 3, MAX_ROWS);
    struct norm norm;
    struct tensor normed, x = lay_normed(b, &norm, &normed), w = bench_lay_random(b, type, rows, COLS, 1 / sqrtf(COLS));
    const struct tensor y = bench_lay(b, SC_F32, 1, rows), product = bench_lay(b, SC_F32, 1, rows);
    struct tensor table;
    const struct routing r = lay_routing(b, &table, w);
    const struct expert_tensor experts = {
        .slots = table.address, .n_experts = 2, .type = type, .rows = rows, .cols = COLS};
    op_expert_gate_up(&b->commands, y, experts, experts, x, norm, r);
    op_linear(&b->commands, product, w, normed); /* which the self-test of matvec has found right */
    if (!bench_run(b, e))
        return false;
    *is_right = true;
    for (uint32_t i = 0; i < rows; i++) {
        const double g = (double)((const float *)bench_host(b, product))[i], silu = g / (1 + exp(-g));
        *is_right = *is_right && fabs((double)((const float *)bench_host(b, y))[i] - silu * g) <= 1e-4 * (1 + g * g);
    }
    return true;
}

static bool test_down(struct bench *b, enum family family, const struct variant *v, enum sc_type type, bool *is_right,
                      struct sc_error *e)
{
    (void)family;
    const uint32_t rows = at_most(v->tile_rows + 3, MAX_ROWS);
    const struct tensor w = bench_lay_random(b, type, rows, COLS, 1 / sqrtf(COLS)), x = lay_whole(b, 1),
                        y = bench_lay(b, SC_F32, 1, rows);
    struct tensor table;
    const struct routing r = lay_routing(b, &table, w);
    memset(bench_host(b, y), 0, rows * sizeof(float));
    op_expert_down(
        &b->commands, y,
        (struct expert_tensor){.slots = table.address, .n_experts = 2, .type = type, .rows = rows, .cols = COLS}, x, r);
    if (!bench_run(b, e))
        return false;
    *is_right = is_product(b, v, y, w, x);
    return true;
}

/* The best of the experts, once the last of several workgroups is done. */
static bool test_router(struct bench *b, enum family family, const struct variant *v, enum sc_type type, bool *is_right,
                        struct sc_error *e)
{
    (void)family;
    const uint32_t n = at_most(v->tile_rows + 3, SC_MAX_EXPERTS);
    struct norm norm;
    struct tensor normed, x = lay_normed(b, &norm, &normed), w = bench_lay_random(b, type, n, COLS, 1 / sqrtf(COLS));
    const struct tensor logits = bench_lay(b, SC_F32, 1, n), counter = bench_lay(b, SC_F32, 1, 1);
    const struct routing r = {
        .ids = bench_lay(b, SC_F32, 1, 1), .probs = bench_lay(b, SC_F32, 1, 1), .counter = counter.address};
    memset(bench_host(b, counter), 0, sizeof(uint32_t));
    op_router(&b->commands, r, logits, w, x, norm, (struct tensor){0});
    if (!bench_run(b, e))
        return false;
    const float *got = bench_host(b, logits);
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = got[i] > got[best] ? i : best;
    *is_right = is_product(b, v, logits, w, normed) && *(const uint32_t *)bench_host(b, r.ids) == best &&
                *(const uint32_t *)bench_host(b, counter) == 0;
    return true;
}

/* Records, runs and judges one variant, which choices.forced makes the operations take. */
static bool (*const tests[N_FAMILIES])(struct bench *b, enum family family, const struct variant *v, enum sc_type type,
                                       bool *is_right, struct sc_error *e) = {
    [FAMILY_MATVEC] = test_linear,
    [FAMILY_MATMUL_FEW] = test_linear,
    [FAMILY_MATMUL] = test_linear,
    [FAMILY_QKV] = test_qkv,
    [FAMILY_GATE_UP] = test_gate_up,
    [FAMILY_DOWN] = test_down,
    [FAMILY_ROUTER] = test_router,
    [FAMILY_MATMUL_EXACT] = test_linear,
    [FAMILY_ATTENTION] = self_test_attention,
    [FAMILY_ATTENTION_MANY] = self_test_attention,
    [FAMILY_ROWS] = self_test_rows,
};

/* Whether the driver takes the kernel at all; only what has nothing to do with the kernel is an error. */
static bool compile(struct gpu *gpu, const struct variant *v, enum sc_type type, bool *compiles, struct sc_error *e)
{
    struct sc_error why = {0};
    const struct program program = variant_program(v, type);
    *compiles = gpu_pipeline(gpu, &program, &why) != VK_NULL_HANDLE;
    return *compiles || why.code == SC_UNSUPPORTED || sc_fail(e, why.code, "%s", why.text);
}

static bool run_test(struct gpu *gpu, enum family family, uint32_t variant, enum sc_type type, bool *is_right,
                     struct sc_error *e)
{
    uint32_t n;
    struct bench b;
    const uint8_t forced = gpu->choices.forced[family];
    bool ok = bench_init(&b, gpu, e);
    if (ok) {
        gpu->choices.forced[family] = (uint8_t)(1 + variant);
        ok = tests[family](&b, family, &family_variants(family, &n)[variant], type, is_right, e);
        gpu->choices.forced[family] = forced;
    }
    bench_finish(&b);
    return ok;
}

static const char *operand(enum family family)
{
    return family_has_cache(family) ? "caches" : "weights";
}

static void warn(const struct gpu *gpu, enum family family, uint32_t variant, enum sc_type type,
                 struct listener listener)
{
    uint32_t n;
    char text[400];
    snprintf(text, sizeof(text), "%.200s: the driver computes %s (%s) with %s %s wrongly, so it is not used",
             gpu->info.name, family_names[family], family_variants(family, &n)[variant].name, sc_type_info(type)->name,
             operand(family));
    if (listener.log)
        listener.log(listener.user, SC_LOG_WARNING, text);
}

bool self_test_variant(struct gpu *gpu, enum family family, uint32_t variant, enum sc_type type,
                       struct listener listener, bool *is_right, struct sc_error *e)
{
    struct findings *f = &gpu->choices.findings;
    uint32_t n;
    const uint32_t bit = UINT32_C(1) << type;
    *is_right = (f->passed[family][variant] & bit) || !tests[family];
    if (*is_right || (f->failed[family][variant] & bit))
        return true;
    struct sc_error why = {0};
    findings_begin_test(gpu, family, variant, type);
    if (compile(gpu, &family_variants(family, &n)[variant], type, is_right, &why) && *is_right &&
        !run_test(gpu, family, variant, type, is_right, &why))
        *is_right = false;
    findings_end_test(gpu, why.code);
    if (why.code && why.code != SC_UNSUPPORTED) /* that is the kernel with another constant that the test takes, say */
        return sc_fail(e, why.code, "%s", why.text);
    if (!*is_right && !f->failed[family][variant])
        warn(gpu, family, variant, type, listener);
    (*is_right ? f->passed : f->failed)[family][variant] |= bit;
    return true;
}

/* Until a variant is right. */
static bool find_right(struct gpu *gpu, enum family family, enum sc_type type, struct listener listener, bool *is_right,
                       struct sc_error *e)
{
    uint32_t n;
    (void)family_variants(family, &n);
    *is_right = false;
    for (uint32_t i = 0; i < n && !*is_right; i++)
        if (variant_is_usable(gpu, family, i, type) && !self_test_variant(gpu, family, i, type, listener, is_right, e))
            return false;
    return true;
}

/*
 * *e says what is wrong with the driver if no variant is right. What was kept from an earlier start is not enough for
 * that: it may be stale or not ours.
 */
static bool test_family(struct gpu *gpu, enum family family, enum sc_type type, struct listener listener,
                        struct sc_error *e)
{
    struct findings *f = &gpu->choices.findings;
    const uint32_t bit = UINT32_C(1) << type;
    uint32_t kept[MAX_VARIANTS];
    bool is_right;
    memcpy(kept, f->failed[family], sizeof(kept));
    if (!find_right(gpu, family, type, listener, &is_right, e))
        return false;
    if (is_right)
        return true;
    for (uint32_t i = 0; i < MAX_VARIANTS; i++) {
        f->failed[family][i] &= ~(kept[i] & bit);
        f->passed[family][i] &= ~(kept[i] & bit);
    }
    if (!find_right(gpu, family, type, listener, &is_right, e))
        return false;
    return is_right || sc_fail(e, SC_NO_DEVICE, "%s cannot run Scoria: its driver computes %s with %s %s wrongly",
                               gpu->info.name, family_names[family], sc_type_info(type)->name, operand(family));
}

/* What was the fastest when it was timed comes before what test_family found, if it is right. */
static bool test_tuned(struct gpu *gpu, enum family family, enum sc_type type, struct listener listener,
                       struct sc_error *e)
{
    const struct findings *f = &gpu->choices.findings;
    bool is_right;
    for (uint32_t i = 0; i < f->n_tuned && !gpu->choices.ignores_tuned; i++)
        if (f->tuned[i].family == family_timed(family) && f->tuned[i].type == type &&
            variant_is_usable(gpu, family, f->tuned[i].variant, type) &&
            !self_test_variant(gpu, family, f->tuned[i].variant, type, listener, &is_right, e))
            return false;
    return true;
}

bool self_test(struct gpu *gpu, const uint32_t types[N_FAMILIES], struct listener listener, struct sc_error *e)
{
    for (enum family family = 0; family < N_FAMILIES; family++)
        for (enum sc_type type = 0; type < 32; type++)
            if (types[family] >> type & 1 &&
                (!test_family(gpu, family, type, listener, e) || !test_tuned(gpu, family, type, listener, e)))
                return false;
    return true;
}
