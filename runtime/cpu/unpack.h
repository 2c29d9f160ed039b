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
    float d[16], m[16]; /* 16 or 32 weights: d q + m */
};

#define INLINE static inline __attribute__((always_inline))

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
    s->m[0] = half(b + 2);
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
    unpack_nibbles(b + 2 + l, levels_of(s->d[0], -8 * s->d[0], 4), w);
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
    unpack_five_bits(b + 6, load_u32(b + 2), l, levels_of(s->d[0], -16 * s->d[0], 5), w);
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

/* 16 bytes as floats */
INLINE void bytes_to_floats(const uint32_t words[4], float *out)
{
    for (unsigned i = 0; i < 16; i += LANES)
        vector_store(out + i, to_float(load_bytes((const uint8_t *)words + i)));
}

INLINE void q2_k_scales(const uint8_t *b, struct scales *s)
{
    VF d = vector_set(half(b + 80)), m = vector_set(-half(b + 82));
    for (unsigned i = 0; i < 16; i += LANES) {
        VI v = load_bytes(b + i);
        vector_store(s->d + i, d * to_float(v & 15));
        vector_store(s->m + i, m * to_float(v >> 4));
    }
}

INLINE void q2_k_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    VI v = load_bytes(b + 16 + 32 * i + l);
    for (unsigned q = 0; q < 4; q++) {
        unsigned k = 8 * i + l / 16 + 2 * q;
        w[q] = level(levels_of(s->d[k], s->m[k], 2), v >> 2 * q, 2);
    }
}

INLINE void q3_k_scales(const uint8_t *b, struct scales *s)
{
    uint32_t low = load_u32(b + 96), mid = load_u32(b + 100), top = load_u32(b + 104);
    uint32_t words[4] = {
        (low & 0x0f0f0f0f) | (top << 4 & 0x30303030),
        (mid & 0x0f0f0f0f) | (top << 2 & 0x30303030),
        (low >> 4 & 0x0f0f0f0f) | (top & 0x30303030),
        (mid >> 4 & 0x0f0f0f0f) | (top >> 2 & 0x30303030),
    };
    VF d = vector_set(half(b + 108));
    bytes_to_floats(words, s->d);
    for (unsigned i = 0; i < 16; i += LANES) {
        VF scale = d * (vector_load(s->d + i) - 32);
        vector_store(s->d + i, scale);
        vector_store(s->m + i, scale * -4);
    }
}

INLINE void q3_k_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    VI v = load_bytes(b + 32 + 32 * i + l), h = load_bytes(b + l) << 2 >> 4 * i;
    for (unsigned q = 0; q < 4; q++) {
        unsigned k = 8 * i + l / 16 + 2 * q;
        w[q] = level(levels_of(s->d[k], s->m[k], 3), merge_bits(v >> 2 * q, h >> q, 3), 3);
    }
}

/* Eight scales and eight minimums of 6 bits: d[k] and d[8 + k], of 32 weights. */
INLINE void q4_k_scales(const uint8_t *b, struct scales *s)
{
    uint32_t low = load_u32(b + 4), mid = load_u32(b + 8), top = load_u32(b + 12);
    uint32_t words[4] = {
        low & 0x3f3f3f3f,
        (top & 0x0f0f0f0f) | (low >> 2 & 0x30303030),
        mid & 0x3f3f3f3f,
        (top >> 4 & 0x0f0f0f0f) | (mid >> 2 & 0x30303030),
    };
    float d = half(b), m = -half(b + 2);
    for (unsigned i = 0; i < 16; i += LANES)
        vector_store(s->d + i, first_8(d, m, i) * to_float(load_bytes((const uint8_t *)words + i)));
}

INLINE void q4_k_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    VI v = load_bytes(b + 16 + 32 * i + l);
    w[0] = level(levels_of(s->d[2 * i], s->d[8 + 2 * i], 4), v, 4);
    w[1] = level(levels_of(s->d[2 * i + 1], s->d[9 + 2 * i], 4), v >> 4, 4);
}

INLINE void q5_k_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    VI v = load_bytes(b + 48 + 32 * i + l), h = load_bytes(b + 16 + l) << 4 >> 2 * i;
    w[0] = level(levels_of(s->d[2 * i], s->d[8 + 2 * i], 5), merge_bits(v, h, 15), 5);
    w[1] = level(levels_of(s->d[2 * i + 1], s->d[9 + 2 * i], 5), merge_bits(v >> 4, h >> 1, 15), 5);
}

INLINE void q6_k_scales(const uint8_t *b, struct scales *s)
{
    VF d = vector_set(half(b + 208));
    for (unsigned i = 0; i < 16; i += LANES) {
        VF scale = d * load_signed_bytes(b + 192 + i);
        vector_store(s->d + i, scale);
        vector_store(s->m + i, scale * -32);
    }
}

INLINE void q6_k_unpack(const uint8_t *b, const struct scales *s, unsigned i, unsigned l, VF *w)
{
    VI v0 = load_bytes(b + 64 * i + l), v1 = load_bytes(b + 64 * i + 32 + l), h = load_bytes(b + 128 + 32 * i + l);
    VI q[4] = {merge_bits(v0, h << 4, 15), merge_bits(v1, h << 2, 15), merge_bits(v0 >> 4, h, 15),
               merge_bits(v1 >> 4, h >> 2, 15)};
    for (unsigned j = 0; j < 4; j++) {
        unsigned k = 8 * i + l / 16 + 2 * j;
        w[j] = level(levels_of(s->d[k], s->m[k], 6), q[j], 6);
    }
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
