/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vector operations of cpu_kernels.c in the vector extension of GCC and Clang, for any processor: 4 lanes, which
 * are a register of NEON or SSE. +, -, *, &, |, <<, >> work on VF and VI (unsigned) as they stand.
 */
#ifndef SCORIA_VECTOR_PORTABLE_H
#define SCORIA_VECTOR_PORTABLE_H

/* The sizes of the register block in cpu_kernels.c: accumulators, a row of weights and one activation must fit. */
enum { DOT_ROWS = 2, LANES = 4, MULTIPLY_ROWS = 3, MULTIPLY_TOKENS = 4 };

#define VF __attribute__((vector_size(16))) float
#define VI __attribute__((vector_size(16))) uint32_t

static inline VF vector_load(const float *p)
{
    VF v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void vector_store(float *p, VF v)
{
    memcpy(p, &v, sizeof v);
}

static inline VF vector_set(float f)
{
    return (VF){f, f, f, f};
}

static inline VI vector_iota(void)
{
    return (VI){0, 1, 2, 3};
}

/* LANES weights of 2 bytes */
static inline VF load_halves(const uint8_t *p)
{
    return (VF){half(p), half(p + 2), half(p + 4), half(p + 6)};
}

static inline VF load_bfloats(const uint8_t *p)
{
    return (VF)((VI){load_u16(p), load_u16(p + 2), load_u16(p + 4), load_u16(p + 6)} << 16);
}

/* LANES bytes, each into a lane */
static inline VI load_bytes(const uint8_t *p)
{
    return (VI){p[0], p[1], p[2], p[3]};
}

/* Bytes i to i + LANES of the 16 that the two words make. */
static inline VI bytes_of(uint64_t low, uint64_t high, unsigned i)
{
    uint32_t four = (uint32_t)((i < 8 ? low : high) >> i % 8 * 8);
    return (VI){four, four >> 8, four >> 16, four >> 24} & 255;
}

static inline VF load_signed_bytes(const uint8_t *p)
{
    return (VF){(int8_t)p[0], (int8_t)p[1], (int8_t)p[2], (int8_t)p[3]};
}

/* Of values below 2^31, and of negative ones as a signed number. */
static inline VF to_float(VI v)
{
    return __builtin_convertvector((__attribute__((vector_size(16))) int32_t)v, VF);
}

/* To the nearest; anything for what is not within +-2^21. */
static inline VI round_to_int(VF v)
{
    return (VI)(v + 0x1.8p23f) - 0x4b400000u;
}

/* A NaN stays one. */
static inline VF vector_clamp(VF v, float low, float high)
{
    for (int i = 0; i < LANES; i++)
        v[i] = v[i] < low ? low : v[i] > high ? high : v[i];
    return v;
}

/* Lanes i to i + LANES of the 16 that alternate between the halves at p and at p + 2 every 4 lanes. */
static inline VF load_half_pairs(const uint8_t *p, unsigned i)
{
    return vector_set(half(p + (i / 4 % 2) * 2));
}

/* Lanes i to i + LANES of the 64 that repeat each of 16 floats 4 times. */
static inline VF spread_4(const float *p, unsigned i)
{
    return vector_set(p[i / 4]);
}

/* The bits of a where the mask is set, of b elsewhere. */
static inline VI merge_bits(VI a, VI b, uint32_t mask)
{
    return (a & mask) | (b & ~mask);
}

/*
 * What the weights q = 0 to 2^bits - 1 (bits 2 to 5) of a group stand for: d q - m, rounded once, because the product
 * is exact (see cpu_kernels.h). level(levels, q, bits) looks at the lowest bits of q alone.
 */
struct levels {
    VF d, m;
};

static inline struct levels levels_of(float d, float m, unsigned bits)
{
    (void)bits;
    return (struct levels){vector_set(d), vector_set(m)};
}

/* (q - center) d, exact */
static inline struct levels levels_around(float d, float center, unsigned bits)
{
    (void)bits;
    VF scale = vector_set(d);
    return (struct levels){scale, scale * center};
}

static inline VF level(struct levels t, VI q, unsigned bits)
{
    return to_float(q & ((1u << bits) - 1)) * t.d - t.m;
}

/* The 16 values of iq4_nl and iq4_xs, times d. */
static inline struct levels levels_iq4(float d)
{
    return levels_around(d, 0, 4);
}

static inline VF level_iq4(struct levels t, VI q)
{
    static const float values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    q &= 15;
    return (VF){values[q[0]], values[q[1]], values[q[2]], values[q[3]]} * t.d;
}

/* (q - 32) d, of 6 bits */
static inline struct levels levels_q6(float d)
{
    return levels_around(d, 32, 6);
}

static inline VF level_q6(struct levels t, VI q)
{
    return level(t, q, 6);
}

/* table[the lowest 2 bits of q] */
static inline VF level_q2(const float table[4], VI q)
{
    q &= 3;
    return (VF){table[q[0]], table[q[1]], table[q[2]], table[q[3]]};
}

static inline float vector_sum(VF v)
{
    return (v[0] + v[1]) + (v[2] + v[3]);
}

static inline void vector_sum4(const VF v[4], float sums[4])
{
    for (int i = 0; i < 4; i++)
        sums[i] = vector_sum(v[i]);
}

#endif
