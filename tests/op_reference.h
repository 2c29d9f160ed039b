/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operations in double precision, with what a kernel's rounding may make of them. Bounds are first order in
 * FLT_EPSILON with a percent on top for the rest: EPS is an ulp at most, a correctly rounded operation is off by EPS /
 * 2, and Vulkan promises of the others: division 2.5 ulp, sqrt 4.5 ulp, exp 3 + 2|x| ulp.
 */
#ifndef SCORIA_TESTS_OP_REFERENCE_H
#define SCORIA_TESTS_OP_REFERENCE_H

#include <float.h>
#include <stdbool.h>
#include <stdint.h>

#include "variants.h"

#define OP_EPS ((double)FLT_EPSILON)
#define OP_SECOND_ORDER 1.01

struct sum {
    double value, magnitude; /* sum of w * x and of |w * x| */
    double x_magnitude; /* sum of |x|: what subnormal weights, if flushed to zero, may take off, in units of FLT_MIN */
};

struct sum reference_dot(const float *w, const float *x, uint32_t n);

/* The bound of a sum of n products whose terms each go through so many roundings. */
double reference_dot_bound(struct sum s, uint32_t n, uint32_t roundings);

/*
 * What is added to it for a variant that rounds more than sums. To halves, the weights and x: off by 2^-10 of their
 * size, or 2^-24 if they are subnormal. To 8 bits, x alone: off by half a step, a 127th of the largest in its block.
 */
double reference_rounding_bound(enum rounding rounding, struct sum s, const float *w, const float *x, uint32_t n);

struct bounded {
    double value, bound;
};

/* One row: y[i] = x[i] / sqrt(mean of x^2 + eps) * w[i] */
void reference_rms_norm(struct bounded *y, const float *x, const float *w, uint32_t cols, float eps);

struct bounded reference_silu_mul(float gate, float up);

/* x + sum over k of probs[k] * y[k * stride] */
struct bounded reference_combine(float x, const float *probs, const float *y, uint32_t n_used, uint32_t stride);

/* The n_used best logits; ties to the lower id, NaN as -inf. probs are NaN if no logit is above -inf. */
void reference_route(uint32_t *ids, struct bounded *probs, const float *logits, uint32_t n_experts, uint32_t n_used);

struct attention_shape {
    uint32_t n_heads, n_kv_heads, head_dim, n_past, n_splits, window;
    bool in_halves; /* the kernel rounds q, k, v and the weights to half precision, and sums on matrix units */
};

/* One head of token t: y[head_dim]. k and v are (positions, n_kv_heads, head_dim), as the kernel sees them. */
void reference_attention(struct bounded *y, const float *q, const float *k, const float *v, struct attention_shape s,
                         uint32_t t, uint32_t n_tokens, uint32_t head);

/* Half precision: its spacing at x; and the value of a float when rounded to nearest even. */
double half_spacing(double x);
uint16_t half_of(float f);

#endif
