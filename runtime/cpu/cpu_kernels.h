/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU's kernels, one table per level of instructions; cpu_kernels.c is compiled once for each.
 *
 * Weights are expanded to the floats that the format defines: the products of a block's scale, a group's scale and q
 * have at most 24 significant bits, so d q is exact, and d q + m is rounded once, as in loader/dequantize.c.
 * Activations and sums are fp32. A sum over n products is made in lanes, so no product passes through more than
 * cpu_kernels_depth(n) additions: |got - want| <= (depth + 2) * FLT_EPSILON / 2 * sum|w x|, to first order. The order
 * depends on n and on whether there is one token or more, and on nothing else.
 *
 * A level may have kernels in fixed point for a type. They round 256 activations at a time to 21 bits, so each is off
 * by at most CPU_FIXED_ERROR times the largest of them. Then all is exact, weights too, until the sums of a group are
 * multiplied with its scale and added up in fp32: with w = d q - m and up to cpu_fixed_depth(n) roundings,
 *
 *     |got - want| <= sum over blocks of CPU_FIXED_ERROR max|x| sum|w| + (depth + 2) * FLT_EPSILON / 2 * sum (|d q| +
 * |m|) |x|
 *
 * What is not finite makes NaN of all 256.
 */
#ifndef SCORIA_CPU_KERNELS_H
#define SCORIA_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"

/* A tile of weights is expanded into the first-level cache and multiplied with up to BATCH tokens. */
enum { CPU_TILE_ROWS = 12, CPU_TILE_COLS = 512, CPU_BATCH = 64, CPU_FIXED_TOKENS = 16 };

/* 256 activations in fixed point, x = scale * (65536 * digits[0] + 256 * digits[1] + digits[2]), in a type's order. */
struct cpu_fixed {
    _Alignas(64) int8_t digits[3][256];
    float offsets[16]; /* sums of x / scale, for the weights' offsets */
    float scale;
};

/* 8 products with bytes fit in 32 bits. */
#define CPU_FIXED_MOST (1 << 20)

/* Of an activation, times the largest of its 256: half a unit, and three roundings to a float's 24 bits. */
#define CPU_FIXED_ERROR (0.7 / CPU_FIXED_MOST)

struct cpu_type_kernels {
    /*
     * y[r] = sum of row r * x, for n_rows rows of n_cols weights, row_bytes apart. The rows from `next` on will be
     * asked for after these; any address will do, it is a hint.
     */
    void (*dot)(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_cols, const float *x, float *y,
                const uint8_t *next);
    /* n weights, whole blocks, or any multiple of 16 of the types without blocks */
    void (*expand)(const uint8_t *w, uint32_t n, float *out);

    /*
     * In fixed point; NULL where the level does not have it for the type. n_cols are a multiple of 256. quantize does
     * one of n_tokens: its block k becomes out[k * n_tokens].
     *
     * y[r * n_tokens + t] = sum of row r * x[t], for n_tokens <= CPU_FIXED_TOKENS, of which x[k * n_tokens + t] are the
     * blocks. The bits are those of each token alone.
     */
    void (*quantize)(const float *x, uint32_t n_cols, uint32_t n_tokens, struct cpu_fixed *out);
    void (*multiply_fixed)(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_cols,
                           const struct cpu_fixed *x, uint32_t n_tokens, float *y);
};

struct cpu_kernels {
    const char *name;
    uint32_t lanes;
    struct cpu_type_kernels types[SC_BF16 + 1]; /* by enum sc_type */
    /*
     * sums[r * CPU_BATCH + t] += tile row r * x[t] from column `first` on, n_cols of them (at most CPU_TILE_COLS, a
     * multiple of 16), for n_rows <= CPU_TILE_ROWS rows and n_tokens <= CPU_BATCH. The tile's rows lie CPU_TILE_COLS
     * apart; all CPU_TILE_ROWS are read, and sums has room for them.
     */
    void (*multiply)(const float *tile, uint32_t n_rows, const float *const *x, uint32_t n_tokens, uint32_t first,
                     uint32_t n_cols, float *sums);
    void (*silu_mul)(float *gate, const float *up, uint32_t n); /* gate = silu(gate) * up; n a multiple of 16 */
};

extern const struct cpu_kernels cpu_kernels_portable;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2, cpu_kernels_avx512, cpu_kernels_avx512_vnni;
#endif

/* What each half is as a float. cpu_kernels_find fills it, before it gives out the first kernels. */
extern float cpu_half_floats[1 << 16];

/* The most additions that one of n products passes through; in fixed point, the most roundings of a sum. */
uint32_t cpu_kernels_depth(const struct cpu_kernels *k, uint32_t n);
uint32_t cpu_fixed_depth(const struct cpu_kernels *k, uint32_t n);

/* The level of this name; NULL: the best one. NULL and an error if there is none, or the processor lacks it. */
const struct cpu_kernels *cpu_kernels_find(const char *name, struct sc_error *e) SC_CHECK;

#endif
