/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vector operations of cpu_kernels.c for AVX2, FMA and F16C: 8 lanes. vector_portable.h says what each does.
 */
#ifndef SCORIA_VECTOR_AVX2_H
#define SCORIA_VECTOR_AVX2_H

#include <immintrin.h>

enum { DOT_ROWS = 2, LANES = 8, MULTIPLY_ROWS = 3, MULTIPLY_TOKENS = 4 };

#define VF __m256
#define VI __attribute__((vector_size(32))) uint32_t

static inline VF vector_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void vector_store(float *p, VF v)
{
    _mm256_storeu_ps(p, v);
}

static inline VF vector_set(float f)
{
    return _mm256_set1_ps(f);
}

static inline VI vector_iota(void)
{
    return (VI){0, 1, 2, 3, 4, 5, 6, 7};
}

static inline VF load_halves(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}

static inline VF load_bfloats(const uint8_t *p)
{
    return (VF)((VI)_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)) << 16);
}

static inline VI load_bytes(const uint8_t *p)
{
    return (VI)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p));
}

static inline VI bytes_of(uint64_t low, uint64_t high, unsigned i)
{
    return (VI)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)(i < 8 ? low : high)));
}

static inline VF load_signed_bytes(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
}

static inline VF to_float(VI v)
{
    return _mm256_cvtepi32_ps((__m256i)v);
}

static inline VI round_to_int(VF v)
{
    return (VI)_mm256_cvtps_epi32(v);
}

static inline VF vector_clamp(VF v, float low, float high)
{
    return _mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), v));
}

static inline VF load_half_pairs(const uint8_t *p, unsigned i)
{
    (void)i;
    const __m128i turns = _mm_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3);
    return _mm256_cvtph_ps(_mm_shuffle_epi8(_mm_set1_epi32((int)load_u32(p)), turns));
}

static inline VF spread_4(const float *p, unsigned i)
{
    return _mm256_set_m128(_mm_broadcast_ss(p + i / 4 + 1), _mm_broadcast_ss(p + i / 4));
}

static inline VI merge_bits(VI a, VI b, uint32_t mask)
{
    return (a & mask) | (b & ~mask);
}

struct levels {
    VF d, m;
};

static inline struct levels levels_of(float d, float m, unsigned bits)
{
    (void)bits;
    return (struct levels){vector_set(d), vector_set(m)};
}

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

/* The shuffle's bytes are unsigned: each value plus 128, which the offset takes off again without rounding. */
static inline struct levels levels_iq4(float d)
{
    return levels_around(d, 128, 4);
}

static inline VF level_iq4(struct levels t, VI q)
{
    __m128i half_table = _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103, -90, -75, -59, -39, -15);
    __m256i index = (__m256i)((q & 15) | 0x80808000u); /* a set top bit makes 0 */
    return to_float((VI)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(half_table), index)) * t.d - t.m;
}

static inline struct levels levels_q6(float d)
{
    return levels_around(d, 32, 6);
}

static inline VF level_q6(struct levels t, VI q)
{
    return level(t, q, 6);
}

static inline VF level_q2(const float table[4], VI q)
{
    return _mm256_permutevar_ps(_mm256_broadcast_ps((const void *)table), (__m256i)q);
}

static inline float vector_sum(VF v)
{
    __m128 s = _mm256_castps256_ps128(v) + _mm256_extractf128_ps(v, 1);
    s += _mm_movehl_ps(s, s);
    return _mm_cvtss_f32(s + _mm_movehdup_ps(s));
}

static inline void vector_sum4(const VF v[4], float sums[4])
{
    VF a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    _mm_storeu_ps(sums, _mm256_castps256_ps128(a) + _mm256_extractf128_ps(a, 1));
}

#endif
