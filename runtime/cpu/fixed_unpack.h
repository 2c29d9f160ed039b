/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The GGUF blocks as the kernels in fixed point want them; loader/dequantize.c defines them. For each type, of 256
 * weights, which are a block or eight of them:
 *
 *   T_fixed_scales(b, s)  the scales and offsets of the groups of 16 weights
 *   T_quants(b, q)        all q, as unsigned bytes, so ordered that the groups of q[0] and q[1] have the same scales in
 *                         the same lanes, and those of q[2] and q[3]
 *
 * A weight is scale * q and its offset, times a factor that FIXED_LAYOUTS has: a minimum, or the scale for q around 0.
 */
#ifndef SCORIA_FIXED_UNPACK_H
#define SCORIA_FIXED_UNPACK_H

struct fixed_scales {
    VF scale, offset; /* exact; a format's row of FIXED_LAYOUTS says which lane is whose */
};

/* The n-th 8 weights in the registers are the weights from 8 * order[n] on. */
static const uint8_t order_blocks[32] = {0,  1,  4,  5,  8,  9,  12, 13, 2,  3,  6,  7,  10, 11, 14, 15,
                                         16, 17, 20, 21, 24, 25, 28, 29, 18, 19, 22, 23, 26, 27, 30, 31};
static const uint8_t order_chunks[32] = {0, 1, 8,  9,  16, 17, 24, 25, 2, 3, 10, 11, 18, 19, 26, 27,
                                         4, 5, 12, 13, 20, 21, 28, 29, 6, 7, 14, 15, 22, 23, 30, 31};
static const uint8_t order_pairs[32] = {0, 4,  2,  6,  16, 20, 18, 22, 1, 5,  3,  7,  17, 21, 19, 23,
                                        8, 12, 10, 14, 24, 28, 26, 30, 9, 13, 11, 15, 25, 29, 27, 31};
static const uint8_t order_halves[32] = {0, 16, 2,  18, 4,  20, 6,  22, 1, 17, 3,  19, 5,  21, 7,  23,
                                         8, 24, 10, 26, 12, 28, 14, 30, 9, 25, 11, 27, 13, 29, 15, 31};

INLINE unsigned lane_16(unsigned group)
{
    return group;
}

INLINE unsigned lane_32(unsigned group)
{
    return group / 2;
}

/* Scales and offsets in turn. */
INLINE unsigned lane_pair(unsigned group)
{
    return group / 2 * 2;
}

INLINE unsigned lane_q4_k(unsigned group)
{
    return group / 8 * 8 + group / 2 % 4;
}

/* Loaded once: a second load costs more than the register, most of them lie across two lines of the cache. */
INLINE VB load_64(const uint8_t *p)
{
    VB v = _mm512_loadu_si512(p);
    __asm__("" : "+v"(v));
    return v;
}

INLINE VB load_32_twice(const uint8_t *p)
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)p));
}

INLINE VB masked(VB v, int mask)
{
    return _mm512_and_si512(v, _mm512_set1_epi8((char)mask));
}

/* v & mask_v | h & mask_h */
INLINE VB joined(VB v, int mask_v, VB h, int mask_h)
{
    return _mm512_ternarylogic_epi32(masked(v, mask_v), h, _mm512_set1_epi8((char)mask_h), 0xf8);
}

INLINE VF broadcast_half(const uint8_t *p)
{
    return vector_set(half(p));
}

INLINE void set_scales(struct fixed_scales *s, VF scale)
{
    s->scale = s->offset = scale;
}

INLINE void q2_k_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    VI v = load_bytes(b);
    s->scale = broadcast_half(b + 80) * to_float(v & 15);
    s->offset = broadcast_half(b + 82) * to_float(v >> 4);
}

/* Of each 16 bytes of both the first 8, and the others. */
INLINE void interleaved(VB a, VB b, VB out[2])
{
    out[0] = _mm512_unpacklo_epi64(a, b);
    out[1] = _mm512_unpackhi_epi64(a, b);
}

INLINE void q2_k_quants(const uint8_t *b, VB q[4])
{
    VB v = load_64(b + 16), p[2];
    interleaved(v, _mm512_srli_epi16(v, 2), p);
    UNROLL
    for (int j = 0; j < 2; j++) {
        q[j] = masked(p[j], 3);
        q[j + 2] = masked(_mm512_srli_epi16(p[j], 4), 3);
    }
}

INLINE void q3_k_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    uint64_t low = load_u64(b + 96), top = load_u32(b + 104);
    top |= top << 30; /* for bytes 0 to 3 and, two bits further, 4 to 7 */
    uint64_t first = (low & 0x0f0f0f0f0f0f0f0f) | ((top & 0x0303030303030303) << 4);
    uint64_t second = (low >> 4 & 0x0f0f0f0f0f0f0f0f) | (top & 0x3030303030303030);
    set_scales(s, broadcast_half(b + 108) * (to_float(bytes_of(first, second, 0)) - 32));
}

INLINE void q3_k_quants(const uint8_t *b, VB q[4])
{
    VB v = load_64(b + 32), h = load_32_twice(b), p[2], ph[2];
    interleaved(v, _mm512_srli_epi16(v, 2), p);
    interleaved(h, h, ph);
    UNROLL
    for (int j = 0; j < 2; j++) { /* bits 0 or 1, in the second half 4 or 5, to bit 2; then 2 or 3, 6 or 7 */
        VB first = _mm512_rolv_epi64(ph[j], _mm512_setr_epi64(2, 1, 2, 1, 62, 61, 62, 61));
        VB second = _mm512_rolv_epi64(ph[j], _mm512_setr_epi64(0, 63, 0, 63, 60, 59, 60, 59));
        q[j] = joined(p[j], 3, first, 4);
        q[j + 2] = joined(_mm512_srli_epi16(p[j], 4), 3, second, 4);
    }
}

/* scales 0-3, minimums 0-3, scales 4-7, minimums 4-7 */
INLINE void q4_k_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    uint64_t low = load_u64(b + 4), top = load_u32(b + 12);
    top = (top & 0x0f0f0f0f) | (top >> 4 & 0x0f0f0f0f) << 32;
    uint64_t first = low & 0x3f3f3f3f3f3f3f3f, second = top | (low >> 2 & 0x3030303030303030);
    set_scales(s, load_half_pairs(b, 0) * to_float(bytes_of(first, second, 0)));
}

INLINE void nibbles(VB v, VB *low, VB *high)
{
    *low = masked(v, 15);
    *high = masked(_mm512_srli_epi16(v, 4), 15);
}

/* (4, 32) bytes: of each 32 the first 16, and the others. */
INLINE void load_chunks(const uint8_t *p, VB v[2])
{
    VB a = load_64(p), b = load_64(p + 64);
    v[0] = _mm512_shuffle_i64x2(a, b, 0x88);
    v[1] = _mm512_shuffle_i64x2(a, b, 0xdd);
}

INLINE void q4_k_quants(const uint8_t *b, VB q[4])
{
    VB v[2];
    load_chunks(b + 16, v);
    nibbles(v[0], &q[0], &q[2]);
    nibbles(v[1], &q[1], &q[3]);
}

INLINE void q5_k_quants(const uint8_t *b, VB q[4])
{
    VB v[2];
    load_chunks(b + 48, v);
    UNROLL
    for (int j = 0; j < 2; j++) { /* bits 0, 2, 4, 6 to bit 4; then 1, 3, 5, 7 */
        VB h = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)(b + 16 + 16 * j)));
        VB even = _mm512_rolv_epi64(h, _mm512_setr_epi64(4, 4, 2, 2, 0, 0, 62, 62));
        VB odd = _mm512_rolv_epi64(h, _mm512_setr_epi64(3, 3, 1, 1, 63, 63, 61, 61));
        q[j] = joined(v[j], 15, even, 16);
        q[j + 2] = joined(_mm512_srli_epi16(v[j], 4), 15, odd, 16);
    }
}

INLINE void q6_k_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    set_scales(s, broadcast_half(b + 208) * load_signed_bytes(b + 192));
}

INLINE void q6_k_quants(const uint8_t *b, VB q[4])
{
    VB v[2], h[2];
    interleaved(load_64(b), load_64(b + 64), v);
    interleaved(load_32_twice(b + 128), load_32_twice(b + 160), h);
    UNROLL
    for (int j = 0; j < 2; j++) {
        q[j] = joined(v[j], 15, _mm512_rolv_epi64(h[j], _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2)), 48);
        q[j + 2] = joined(_mm512_srli_epi16(v[j], 4), 15,
                          _mm512_rolv_epi64(h[j], _mm512_setr_epi64(0, 0, 0, 0, 62, 62, 62, 62)), 48);
    }
}

/* The values of iq4_nl and iq4_xs, and 128. */
INLINE void iq4_values(VB q[4])
{
    const __m128i values = _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103, -90, -75, -59, -39, -15);
    UNROLL
    for (int j = 0; j < 4; j++)
        q[j] = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), q[j]);
}

/* Lanes from 8 on are 0. */
INLINE void iq4_xs_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    uint64_t v = _pdep_u64(load_u32(b + 4), 0x0f0f0f0f0f0f0f0f) | _pdep_u64(load_u16(b + 2), 0x3030303030303030);
    v = (v + 0x6060606060606060) ^ 0x8080808080808080; /* minus 32, as signed bytes */
    __m256 scale = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)v)));
    set_scales(s, _mm512_zextps256_ps512(scale * _mm256_set1_ps(half(b))));
}

INLINE void iq4_xs_quants(const uint8_t *b, VB q[4])
{
    nibbles(load_64(b + 8), &q[0], &q[1]);
    nibbles(load_64(b + 72), &q[2], &q[3]);
    iq4_values(q);
}

/* Where 8 words from a byte on lie in two loads of 64 bytes, from bytes `first` and `second` on. */
#define WORD(byte, first, second) ((byte) < (first) + 64 ? ((byte) - (first)) / 2 : 32 + ((byte) - (second)) / 2)
#define WORDS_8(byte, f, s) \
    WORD(byte, f, s), WORD((byte) + 2, f, s), WORD((byte) + 4, f, s), WORD((byte) + 6, f, s), WORD((byte) + 8, f, s), \
        WORD((byte) + 10, f, s), WORD((byte) + 12, f, s), WORD((byte) + 14, f, s)

/* Lanes from 8 on are 0. */
INLINE void halves_to_scales(__m128i halves, struct fixed_scales *s)
{
    set_scales(s, _mm512_zextps256_ps512(_mm256_cvtph_ps(halves)));
}

/* Eight blocks of 18 bytes. Loads across lines are dear: three do for all. */
INLINE void q4_0_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    static const _Alignas(64) uint16_t words[32] = {0, 9, 18, 27, 36, 45, 54, 63};
    VB halves = _mm512_permutex2var_epi16(load_64(b), _mm512_load_si512(words), load_64(b + 64));
    halves_to_scales(_mm512_castsi512_si128(halves), s);
}

/* 16 bytes of each of four blocks, from words that lie so in loads from bytes `first` and `second` on. */
#define BLOCKS_4(byte, stride, first, second) \
    { \
        WORDS_8(byte, first, second), WORDS_8((byte) + (stride), first, second), \
            WORDS_8((byte) + 2 * (stride), first, second), WORDS_8((byte) + 3 * (stride), first, second) \
    }

INLINE void q4_0_quants(const uint8_t *b, VB q[4])
{
    static const _Alignas(64) uint16_t first[32] = BLOCKS_4(2, 18, 0, 64), second[32] = BLOCKS_4(74, 18, 64, 80);
    VB v = load_64(b + 64);
    nibbles(_mm512_permutex2var_epi16(load_64(b), _mm512_load_si512(first), v), &q[0], &q[1]);
    nibbles(_mm512_permutex2var_epi16(v, _mm512_load_si512(second), load_64(b + 80)), &q[2], &q[3]);
}

INLINE void iq4_nl_quants(const uint8_t *b, VB q[4])
{
    q4_0_quants(b, q);
    iq4_values(q);
}

/* The nibbles of eight longer blocks; words: where they are in the first and the last 64 bytes of four. */
INLINE void block_nibbles(const uint8_t *b, unsigned stride, const uint16_t words[32], VB q[4])
{
    UNROLL
    for (unsigned j = 0; j < 2; j++, b += 4 * stride)
        nibbles(_mm512_permutex2var_epi16(load_64(b), _mm512_load_si512(words), load_64(b + 4 * stride - 64)),
                &q[2 * j], &q[2 * j + 1]);
}

/* bits: the fifth ones of the first block's 32 weights */
INLINE void add_fifth_bits(const uint8_t *bits, unsigned stride, VB q[4])
{
    UNROLL
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *p = bits + i / 2 * 4 * stride + i % 2 * 2;
        __mmask64 set = load_u16(p) | (uint64_t)load_u16(p + stride) << 16 | (uint64_t)load_u16(p + 2 * stride) << 32 |
                        (uint64_t)load_u16(p + 3 * stride) << 48;
        q[i] = _mm512_mask_add_epi8(q[i], set, q[i], _mm512_set1_epi8(16));
    }
}

/* What eight blocks begin with: a scale. */
INLINE void block_scales(const uint8_t *b, unsigned stride, struct fixed_scales *s)
{
    __m128i halves = _mm_setr_epi16((short)load_u16(b), (short)load_u16(b + stride), (short)load_u16(b + 2 * stride),
                                    (short)load_u16(b + 3 * stride), (short)load_u16(b + 4 * stride),
                                    (short)load_u16(b + 5 * stride), (short)load_u16(b + 6 * stride),
                                    (short)load_u16(b + 7 * stride));
    halves_to_scales(halves, s);
}

/* A scale and an offset; of four blocks they lie in the loads that block_nibbles makes. */
INLINE __m128i four_pairs(const uint8_t *b, int stride)
{
    __m128i words = _mm_setr_epi32(0, stride / 4, stride / 2, 16 + (64 - stride) / 4);
    return _mm512_castsi512_si128(
        _mm512_permutex2var_epi32(load_64(b), _mm512_castsi128_si512(words), load_64(b + 4 * stride - 64)));
}

INLINE void block_pairs(const uint8_t *b, int stride, struct fixed_scales *s)
{
    __m256i pairs =
        _mm256_inserti128_si256(_mm256_castsi128_si256(four_pairs(b, stride)), four_pairs(b + 4 * stride, stride), 1);
    set_scales(s, _mm512_cvtph_ps(pairs));
}

INLINE void q4_1_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    block_pairs(b, 20, s);
}

INLINE void q4_1_quants(const uint8_t *b, VB q[4])
{
    static const _Alignas(64) uint16_t words[32] = BLOCKS_4(4, 20, 0, 16);
    block_nibbles(b, 20, words, q);
}

INLINE void q5_0_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    block_scales(b, 22, s);
}

INLINE void q5_0_quants(const uint8_t *b, VB q[4])
{
    static const _Alignas(64) uint16_t words[32] = BLOCKS_4(6, 22, 0, 24);
    block_nibbles(b, 22, words, q);
    add_fifth_bits(b + 2, 22, q);
}

INLINE void q5_1_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    block_pairs(b, 24, s);
}

INLINE void q5_1_quants(const uint8_t *b, VB q[4])
{
    static const _Alignas(64) uint16_t words[32] = BLOCKS_4(8, 24, 0, 32);
    block_nibbles(b, 24, words, q);
    add_fifth_bits(b + 4, 24, q);
}

INLINE void q8_0_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    block_scales(b, 34, s);
}

INLINE void q8_0_quants(const uint8_t *b, VB q[4])
{
    VB v[4];
    UNROLL
    for (int j = 0; j < 4; j++) {
        v[j] = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)(b + 68 * j + 2)));
        v[j] = _mm512_inserti64x4(v[j], _mm256_loadu_si256((const void *)(b + 68 * j + 36)), 1);
        v[j] = _mm512_xor_si512(v[j], _mm512_set1_epi8(-128));
    }
    UNROLL
    for (int j = 0; j < 4; j += 2) {
        q[j] = _mm512_shuffle_i64x2(v[j], v[j + 1], 0x88);
        q[j + 1] = _mm512_shuffle_i64x2(v[j], v[j + 1], 0xdd);
    }
}

#define q5_k_fixed_scales q4_k_fixed_scales
#define iq4_nl_fixed_scales q4_0_fixed_scales

#endif
