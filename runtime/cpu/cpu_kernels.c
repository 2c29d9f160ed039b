/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu_kernels.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "bytes.h"

#define INLINE static inline __attribute__((always_inline))

/* All loops so marked are short. With sanitizers GCC warns of those that have a single turn. */
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* A load is cheaper than a conversion: shuffles and moves between registers are what the kernels are short of. */
INLINE float half(const uint8_t *p)
{
    return cpu_half_floats[load_u16(p)];
}

#if defined(CPU_LEVEL_AVX512_VNNI)
#include "vector_avx512.h"
#define TABLE cpu_kernels_avx512_vnni
#define NAME "avx512_vnni"
#elif defined(CPU_LEVEL_AVX512)
#include "vector_avx512.h"
#define TABLE cpu_kernels_avx512
#define NAME "avx512"
#elif defined(CPU_LEVEL_AVX2)
#include "vector_avx2.h"
#define TABLE cpu_kernels_avx2
#define NAME "avx2"
#else
#include "vector_portable.h"
#define TABLE cpu_kernels_portable
#define NAME "portable"
#endif

#include "unpack.h"

/* type, weights and bytes of a block, how many weights share a byte's place and how far apart they are, its scales */
#define LAYOUTS(X) \
    X(F32, f32, 16, 64, 1, 16, no_scales) \
    X(F16, f16, 16, 32, 1, 16, no_scales) \
    X(BF16, bf16, 16, 32, 1, 16, no_scales) \
    X(Q4_0, q4_0, 32, 18, 2, 16, half_scale) \
    X(Q4_1, q4_1, 32, 20, 2, 16, half_scale_and_offset) \
    X(Q5_0, q5_0, 32, 22, 2, 16, half_scale) \
    X(Q5_1, q5_1, 32, 24, 2, 16, half_scale_and_offset) \
    X(Q8_0, q8_0, 32, 34, 1, 32, half_scale) \
    X(Q2_K, q2_k, 256, 84, 4, 32, q2_k_scales) \
    X(Q3_K, q3_k, 256, 110, 4, 32, q3_k_scales) \
    X(Q4_K, q4_k, 256, 144, 2, 32, q4_k_scales) \
    X(Q5_K, q5_k, 256, 176, 2, 32, q4_k_scales) \
    X(Q6_K, q6_k, 256, 210, 4, 32, q6_k_scales) \
    X(IQ4_NL, iq4_nl, 32, 18, 2, 16, half_scale) \
    X(IQ4_XS, iq4_xs, 256, 136, 2, 16, iq4_xs_scales)

struct layout {
    unsigned weights, bytes, quarters, span;
    void (*scales)(const uint8_t *b, struct scales *s);
    void (*unpack)(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w);
};

enum { STEP = 128, STEP_SCALES = 4 }; /* weights of a row at a time, at least; their blocks that have scales, at most */

/* Also asks for the rows after these: hardware gives up at the end of each row. */
INLINE void scale_blocks(struct layout f, const uint8_t *const rows[DOT_ROWS], size_t at, uintptr_t ahead,
                         unsigned n_blocks, struct scales s[STEP_SCALES][DOT_ROWS])
{
    UNROLL
    for (unsigned r = 0; r < DOT_ROWS; r++) {
        UNROLL
        for (unsigned i = 0; i < n_blocks * f.bytes; i += 64)
            __builtin_prefetch((const void *)((uintptr_t)rows[r] + at + ahead + i), 0, 3);
        UNROLL
        for (unsigned k = 0; k < n_blocks; k++)
            f.scales(rows[r] + at + k * f.bytes, &s[k % STEP_SCALES][r]);
    }
}

/* Adds what n_blocks blocks of DOT_ROWS rows make of x. Unrolled whole. */
INLINE void dot_blocks(struct layout f, const uint8_t *const rows[DOT_ROWS], size_t at, const float *x,
                       unsigned n_blocks, struct scales s[STEP_SCALES][DOT_ROWS], VF sums[DOT_ROWS][2])
{
    UNROLL
    for (unsigned k = 0; k < n_blocks; k++, at += f.bytes, x += f.weights) {
        UNROLL
        for (unsigned i = 0; i < f.weights / (f.quarters * f.span); i++) {
            UNROLL
            for (unsigned l = 0; l < f.span; l += LANES) {
                VF v[4], w[4];
                UNROLL
                for (unsigned q = 0; q < f.quarters; q++)
                    v[q] = vector_load(x + (i * f.quarters + q) * f.span + l);
                UNROLL
                for (unsigned r = 0; r < DOT_ROWS; r++) {
                    f.unpack(rows[r] + at, &s[k % STEP_SCALES][r], i, l, w);
                    UNROLL
                    for (unsigned q = 0; q < f.quarters; q++)
                        sums[r][(l / LANES + q) % 2] += w[q] * v[q];
                }
            }
        }
    }
}

/*
 * Becomes a function of its own for each type, in which all of the layout is constant. DOT_ROWS rows at a time share
 * what they load of x and give each other's chains of additions time. The scales of a step are made one step before,
 * because it takes longer to make them than a processor looks ahead.
 */
INLINE void dot(struct layout f, const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_cols, const float *x,
                float *y, const uint8_t *next)
{
    const unsigned n_blocks = f.weights < STEP ? STEP / f.weights : 1, step = n_blocks * f.weights;
    struct scales s[2][STEP_SCALES][DOT_ROWS];
    for (uint32_t row = 0; row < n_rows; row += DOT_ROWS) {
        const uint8_t *rows[DOT_ROWS];
        for (uint32_t r = 0; r < DOT_ROWS; r++)
            rows[r] = w + (row + r < n_rows ? row + r : row) * row_bytes;
        VF sums[DOT_ROWS][2] = {{{0}}};
        uint32_t c = 0;
        size_t at = 0;
        uintptr_t ahead = row + 2 * DOT_ROWS <= n_rows ? DOT_ROWS * row_bytes : (uintptr_t)next - (uintptr_t)rows[0];
        if (step <= n_cols)
            scale_blocks(f, rows, 0, ahead, n_blocks, s[0]);
        for (unsigned turn = 0; c + step <= n_cols; turn ^= 1, c += step, at += n_blocks * f.bytes) {
            size_t next_at = c + 2 * step <= n_cols ? at + n_blocks * f.bytes : at;
            scale_blocks(f, rows, next_at, ahead, n_blocks, s[turn ^ 1]);
            __asm__("" : "+m"(s)); /* broadcasts from memory cost less than permutations of registers */
            dot_blocks(f, rows, at, x + c, n_blocks, s[turn], sums);
        }
        for (; c < n_cols; c += f.weights, at += f.bytes) {
            scale_blocks(f, rows, at, ahead, 1, s[0]);
            __asm__("" : "+m"(s));
            dot_blocks(f, rows, at, x + c, 1, s[0], sums);
        }
        for (uint32_t r = 0; r < DOT_ROWS && row + r < n_rows; r++)
            y[row + r] = vector_sum(sums[r][0] + sums[r][1]);
    }
}

INLINE void expand(struct layout f, const uint8_t *b, uint32_t n_weights, float *out)
{
    for (uint32_t c = 0; c < n_weights; c += f.weights, b += f.bytes) {
        struct scales s;
        f.scales(b, &s);
        UNROLL
        for (unsigned i = 0; i < f.weights / (f.quarters * f.span); i++) {
            UNROLL
            for (unsigned l = 0; l < f.span; l += LANES) {
                VF v[4];
                f.unpack(b, &s, i, l, v);
                UNROLL
                for (unsigned q = 0; q < f.quarters; q++)
                    vector_store(out + c + (i * f.quarters + q) * f.span + l, v[q]);
            }
        }
    }
}

/* MULTIPLY_ROWS rows by n_tokens <= MULTIPLY_TOKENS tokens, all sums in registers. */
INLINE void multiply_block(const float *tile, const float *const *x, unsigned n_tokens, uint32_t first, uint32_t n_cols,
                           float *sums)
{
    VF acc[MULTIPLY_ROWS][4] = {{{0}}};
    for (uint32_t c = 0; c < n_cols; c += LANES) {
        VF w[MULTIPLY_ROWS];
        UNROLL
        for (unsigned r = 0; r < MULTIPLY_ROWS; r++)
            w[r] = vector_load(tile + r * CPU_TILE_COLS + c);
        UNROLL
        for (unsigned t = 0; t < n_tokens; t++) {
            VF v = vector_load(x[t] + first + c);
            UNROLL
            for (unsigned r = 0; r < MULTIPLY_ROWS; r++)
                acc[r][t] += w[r] * v;
        }
    }
    UNROLL
    for (unsigned r = 0; r < MULTIPLY_ROWS; r++) {
        float part[4];
        vector_sum4(acc[r], part);
        for (unsigned t = 0; t < n_tokens; t++)
            sums[r * CPU_BATCH + t] += part[t];
    }
}

static void multiply(const float *tile, uint32_t n_rows, const float *const *x, uint32_t n_tokens, uint32_t first,
                     uint32_t n_cols, float *sums)
{
    for (uint32_t t = 0; t < n_tokens; t += MULTIPLY_TOKENS) {
        for (uint32_t r = 0; r < n_rows; r += MULTIPLY_ROWS) {
            const float *rows = tile + r * CPU_TILE_COLS;
            float *out = sums + r * CPU_BATCH + t;
            switch (n_tokens - t) {
            case 1: multiply_block(rows, x + t, 1, first, n_cols, out); break;
            case 2: multiply_block(rows, x + t, 2, first, n_cols, out); break;
            case 3: multiply_block(rows, x + t, 3, first, n_cols, out); break;
            default: multiply_block(rows, x + t, 4, first, n_cols, out);
            }
        }
    }
}

/*
 * e^x within 2 units in the last place: x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts so that r is right,
 * e^r by its series to r^7 (the rest is below 2^-27), and 2^n through the exponent.
 */
INLINE VF exponential(VF x)
{
    x = vector_clamp(x, -87, 88);
    VI n = round_to_int(x * 0x1.715476p0f);
    VF f = to_float(n), r = x - f * 0x1.62e4p-1f - f * 0x1.7f7d1cp-20f;
    VF p = r * (1 / 5040.0f) + 1 / 720.0f;
    p = p * r + 1 / 120.0f;
    p = p * r + 1 / 24.0f;
    p = p * r + 1 / 6.0f;
    p = p * r + 0.5f;
    p = p * (r * r) + r + 1;
    return p * (VF)((n + 127) << 23);
}

static void silu_mul(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        VF g = vector_load(gate + i);
        vector_store(gate + i, g / (1 + exponential(-g)) * vector_load(up + i));
    }
}

#define KERNELS(TYPE, type, weights, bytes, quarters, span, scales) \
    static const struct layout layout_##type = {weights, bytes, quarters, span, scales, type##_unpack}; \
    static void dot_##type(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_cols, const float *x, \
                           float *y, const uint8_t *next) \
    { \
        dot(layout_##type, w, row_bytes, n_rows, n_cols, x, y, next); \
    } \
    static void expand_##type(const uint8_t *w, uint32_t n, float *out) \
    { \
        expand(layout_##type, w, n, out); \
    }
LAYOUTS(KERNELS)

#if defined(CPU_LEVEL_AVX512_VNNI)
#include "fixed.h"
#else
#define FIXED_LAYOUTS(X)
#endif

#define ENTRY(TYPE, type, weights, bytes, quarters, span, scales) \
    [SC_##TYPE] = {.dot = dot_##type, .expand = expand_##type},
const struct cpu_kernels TABLE = {
    .name = NAME,
    .lanes = LANES,
    .types = {LAYOUTS(ENTRY) FIXED_LAYOUTS(FIXED_ENTRY)},
    .multiply = multiply,
    .silu_mul = silu_mul,
};
