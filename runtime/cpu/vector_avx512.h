/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vector operations of cpu_kernels.c for AVX-512 (F, BW, DQ, VL): 16 lanes. vector_portable.h says what each does.
 */
#ifndef SCORIA_VECTOR_AVX512_H
#define SCORIA_VECTOR_AVX512_H

#include <immintrin.h>

enum { DOT_ROWS = 4, LANES = 16, MULTIPLY_ROWS = 6, MULTIPLY_TOKENS = 4 };

#define VF __m512
#define VI __attribute__((vector_size(64))) uint32_t

static inline VF vector_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void vector_store(float *p, VF v)
{
    _mm512_storeu_ps(p, v);
}

static inline VF vector_set(float f)
{
    return _mm512_set1_ps(f);
}

static inline VI vector_iota(void)
{
    return (VI){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}

static inline VF load_halves(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}

static inline VF load_bfloats(const uint8_t *p)
{
    return (VF)((VI)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)) << 16);
}

static inline VI load_bytes(const uint8_t *p)
{
    return (VI)_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
}

static inline VI bytes_of(uint64_t low, uint64_t high, unsigned i)
{
    (void)i;
    return (VI)_mm512_cvtepu8_epi32(_mm_set_epi64x((long long)high, (long long)low));
}

static inline VF load_signed_bytes(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}

static inline VF to_float(VI v)
{
    return _mm512_cvtepi32_ps((__m512i)v);
}

static inline VI round_to_int(VF v)
{
    return (VI)_mm512_cvtps_epi32(v);
}

static inline VF vector_clamp(VF v, float low, float high)
{
    return _mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), v));
}

static inline VF load_half_pairs(const uint8_t *p, unsigned i)
{
    (void)i;
    const __m128i turns = _mm_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3);
    __m256i pairs = _mm256_set1_epi32((int)load_u32(p));
    return _mm512_cvtph_ps(_mm256_shuffle_epi8(pairs, _mm256_broadcastsi128_si256(turns)));
}

static inline VF spread_4(const float *p, unsigned i)
{
    const __m512i lanes = (__m512i)(vector_iota() / 4 + i / 4);
    return _mm512_permutexvar_ps(lanes, _mm512_loadu_ps(p));
}

static inline VI merge_bits(VI a, VI b, uint32_t mask)
{
    return (VI)_mm512_ternarylogic_epi32(_mm512_set1_epi32((int)mask), (__m512i)a, (__m512i)b, 0xca);
}

/* Up to 5 bits every possible weight is computed once, and a permutation, which ignores other bits, finds it. */
struct levels {
    VF a, b;
};

static inline struct levels levels_of(float d, float m, unsigned bits)
{
    VF q = to_float(vector_iota() & ((1u << bits) - 1)), scale = vector_set(d), offset = vector_set(m);
    struct levels t = {q * scale - offset, offset};
    if (bits == 5)
        t.b = (q + 16) * scale - offset;
    return t;
}

static inline struct levels levels_around(float d, float center, unsigned bits)
{
    VF q = to_float(vector_iota() & ((1u << bits) - 1)) - center, scale = vector_set(d);
    struct levels t = {q * scale, scale};
    if (bits == 5)
        t.b = (q + 16) * scale;
    return t;
}

static inline VF level(struct levels t, VI q, unsigned bits)
{
    return bits == 5 ? _mm512_permutex2var_ps(t.a, (__m512i)q, t.b) : _mm512_permutexvar_ps((__m512i)q, t.a);
}

static inline struct levels levels_iq4(float d)
{
    VF values = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    VF t = values * vector_set(d);
    return (struct levels){t, t};
}

static inline VF level_iq4(struct levels t, VI q)
{
    return level(t, q, 4);
}

static inline struct levels levels_q6(float d)
{
    return (struct levels){vector_set(d), vector_set(d)};
}

/* 2^23 and its last 6 bits are an integer without a conversion */
static inline VF level_q6(struct levels t, VI q)
{
    __m512i bits = _mm512_ternarylogic_epi32((__m512i)q, _mm512_set1_epi32(63), _mm512_set1_epi32(0x4b000000), 0xea);
    return ((VF)bits - (0x1p23f + 32)) * t.a;
}

static inline VF level_q2(const float table[4], VI q)
{
    return _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(table)), (__m512i)q);
}

static inline float vector_sum(VF v)
{
    return _mm512_reduce_add_ps(v);
}

static inline void vector_sum4(const VF v[4], float sums[4])
{
    VF a = _mm512_unpacklo_ps(v[0], v[1]) + _mm512_unpackhi_ps(v[0], v[1]);
    VF b = _mm512_unpacklo_ps(v[2], v[3]) + _mm512_unpackhi_ps(v[2], v[3]);
    __m512d ad = _mm512_castps_pd(a), bd = _mm512_castps_pd(b);
    VF c = (VF)_mm512_unpacklo_pd(ad, bd) + (VF)_mm512_unpackhi_pd(ad, bd);
    __m256 d = _mm512_castps512_ps256(c) + _mm512_extractf32x8_ps(c, 1);
    _mm_storeu_ps(sums, _mm256_castps256_ps128(d) + _mm256_extractf128_ps(d, 1));
}

#endif
