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

static inline float half(const uint8_t *p)
{
    return _cvtsh_ss(load_u16(p));
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

static inline VF first_8(float first, float second, unsigned i)
{
    (void)i;
    return _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(first), _mm512_set1_ps(second));
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
    VF scale = vector_set(d), offset = vector_set(m);
    if (bits > 5)
        return (struct levels){scale, offset};
    VF q = to_float(vector_iota() & (bits < 4 ? (1u << bits) - 1 : 15u));
    struct levels t = {q * scale + offset, offset};
    if (bits == 5)
        t.b = (q + 16) * scale + offset;
    return t;
}

static inline struct levels levels_iq4(float d)
{
    VF values = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return (struct levels){values * d, values};
}

static inline VF level(struct levels t, VI q, unsigned bits)
{
    if (bits > 5)
        return to_float(q & ((1u << bits) - 1)) * t.a + t.b;
    if (bits == 5)
        return _mm512_permutex2var_ps(t.a, (__m512i)q, t.b);
    return _mm512_permutexvar_ps((__m512i)q, t.a);
}

static inline VF level_iq4(struct levels t, VI q)
{
    return level(t, q, 4);
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
