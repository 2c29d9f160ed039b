/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The GGUF blocks as the kernels in fixed point want them; loader/dequantize.c defines them. For each type, of 256
 * weights, which are a block or eight of them:
 *
 *   T_fixed_scales(b, s)  the scales and offsets of the groups of 16 weights
 *   T_quants(b, q)        all q, as unsigned bytes, in any order of the groups
 *
 * A weight is scale * q - offset, or scale * (q - center); then offset is scale.
 */
#ifndef SCORIA_FIXED_UNPACK_H
#define SCORIA_FIXED_UNPACK_H

struct fixed_scales {
    VF scale, offset; /* exact; a format's row of FIXED_LAYOUTS says which lane is whose */
};

/* The n-th 16 weights in the registers are group order[n]. */
static const uint8_t order_plain[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const uint8_t order_nibbles[16] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
static const uint8_t order_halves[16] = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
static const uint8_t order_pairs[16] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};

INLINE unsigned lane_16(unsigned group)
{
    return group;
}

INLINE unsigned lane_32(unsigned group)
{
    return group / 2;
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

INLINE void q2_k_quants(const uint8_t *b, VB q[4])
{
    VB v = load_64(b + 16);
    UNROLL
    for (int j = 0; j < 4; j++)
        q[j] = masked(_mm512_srli_epi16(v, 2 * j), 3);
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
    VB v = load_64(b + 32), h = load_32_twice(b);
    UNROLL
    for (int j = 0; j < 4; j++) {
        long long low = (66 - j) % 64, high = 62 - j; /* bits j and j + 4 to bit 2 */
        VB bit = _mm512_rolv_epi64(h, _mm512_setr_epi64(low, low, low, low, high, high, high, high));
        q[j] = joined(_mm512_srli_epi16(v, 2 * j), 3, bit, 4);
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

INLINE void nibbles(VB v, VB q[2])
{
    q[0] = masked(v, 15);
    q[1] = masked(_mm512_srli_epi16(v, 4), 15);
}

INLINE void q4_k_quants(const uint8_t *b, VB q[4])
{
    nibbles(load_64(b + 16), q);
    nibbles(load_64(b + 80), q + 2);
}

INLINE void q5_k_quants(const uint8_t *b, VB q[4])
{
    VB h = load_32_twice(b + 16);
    UNROLL
    for (int i = 0; i < 2; i++) {
        VB v = load_64(b + 48 + 64 * i);
        UNROLL
        for (int k = 0; k < 2; k++) {
            long long low = (68 - 4 * i - k) % 64,
                      high = (66 - 4 * i - k) % 64; /* bits 4i + k and 4i + k + 2 to bit 4 */
            VB bit = _mm512_rolv_epi64(h, _mm512_setr_epi64(low, low, low, low, high, high, high, high));
            q[2 * i + k] = joined(k ? _mm512_srli_epi16(v, 4) : v, 15, bit, 16);
        }
    }
}

INLINE void q6_k_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    set_scales(s, broadcast_half(b + 208) * load_signed_bytes(b + 192));
}

INLINE void q6_k_quants(const uint8_t *b, VB q[4])
{
    UNROLL
    for (int i = 0; i < 2; i++) {
        VB v = load_64(b + 64 * i), h = load_32_twice(b + 128 + 32 * i);
        q[2 * i] = joined(v, 15, _mm512_rolv_epi64(h, _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2)), 48);
        q[2 * i + 1] = joined(_mm512_srli_epi16(v, 4), 15,
                              _mm512_rolv_epi64(h, _mm512_setr_epi64(0, 0, 0, 0, 62, 62, 62, 62)), 48);
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

INLINE void iq4_xs_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    VI k = vector_iota(), zero = k * 0;
    VI scale = merge_bits((zero + load_u32(b + 4)) >> 4 * k, (zero + ((uint32_t)load_u16(b + 2) << 4)) >> 2 * k, 15);
    set_scales(s, broadcast_half(b) * (to_float(scale & 63) - 32)); /* lanes from 8 on are not used */
}

INLINE void iq4_xs_quants(const uint8_t *b, VB q[4])
{
    nibbles(load_64(b + 8), q);
    nibbles(load_64(b + 72), q + 2);
    iq4_values(q);
}

/* 32 words of 64 bytes that lie in two loads, the second from byte `second` on. */
#define WORD(byte, second) ((byte) < 64 ? (byte) / 2 : 32 + ((byte) - (second)) / 2)
#define WORDS_8(byte, second) \
    WORD(byte, second), WORD((byte) + 2, second), WORD((byte) + 4, second), WORD((byte) + 6, second), \
        WORD((byte) + 8, second), WORD((byte) + 10, second), WORD((byte) + 12, second), WORD((byte) + 14, second)

/* Four blocks of 18 bytes: 16 bytes of each. */
INLINE VB load_4_blocks(const uint8_t *b)
{
    static const uint16_t words[32] = {WORDS_8(2, 8), WORDS_8(20, 8), WORDS_8(38, 8), WORDS_8(56, 8)};
    return _mm512_permutex2var_epi16(_mm512_loadu_si512(b), _mm512_loadu_si512(words), _mm512_loadu_si512(b + 8));
}

/* Lanes from 8 on are 0. */
INLINE void halves_to_scales(__m128i halves, struct fixed_scales *s)
{
    set_scales(s, _mm512_zextps256_ps512(_mm256_cvtph_ps(halves)));
}

INLINE void q4_0_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    static const uint16_t words[32] = {0, 9, 18, 27, 32 + 0, 32 + 9, 32 + 18, 32 + 27};
    VB halves = _mm512_permutex2var_epi16(_mm512_loadu_si512(b), _mm512_loadu_si512(words), _mm512_loadu_si512(b + 72));
    halves_to_scales(_mm512_castsi512_si128(halves), s);
}

INLINE void q4_0_quants(const uint8_t *b, VB q[4])
{
    nibbles(load_4_blocks(b), q);
    nibbles(load_4_blocks(b + 72), q + 2);
}

INLINE void iq4_nl_quants(const uint8_t *b, VB q[4])
{
    q4_0_quants(b, q);
    iq4_values(q);
}

INLINE void q8_0_fixed_scales(const uint8_t *b, struct fixed_scales *s)
{
    __m128i halves = _mm_setr_epi16((short)load_u16(b), (short)load_u16(b + 34), (short)load_u16(b + 68),
                                    (short)load_u16(b + 102), (short)load_u16(b + 136), (short)load_u16(b + 170),
                                    (short)load_u16(b + 204), (short)load_u16(b + 238));
    halves_to_scales(halves, s);
}

INLINE void q8_0_quants(const uint8_t *b, VB q[4])
{
    UNROLL
    for (int j = 0; j < 4; j++) {
        VB v = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)(b + 68 * j + 2)));
        v = _mm512_inserti64x4(v, _mm256_loadu_si256((const void *)(b + 68 * j + 36)), 1);
        q[j] = _mm512_xor_si512(v, _mm512_set1_epi8(-128));
    }
}

#define q5_k_fixed_scales q4_k_fixed_scales
#define iq4_nl_fixed_scales q4_0_fixed_scales

#endif
