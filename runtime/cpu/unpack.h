/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one place of the CPU kernels that knows GGUF blocks; loader/dequantize.c defines them. For each type:
 *
 *   T_scales(b, s)        what the whole block shares, as floats in memory, from where they are broadcast for nothing
 *   T_unpack(b, s, i, l, w)  the weights that share bytes: w[q] are the LANES weights that begin at span * q + l of
 *                         stretch i of the block. A stretch is `quarters` times `span` weights; the row of LAYOUTS in
 *                         cpu_kernels.c has both numbers. l is a multiple of LANES.
 */
#ifndef SCORIA_UNPACK_H
#define SCORIA_UNPACK_H

struct scales {
    float d[16], m[16]; /* of 16 or 32 weights: d q - m; of q4_k and q5_k: see there */
    float table[64];    /* of q2_k: the 4 weights of each group of 16 */
};

INLINE void no_scales(const uint8_t *b, struct scales *s)
{
    (void)b, (void)s;
}

INLINE void half_scale(const uint8_t *b, struct scales *s)
{
    s->d[0] = half(b);
}

INLINE void half_scale_and_offset(const uint8_t *b, struct scales *s)
{
    s->d[0] = half(b);
    s->m[0] = -half(b + 2);
}

INLINE void f32_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    (void)s, (void)i;
    memcpy(w, b + 4 * l, sizeof *w);
}

INLINE void f16_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    (void)s, (void)i;
    w[0] = load_halves(b + 2 * l);
}

INLINE void bf16_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    (void)s, (void)i;
    w[0] = load_bfloats(b + 2 * l);
}

INLINE void q8_0_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    (void)i;
    w[0] = load_signed_bytes(b + 2 + l) * vector_set(s->d[0]);
}

INLINE void unpack_nibbles(const uint8_t *q, struct levels t, VF *w)
{
    VI v = load_bytes(q);
    w[0] = level(t, v, 4);
    w[1] = level(t, v >> 4, 4);
}

INLINE void q4_0_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    (void)i;
    unpack_nibbles(b + 2 + l, levels_around(s->d[0], 8, 4), w);
}

INLINE void q4_1_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    (void)i;
    unpack_nibbles(b + 4 + l, levels_of(s->d[0], s->m[0], 4), w);
}

/* high: the fifth bits of the 32 weights */
INLINE void unpack_five_bits(const uint8_t *q, uint32_t high, unsigned l, struct levels t, VF *w)
{
    VI v = load_bytes(q + l), h = vector_iota() * 0 + high;
    w[0] = level(t, merge_bits(v, h >> (vector_iota() + l) << 4, 15), 5);
    w[1] = level(t, merge_bits(v >> 4, h >> (vector_iota() + (l + 16)) << 4, 15), 5);
}

INLINE void q5_0_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    (void)i;
    unpack_five_bits(b + 6, load_u32(b + 2), l, levels_around(s->d[0], 16, 5), w);
}

INLINE void q5_1_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    (void)i;
    unpack_five_bits(b + 8, load_u32(b + 4), l, levels_of(s->d[0], s->m[0], 5), w);
}

INLINE void iq4_nl_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    (void)i;
    struct levels t = levels_iq4(s->d[0]);
    VI v = load_bytes(b + 2 + l);
    w[0] = level_iq4(t, v);
    w[1] = level_iq4(t, v >> 4);
}

INLINE void q2_k_scales(const uint8_t *b, struct scales *s)
{
    VF d = vector_set(half(b + 80)), m = vector_set(half(b + 82));
    for (unsigned i = 0; i < 16; i += LANES) {
        VI v = load_bytes(b + i);
        vector_store(s->d + i, d * to_float(v & 15));
        vector_store(s->m + i, m * to_float(v >> 4));
    }
    UNROLL
    for (unsigned i = 0; i < 64; i += LANES) {
        VF q = to_float(vector_iota() & 3);
        vector_store(s->table + i, q * spread_4(s->d, i) - spread_4(s->m, i));
    }
}

INLINE void q2_k_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    VI v = load_bytes(b + 16 + 32 * i + l);
    for (unsigned q = 0; q < 4; q++)
        w[q] = level_q2(s->table + 4 * (8 * i + l / 16 + 2 * q), v >> 2 * q);
}

INLINE void q3_k_scales(const uint8_t *b, struct scales *s)
{
    uint64_t low = load_u64(b + 96), top = load_u32(b + 104);
    top |= top << 30; /* for bytes 0 to 3 and, two bits further, 4 to 7 */
    uint64_t first = (low & 0x0f0f0f0f0f0f0f0f) | ((top & 0x0303030303030303) << 4);
    uint64_t second = (low >> 4 & 0x0f0f0f0f0f0f0f0f) | (top & 0x3030303030303030);
    VF d = vector_set(half(b + 108));
    for (unsigned i = 0; i < 16; i += LANES)
        vector_store(s->d + i, d * (to_float(bytes_of(first, second, i)) - 32));
}

INLINE void q3_k_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    VI v = load_bytes(b + 32 + 32 * i + l), h = load_bytes(b + l) << 2 >> 4 * i;
    for (unsigned q = 0; q < 4; q++) {
        unsigned k = 8 * i + l / 16 + 2 * q;
        w[q] = level(levels_around(s->d[k], 4, 3), merge_bits(v >> 2 * q, h >> q, 3), 3);
    }
}

/* Eight scales and eight minimums of 6 bits, of 32 weights each. d: scales 0-3, minimums 0-3, scales 4-7, minimums 4-7
 */
INLINE void q4_k_scales(const uint8_t *b, struct scales *s)
{
    uint64_t low = load_u64(b + 4), top = load_u32(b + 12);
    top = (top & 0x0f0f0f0f) | (top >> 4 & 0x0f0f0f0f) << 32;
    uint64_t first = low & 0x3f3f3f3f3f3f3f3f, second = top | (low >> 2 & 0x3030303030303030);
    for (unsigned i = 0; i < 16; i += LANES)
        vector_store(s->d + i, load_half_pairs(b, i) * to_float(bytes_of(first, second, i)));
}

INLINE struct levels q4_k_levels(const struct scales *s, unsigned k, unsigned bits)
{
    const float *d = s->d + k / 4 * 8 + k % 4;
    return levels_of(d[0], d[4], bits);
}

INLINE void q4_k_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    VI v = load_bytes(b + 16 + 32 * i + l);
    w[0] = level(q4_k_levels(s, 2 * i, 4), v, 4);
    w[1] = level(q4_k_levels(s, 2 * i + 1, 4), v >> 4, 4);
}

INLINE void q5_k_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    VI v = load_bytes(b + 48 + 32 * i + l), h = load_bytes(b + 16 + l) << 4 >> 2 * i;
    w[0] = level(q4_k_levels(s, 2 * i, 5), merge_bits(v, h, 15), 5);
    w[1] = level(q4_k_levels(s, 2 * i + 1, 5), merge_bits(v >> 4, h >> 1, 15), 5);
}

INLINE void q6_k_scales(const uint8_t *b, struct scales *s)
{
    VF d = vector_set(half(b + 208));
    for (unsigned i = 0; i < 16; i += LANES) {
        vector_store(s->d + i, d * load_signed_bytes(b + 192 + i));
    }
}

INLINE void q6_k_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    VI v0 = load_bytes(b + 64 * i + l), v1 = load_bytes(b + 64 * i + 32 + l), h = load_bytes(b + 128 + 32 * i + l);
    VI q[4] = {merge_bits(v0, h << 4, 15), merge_bits(v1, h << 2, 15), merge_bits(v0 >> 4, h, 15),
               merge_bits(v1 >> 4, h >> 2, 15)};
    for (unsigned j = 0; j < 4; j++)
        w[j] = level_q6(levels_q6(s->d[8 * i + l / 16 + 2 * j]), q[j]);
}

INLINE void iq4_xs_scales(const uint8_t *b, struct scales *s)
{
    uint32_t low = load_u32(b + 4), high = load_u16(b + 2);
    VF d = vector_set(half(b));
    for (unsigned i = 0; i < 8; i += LANES) {
        VI k = vector_iota() + i, zero = k * 0;
        VI scale = ((zero + low) >> 4 * k & 15) | ((zero + high) >> 2 * k & 3) << 4;
        vector_store(s->d + i, d * (to_float(scale) - 32));
    }
}

INLINE void iq4_xs_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    struct levels t = levels_iq4(s->d[i]);
    VI v = load_bytes(b + 8 + 16 * i + l);
    w[0] = level_iq4(t, v);
    w[1] = level_iq4(t, v >> 4);
}

#endif
