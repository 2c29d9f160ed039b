/* SPDX-License-Identifier: Apache-2.0 */
#include "op_reference.h"

#include <math.h>
#include <string.h>

struct sum reference_dot(const float *w, const float *x, uint32_t n)
{
    struct sum s = {0};
    for (uint32_t i = 0; i < n; i++) {
        const double product = (double)w[i] * (double)x[i];
        s.value += product;
        s.magnitude += fabs(product);
        s.x_magnitude += fabs((double)x[i]);
    }
    return s;
}

double reference_dot_bound(struct sum s, uint32_t n, uint32_t roundings)
{
    const double flushed = (double)FLT_MIN * (2.0 * n + s.x_magnitude);
    return roundings * OP_EPS / 2 * OP_SECOND_ORDER * s.magnitude + flushed;
}

static double magnitude(const float *w, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += fabs((double)w[i]);
    return sum;
}

double reference_rounding_bound(enum rounding rounding, struct sum s, const float *w, const float *x, uint32_t n)
{
    double error = 0;
    if (rounding == ROUNDS_TO_F16)
        error = 2 * s.magnitude / 1024 + (s.x_magnitude + magnitude(w, n)) / (1 << 24);
    for (uint32_t i = 0; rounding == ROUNDS_TO_Q8 && i < n; i += ROUNDED_BLOCK) {
        double largest = 0;
        for (uint32_t k = i; k < i + ROUNDED_BLOCK; k++)
            largest = fmax(largest, fabs((double)x[k]));
        error += magnitude(w + i, ROUNDED_BLOCK) * largest / 127 / 2;
    }
    return OP_SECOND_ORDER * error;
}

/*
 * The sum of squares: one rounding a square, at most ceil(cols / 64) - 1 additions in a thread and 63 among the 64
 * threads in whatever order. Its error halves under the root; then the mean's division (2.5 ulp), eps (1/2), the root
 * (4.5), its reciprocal (2.5) and two products (1/2 each). All terms have one sign, so errors are relative.
 */
void reference_rms_norm(struct bounded *y, const float *x, const float *w, uint32_t cols, float eps)
{
    double sum = 0;
    for (uint32_t i = 0; i < cols; i++)
        sum += (double)x[i] * (double)x[i];
    const double scale = 1 / sqrt(sum / cols + (double)eps);
    const double ulps = ((1 + (cols + 63) / 64 + 63) * 0.5 + 2.5 + 0.5) / 2 + 4.5 + 2.5 + 1;
    for (uint32_t i = 0; i < cols; i++) {
        y[i].value = (double)x[i] * scale * (double)w[i];
        y[i].bound = ulps * OP_EPS * OP_SECOND_ORDER * fabs(y[i].value) + (double)FLT_MIN;
    }
}

/*
 * exp(-g): (3 + 2|g|) ulp, of which the sum 1 + exp keeps the share exp / (1 + exp); the sum and the product 1/2 each,
 * the division 2.5. Of divisors above 2^126 Vulkan promises nothing, so there 0 is as good as the tiny value.
 */
struct bounded reference_silu_mul(float gate, float up)
{
    const double g = (double)gate, e = exp(-g), value = g / (1 + e) * (double)up;
    const double share = isinf(e) ? 1 : e / (1 + e);
    const double ulps = (g > 0 ? share * (3 + 2 * g) : share * (3 - 2 * g)) + 0.5 + 2.5 + 0.5;
    struct bounded y = {value,
                        ulps * OP_EPS * OP_SECOND_ORDER * fabs(value) + (double)FLT_MIN * (1 + fabs((double)up))};
    if (-g > 126 * log(2.0))
        y.bound += fabs(value);
    return y;
}

/* One rounding a product, n_used - 1 additions (the first is to 0), and the addition to x. */
struct bounded reference_combine(float x, const float *probs, const float *y, uint32_t n_used, uint32_t stride)
{
    double sum = (double)x, magnitude = fabs((double)x);
    for (uint32_t k = 0; k < n_used; k++) {
        sum += (double)probs[k] * (double)y[k * stride];
        magnitude += fabs((double)probs[k] * (double)y[k * stride]);
    }
    return (struct bounded){sum,
                            (1 + n_used) * OP_EPS / 2 * OP_SECOND_ORDER * magnitude + 2 * n_used * (double)FLT_MIN};
}

/*
 * exp(x), x the rounded difference to the best: 3 + 2|x| + |x| / 2 ulp each; the sum as much on average, and n_used - 1
 * additions; the division 2.5.
 */
void reference_route(uint32_t *ids, struct bounded *probs, const float *logits, uint32_t n_experts, uint32_t n_used)
{
    bool taken[256] = {false};
    double e[16], sum = 0, sum_ulps = 0;
    for (uint32_t k = 0; k < n_used; k++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = 0; i < n_experts; i++) {
            const float v = isnan(logits[i]) ? -INFINITY : logits[i];
            if (!taken[i] && (best == UINT32_MAX || v > (isnan(logits[best]) ? -INFINITY : logits[best])))
                best = i;
        }
        taken[best] = true;
        ids[k] = best;
        const double first = (double)logits[ids[0]], x = isnan(logits[best]) ? -INFINITY : (double)logits[best];
        e[k] = isinf(x) && x < 0 && first > x ? 0 : exp(x - first);
        probs[k].bound = e[k] > 0 ? 3 + 2.5 * (first - x) : 0;
        sum += e[k];
        sum_ulps += e[k] * probs[k].bound;
    }
    for (uint32_t k = 0; k < n_used; k++) {
        const double ulps = probs[k].bound + sum_ulps / sum + (n_used - 1) * 0.5 + 2.5;
        probs[k].value = e[k] / sum;
        probs[k].bound = ulps * OP_EPS * OP_SECOND_ORDER * probs[k].value + (double)FLT_MIN;
    }
}

/*
 * y = sum of p_j v_j, p_j = e_j / sum of e, e_j = exp(s_j - M). Errors, in ulps relative to e_j:
 *
 * - A score is a sum of head_dim products: one rounding a product, 3 additions in its quad, an addition for each quad,
 *   the scaling, and an ulp of the scale itself (a root and a quotient on the host). So much of scale * sum of |q k| is
 *   an absolute error of s_j, so a relative one of e_j.
 *
 * - exp(s_j - m), m the maximum so far: 3 + 2.5|s_j - m|. When the maximum grows the sums shrink by exp(m - m'), once
 *   more where splits are merged: 3 + 2.5|m - m'|, and 1/2 for the product. The differences add up to |s_j - M|, so in
 *   all 3 + 2.5|s_j - M|, and 3.5 for each step of 32 positions or 64 and for the merge.
 *
 * - The numerator: one rounding a product, one addition a position of the split, whoever adds it, one a split.
 *
 * - The denominator: 8 additions in a thread and at most 8 for each step, one a split. The quotient: 2.5.
 *
 * - In halves: q, k, v and e_j are off by 2^-10 of their size more, or by 2^-24, and matrix units may cut where they
 * add.
 */
void reference_attention(struct bounded *y, const float *q, const float *k, const float *v, struct attention_shape s,
                         uint32_t t, uint32_t n_tokens, uint32_t head)
{
    const uint32_t dim = s.head_dim, n = s.n_past + t + 1, kv_head = head / (s.n_heads / s.n_kv_heads);
    const uint32_t first = s.window && n > s.window ? n - s.window : 0, all = s.n_past + n_tokens;
    const uint32_t share = ((all + s.n_splits - 1) / s.n_splits + 63) / 64 * 64, per_split = share < 128 ? 128 : share;
    const uint32_t in_split = per_split < n ? per_split : n, steps = (in_split + 31) / 32, merges = s.n_splits > 1;
    const double scale = 1 / sqrt((double)dim), score_ulps = (s.in_halves ? dim : (1 + 3 + dim / 4.0 + 1) * 0.5) + 1;
    const double half = s.in_halves ? 1 / 1024.0 / OP_EPS : 0, tiny = s.in_halves ? 0x1p-24 : 0;
    static double score[1 << 17], wrong[1 << 17]; /* the scores; their weights' relative errors, in ulps */
    double best = -INFINITY, sum = 0, sum_wrong = 0;
    q += ((uint64_t)t * s.n_heads + head) * dim;

    for (uint32_t j = first; j < n; j++) {
        const struct sum dot = reference_dot(q, k + ((uint64_t)j * s.n_kv_heads + kv_head) * dim, dim);
        score[j] = scale * dot.value;
        const double rounding =
            reference_rounding_bound(s.in_halves ? ROUNDS_TO_F16 : ROUNDS_NOTHING, dot, q, NULL, dim);
        wrong[j] = scale * (dot.magnitude * score_ulps + rounding / OP_EPS);
        best = fmax(best, score[j]);
    }
    for (uint32_t j = first; j < n; j++) {
        wrong[j] += 3 + 2.5 * (best - score[j]) + 3.5 * (steps + merges) + half;
        score[j] = exp(score[j] - best);
        sum += score[j];
        sum_wrong += score[j] * wrong[j];
    }
    const double numerator = (1 + in_split + merges * s.n_splits) * (s.in_halves ? 1 : 0.5) + half;
    const double denominator =
        (8 + 8 * steps + merges * s.n_splits) * 0.5 + (sum_wrong + n * tiny / OP_EPS) / sum + 2.5;
    const double second_order = OP_SECOND_ORDER / (1 - denominator * OP_EPS);
    for (uint32_t d = 0; d < dim; d++) {
        double value = 0, error = 0, flushed = 0;
        for (uint32_t j = first; j < n; j++) {
            const double term = score[j] / sum * (double)v[((uint64_t)j * s.n_kv_heads + kv_head) * dim + d];
            value += term;
            error += fabs(term) * (wrong[j] + numerator);
            flushed += ((double)FLT_MIN + tiny / sum) *
                       (1 + fabs((double)v[((uint64_t)j * s.n_kv_heads + kv_head) * dim + d]));
        }
        y[d].value = value;
        y[d].bound = (error + fabs(value) * denominator) * OP_EPS * second_order + flushed;
    }
}

double half_spacing(double x)
{
    int exponent;
    frexp(x, &exponent); /* |x| is in [2^(exponent - 1), 2^exponent) */
    return x == 0 || exponent < -13 ? 0x1p-24 : ldexp(1, exponent - 11);
}

uint16_t half_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000;
    const double spacing = half_spacing((double)f);
    const double rounded = nearbyint(fabs((double)f) / spacing) * spacing; /* in the default mode: ties to even */
    int exponent;
    frexp(rounded, &exponent);
    if (rounded < 0x1p-14)
        return (uint16_t)(sign | (uint32_t)(rounded * 0x1p24));
    return (uint16_t)(sign | ((uint32_t)(exponent + 14) << 10 | ((uint32_t)ldexp(rounded, 11 - exponent) & 0x3FF)));
}
