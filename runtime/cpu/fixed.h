/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels in fixed point for AVX-512 with VNNI, included by cpu_kernels.c: whole numbers within 256 weights, floats
 * from there on. cpu_kernels.h says what the activations look like and what they are good for.
 *
 * A register holds 64 weights as bytes. An instruction multiplies them with 64 activations and leaves the sums of four:
 * 16 sums. Two registers are so ordered that these have the same scales, which a permutation brings from the block's
 * vector of scales: conversions, scales and shifts are half as many as by one register. Which weights come when follows
 * from the format, so the activations are put into that order once a call.
 */
#ifndef SCORIA_FIXED_H
#define SCORIA_FIXED_H

#define VB __m512i

#include "fixed_unpack.h"

/* type, and what struct fixed_layout has of it; offset_lane and factor are the last two */
#define FIXED_LAYOUTS(X) \
    X(Q4_0, q4_0, 144, order_blocks, lane_32, 0, -8) \
    X(Q4_1, q4_1, 160, order_blocks, lane_pair, 1, 1) \
    X(Q5_0, q5_0, 176, order_blocks, lane_32, 0, -16) \
    X(Q5_1, q5_1, 192, order_blocks, lane_pair, 1, 1) \
    X(Q8_0, q8_0, 272, order_blocks, lane_32, 0, -128) \
    X(Q2_K, q2_k, 84, order_pairs, lane_16, 0, -1) \
    X(Q3_K, q3_k, 110, order_pairs, lane_16, 0, -4) \
    X(Q4_K, q4_k, 144, order_chunks, lane_q4_k, 4, -1) \
    X(Q5_K, q5_k, 176, order_chunks, lane_q4_k, 4, -1) \
    X(Q6_K, q6_k, 210, order_halves, lane_16, 0, -32) \
    X(IQ4_NL, iq4_nl, 144, order_blocks, lane_32, 0, -128) \
    X(IQ4_XS, iq4_xs, 136, order_blocks, lane_32, 0, -128)

struct fixed_layout {
    unsigned bytes;
    const uint8_t *order;             /* (32): which 8 weights are the registers' n-th 8 */
    unsigned (*lane)(unsigned group); /* of its scale */
    unsigned offset_lane;             /* of its offset, counted from there */
    float factor;                     /* a weight is scale * q + factor * offset */
    void (*scales)(const uint8_t *b, struct fixed_scales *s);
    void (*quants)(const uint8_t *b, VB q[4]);
};

/* Of the scales of the first two registers and of the others. */
INLINE void lanes_of(struct fixed_layout f, __m512i lanes[2])
{
    for (unsigned j = 0; j < 2; j++) {
        uint32_t l[16];
        for (unsigned i = 0; i < 16; i++)
            l[i] = f.lane(f.order[16 * j + i / 2] / 2);
        lanes[j] = _mm512_loadu_si512(l);
    }
}

/* 256 activations for a type: their digits in the order of its groups, and what its offsets are multiplied with. */
INLINE void quantize_block(struct fixed_layout f, const float *x, struct cpu_fixed *out)
{
    VI largest = {0}; /* as bits: so NaN is larger than infinity, and that than any number */
    for (unsigned i = 0; i < 256; i += LANES)
        largest = (VI)_mm512_max_epu32((__m512i)largest, (__m512i)((VI)vector_load(x + i) & 0x7fffffff));
    uint32_t bits = _mm512_reduce_max_epu32((__m512i)largest);
    float most;
    memcpy(&most, &bits, sizeof most);
    if (!(most <= FLT_MAX)) {
        *out = (struct cpu_fixed){.scale = NAN};
        return;
    }
    float inverse = most >= 0x1p-100f ? CPU_FIXED_MOST / most : 0; /* never infinite */
    int32_t v[256], sums[16] = {0};
    for (unsigned g = 0; g < 16; g++) {
        __m512i rounded = _mm512_cvtps_epi32(vector_load(x + 16 * g) * inverse);
        _mm512_storeu_si512(v + 16 * g, rounded);
        sums[f.lane(g) + f.offset_lane] += _mm512_reduce_add_epi32(rounded);
    }
    for (unsigned p = 0; p < 32; p++) {
        __m256i rest = _mm256_loadu_si256((const void *)(v + 8 * f.order[p]));
        for (unsigned d = 2; d < 3; d--) {
            _mm_storel_epi64((void *)(out->digits[d] + 8 * p), _mm256_cvtepi32_epi8(rest));
            rest = _mm256_srai_epi32(_mm256_add_epi32(rest, _mm256_set1_epi32(128)), 8); /* the digits are signed */
        }
    }
    vector_store(out->offsets, to_float((VI)_mm512_loadu_si512(sums)) * vector_set(f.factor));
    out->scale = most / CPU_FIXED_MOST;
}

enum { FIXED_ROWS = 4, FIXED_AHEAD = 2048 /* bytes that are asked for ahead, in each row */ };

/* sums[r] += what the q of row r, with their scales, make of a block of x. */
INLINE void add_block(VB q[FIXED_ROWS][4], const struct fixed_scales s[FIXED_ROWS], const __m512i lanes[2],
                      const struct cpu_fixed *x, VF sums[FIXED_ROWS])
{
    VF part[FIXED_ROWS];
    UNROLL
    for (unsigned r = 0; r < FIXED_ROWS; r++)
        part[r] = s[r].offset * _mm512_load_ps(x->offsets);
    UNROLL
    for (unsigned j = 0; j < 2; j++) {
        __m512i products[FIXED_ROWS] = {{0}};
        UNROLL
        for (unsigned d = 0; d < 3; d++) {
            UNROLL
            for (unsigned i = 2 * j; i < 2 * j + 2; i++) {
                VB digits = _mm512_load_si512(x->digits[d] + 64 * i);
                __asm__("" : "+v"(digits)); /* loaded once for all rows: loads are what the kernel is short of */
                UNROLL
                for (unsigned r = 0; r < FIXED_ROWS; r++) {
                    if (d > 0 && i == 2 * j)
                        products[r] = _mm512_slli_epi32(products[r], 8);
                    products[r] = _mm512_dpbusd_epi32(products[r], q[r][i], digits);
                }
            }
        }
        /* What is fused is written down, so that all rows and tokens round alike. */
        UNROLL
        for (unsigned r = 0; r < FIXED_ROWS; r++)
            part[r] =
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[r]), _mm512_permutexvar_ps(lanes[j], s[r].scale), part[r]);
    }
    UNROLL
    for (unsigned r = 0; r < FIXED_ROWS; r++)
        sums[r] = _mm512_fmadd_ps(part[r], vector_set(x->scale), sums[r]);
}

/*
 * Becomes a function of its own for each type, in which all of the layout is constant, for one token and for more. Each
 * of FIXED_ROWS equal parts of the rows is read from end to end: so many streams, and no gaps in them.
 */
INLINE void multiply_fixed(struct fixed_layout f, const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_cols,
                           const struct cpu_fixed *x, uint32_t n_tokens, float *y)
{
    __m512i lanes[2];
    lanes_of(f, lanes);
    uint32_t stream = (n_rows + FIXED_ROWS - 1) / FIXED_ROWS;
    for (uint32_t row = 0; row < stream; row++) {
        const uint8_t *rows[FIXED_ROWS];
        uint32_t index[FIXED_ROWS];
        VF sums[CPU_FIXED_TOKENS][FIXED_ROWS];
        UNROLL
        for (uint32_t r = 0; r < FIXED_ROWS; r++) {
            index[r] = row + r * stream < n_rows ? row + r * stream : row;
            rows[r] = w + index[r] * row_bytes;
            for (uint32_t t = 0; t < n_tokens; t++)
                sums[t][r] = vector_set(0);
        }
        for (uint32_t k = 0; k < n_cols / 256; k++) {
            struct fixed_scales s[FIXED_ROWS];
            VB q[FIXED_ROWS][4];
            UNROLL
            for (uint32_t r = 0; r < FIXED_ROWS; r++) {
                UNROLL
                for (unsigned i = 0; i < f.bytes; i += 64)
                    __builtin_prefetch((const void *)((uintptr_t)rows[r] + FIXED_AHEAD + i), 0, 3);
                f.scales(rows[r], &s[r]);
                f.quants(rows[r], q[r]);
                rows[r] += f.bytes;
            }
            for (uint32_t t = 0; t < n_tokens; t++)
                add_block(q, s, lanes, &x[k * n_tokens + t], sums[t]);
        }
        for (uint32_t t = 0; t < n_tokens; t++) {
            float totals[FIXED_ROWS];
            vector_sum4(sums[t], totals);
            for (uint32_t r = 0; r < FIXED_ROWS; r++)
                y[index[r] * n_tokens + t] = totals[r];
        }
    }
}

#define FIXED_KERNELS(TYPE, type, bytes, order, lane, offset_lane, factor) \
    static const struct fixed_layout fixed_##type = { \
        bytes, order, lane, offset_lane, factor, type##_fixed_scales, type##_quants}; \
    static void quantize_##type(const float *x, uint32_t n_cols, uint32_t n_tokens, struct cpu_fixed *out) \
    { \
        for (uint32_t k = 0; k < n_cols / 256; k++) \
            quantize_block(fixed_##type, x + 256 * k, &out[k * n_tokens]); \
    } \
    static void multiply_fixed_##type(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_cols, \
                                      const struct cpu_fixed *x, uint32_t n_tokens, float *y) \
    { \
        if (n_tokens == 1) \
            multiply_fixed(fixed_##type, w, row_bytes, n_rows, n_cols, x, 1, y); \
        else \
            multiply_fixed(fixed_##type, w, row_bytes, n_rows, n_cols, x, n_tokens, y); \
    }
FIXED_LAYOUTS(FIXED_KERNELS)

#define FIXED_ENTRY(TYPE, type, ...) \
    [SC_##TYPE].quantize = quantize_##type, [SC_##TYPE].multiply_fixed = multiply_fixed_##type,

#endif
