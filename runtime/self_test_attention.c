/* SPDX-License-Identifier: Apache-2.0 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "random_blocks.h"
#include "self_test_bench.h"
#include "variants.h"

enum { MAX_POSITIONS = 192, MAX_DIM = 128, MAX_VALUES = MAX_POSITIONS * 2 * MAX_DIM };

/* Over more than a step of 64 positions, in two head sizes, for which some variants are compiled apart. */
static const struct attention_case {
    enum family family;
    struct heads heads;
    uint32_t n, n_past, n_pieces;
} cases[] = {
    {FAMILY_ATTENTION, {.n = 4, .n_kv = 2, .dim = 128}, 3, 150, 2},
    {FAMILY_ATTENTION, {.n = 3, .n_kv = 1, .dim = 64, .window = 70}, 1, 130, 1},
    {FAMILY_ATTENTION_MANY, {.n = 4, .n_kv = 2, .dim = 128}, 17, 60, 1},
    {FAMILY_ATTENTION_MANY, {.n = 3, .n_kv = 1, .dim = 64, .window = 33}, 23, 50, 1},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

/* One case on the device, and what the reference needs of it. */
struct laid {
    struct tensor q, y;
    float k[MAX_VALUES], v[MAX_VALUES]; /* (positions, n_kv * dim) */
};

/*
 * Random values, what they are also into values (n_positions, n); the rest of the cache stays NaN. Those of q8_0 are
 * bytes and a scale of 2^-7 in half precision.
 */
static struct tensor lay_cache(struct bench *b, enum sc_type type, uint32_t n_positions, uint32_t n, float *values)
{
    const struct tensor cache = bench_lay(b, type, MAX_POSITIONS, kv_cols(type, n)), one = tensor_rows(cache, 1);
    uint8_t *row = bench_host(b, cache);
    for (uint32_t position = 0; position < n_positions; position++, row += tensor_size_bytes(&one), values += n) {
        if (type != SC_Q8_0) {
            random_blocks(row, type, n, 1, &b->seed);
            sc_type_info(type)->dequantize(row, values, n);
            continue;
        }
        for (uint32_t i = 0; i < n; i++) {
            row[i] = (uint8_t)random_u64(&b->seed);
            values[i] = (float)(int8_t)row[i] / 128;
            if (i % 32 == 0)
                memcpy(row + cache.cols + i / 32 * sizeof(uint16_t), &(const uint16_t){0x2000}, sizeof(uint16_t));
        }
    }
    return cache;
}

static void record(struct bench *b, const struct attention_case *c, enum sc_type type, struct laid *laid)
{
    const struct heads h = c->heads;
    const struct tensor partial = bench_lay(b, SC_F32, c->n * h.n * c->n_pieces, h.dim + 4),
                        done = bench_lay(b, SC_F32, 1, attention_tiles(c->n, h) * h.n_kv),
                        step = bench_lay(b, SC_F32, 1, sizeof(struct step) / sizeof(uint32_t));
    const struct kv_cache kv = {.k = lay_cache(b, type, c->n_past + c->n, h.n_kv * h.dim, laid->k),
                                .v = lay_cache(b, type, c->n_past + c->n, h.n_kv * h.dim, laid->v)};
    laid->q = bench_lay_random(b, SC_F32, c->n, h.n * h.dim, 1);
    laid->y = bench_lay(b, SC_F32, c->n, h.n * h.dim);
    memset(bench_host(b, done), 0, tensor_size_bytes(&done));
    memcpy(bench_host(b, step), &(const struct step){.n_past = c->n_past, .n_tokens = c->n}, sizeof(struct step));
    op_attention(&b->commands, laid->y, laid->q, kv, partial, done, step, h);
}

/*
 * Whether one head of token t is right. A rounding to halves is off by 2^-10 of a value; else what adds up is at most
 * an EPSILON for each position. A score is off by that twice, of its terms' sizes, and so are weights, in what is
 * summed and in the sum that it is divided by.
 */
static bool is_head(const struct bench *b, const struct attention_case *c, const struct laid *laid,
                    enum rounding rounding, uint32_t t, uint32_t head)
{
    const struct heads h = c->heads;
    const uint32_t end = c->n_past + t + 1, first = h.window && end > h.window ? end - h.window : 0;
    const uint32_t stride = h.n_kv * h.dim, from = head / (h.n / h.n_kv) * h.dim;
    const float *q = (const float *)bench_host(b, laid->q) + (t * h.n + head) * h.dim;
    const float *got = (const float *)bench_host(b, laid->y) + (t * h.n + head) * h.dim;
    const double off = rounding == ROUNDS_TO_F16 ? 1 / 1024.0 : end * (double)FLT_EPSILON;
    double weights[MAX_POSITIONS], sum = 0, largest = 0;
    for (uint32_t j = first; j < end; j++) {
        double score = 0, magnitude = 0;
        for (uint32_t i = 0; i < h.dim; i++) {
            const double product = (double)q[i] * (double)laid->k[j * stride + from + i];
            score += product;
            magnitude += fabs(product);
        }
        weights[j] = exp(score / sqrt(h.dim));
        sum += weights[j];
        largest = fmax(largest, magnitude / sqrt(h.dim));
    }
    for (uint32_t i = 0; i < h.dim; i++) {
        double want = 0, magnitude = 0;
        for (uint32_t j = first; j < end; j++) {
            const double term = weights[j] / sum * (double)laid->v[j * stride + from + i];
            want += term;
            magnitude += fabs(term);
        }
        if (!(fabs((double)got[i] - want) <= 1.1 * off * (4 * largest + 8) * magnitude))
            return false;
    }
    return true;
}

bool self_test_attention(struct bench *b, enum family family, const struct variant *v, enum sc_type type,
                         bool *is_right, struct sc_error *e)
{
    struct laid *laid = calloc(N_CASES, sizeof(*laid));
    if (!laid)
        return sc_fail_memory(e, "the self-test");
    for (uint32_t i = 0; i < N_CASES; i++)
        if (cases[i].family == family)
            record(b, &cases[i], type, &laid[i]);
    const bool ok = bench_run(b, e);
    *is_right = ok;
    for (uint32_t i = 0; i < N_CASES; i++)
        for (uint32_t k = 0; *is_right && cases[i].family == family && k < cases[i].n * cases[i].heads.n; k++)
            *is_right = bench_is_guarded(b, laid[i].y) &&
                        is_head(b, &cases[i], &laid[i], v->rounding, k / cases[i].heads.n, k % cases[i].heads.n);
    free(laid);
    return ok;
}
