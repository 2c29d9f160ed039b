/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks to floats, one weight at a time: the reference that every kernel is tested against, so it is written to be
 * checked against the format's definition and not to be fast. Each function's comment is the block, byte by byte.
 */
#include "dequantize.h"

#include "bytes.h"
#include "types.h"

float sc_half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = (half >> 10) & 31;
    uint32_t mantissa = half & 0x3FF;
    uint32_t bits;

    if (exponent == 31) {
        bits = sign | 0x7F800000u | mantissa << 13;
    } else if (exponent != 0) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        /* zero and subnormals: mantissa * 2^-24, exact in a float */
        float f = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &f, sizeof bits);
        bits |= sign;
    }

    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

static float load_f16(const uint8_t *p)
{
    return sc_half_to_float(load_u16(p));
}

/* The 4-bit value of weight i (0 to 31) in 16 bytes: low halves first, then high halves. */
static int nibble(const uint8_t *q, int i)
{
    return i < 16 ? q[i] & 15 : q[i - 16] >> 4;
}

void dequantize_f32(const uint8_t *b, float *out, size_t n_blocks)
{
    for (size_t i = 0; i < n_blocks; i++)
        out[i] = load_f32(b + 4 * i);
}

void dequantize_f16(const uint8_t *b, float *out, size_t n_blocks)
{
    for (size_t i = 0; i < n_blocks; i++)
        out[i] = load_f16(b + 2 * i);
}

/* The upper half of a float. */
void dequantize_bf16(const uint8_t *b, float *out, size_t n_blocks)
{
    for (size_t i = 0; i < n_blocks; i++) {
        uint32_t bits = (uint32_t)load_u16(b + 2 * i) << 16;
        memcpy(&out[i], &bits, sizeof bits);
    }
}

/* f16 d; 16 bytes q: d * (q - 8) */
void dequantize_q4_0(const uint8_t *b, float *out, size_t n_blocks)
{
    for (; n_blocks > 0; n_blocks--, b += 18, out += 32) {
        float d = load_f16(b);
        for (int i = 0; i < 32; i++)
            out[i] = d * (float)(nibble(b + 2, i) - 8);
    }
}

/* f16 d, m; 16 bytes q: d * q + m */
void dequantize_q4_1(const uint8_t *b, float *out, size_t n_blocks)
{
    for (; n_blocks > 0; n_blocks--, b += 20, out += 32) {
        float d = load_f16(b), m = load_f16(b + 2);
        for (int i = 0; i < 32; i++)
            out[i] = d * (float)nibble(b + 4, i) + m;
    }
}

/* f16 d; 32 bits h, the fifth bit of weight i at bit i; 16 bytes q: d * (q - 16) */
void dequantize_q5_0(const uint8_t *b, float *out, size_t n_blocks)
{
    for (; n_blocks > 0; n_blocks--, b += 22, out += 32) {
        float d = load_f16(b);
        uint32_t high = load_u32(b + 2);
        for (int i = 0; i < 32; i++) {
            int q = nibble(b + 6, i) | (int)(high >> i & 1) << 4;
            out[i] = d * (float)(q - 16);
        }
    }
}

/* f16 d, m; 32 bits h; 16 bytes q: d * q + m */
void dequantize_q5_1(const uint8_t *b, float *out, size_t n_blocks)
{
    for (; n_blocks > 0; n_blocks--, b += 24, out += 32) {
        float d = load_f16(b), m = load_f16(b + 2);
        uint32_t high = load_u32(b + 4);
        for (int i = 0; i < 32; i++) {
            int q = nibble(b + 8, i) | (int)(high >> i & 1) << 4;
            out[i] = d * (float)q + m;
        }
    }
}

/* f16 d; 32 signed bytes q: d * q */
void dequantize_q8_0(const uint8_t *b, float *out, size_t n_blocks)
{
    for (; n_blocks > 0; n_blocks--, b += 34, out += 32) {
        float d = load_f16(b);
        for (int i = 0; i < 32; i++)
            out[i] = d * (float)(int8_t)b[2 + i];
    }
}

/*
 * The super-blocks of 256 weights share one order where they have 2-bit parts: weight i lies in half h = i / 128, of
 * which quarter j = i / 32 % 4 sits at bits 2j of byte l = i % 32. Scales are for 16 weights (or 32: 4 and 5 bits).
 */

/* 16 bytes of scale (low nibble) and min (high nibble); 64 bytes q; f16 d, dmin: d * scale * q - dmin * min */
void dequantize_q2_k(const uint8_t *b, float *out, size_t n_blocks)
{
    for (; n_blocks > 0; n_blocks--, b += 84, out += 256) {
        float d = load_f16(b + 80), dmin = load_f16(b + 82);
        for (int i = 0; i < 256; i++) {
            int h = i / 128, j = i / 32 % 4, l = i % 32;
            int q = b[16 + 32 * h + l] >> 2 * j & 3;
            int s = b[i / 16];
            out[i] = d * (float)(s & 15) * (float)q - dmin * (float)(s >> 4);
        }
    }
}

/*
 * 32 bytes mask, whose bit 4h + j of byte l is the third bit; 64 bytes q; 12 bytes of sixteen 6-bit scales, low nibbles
 * in the first 8 bytes, the high two bits in the last 4; f16 d: d * (scale - 32) * (q - 4)
 */
void dequantize_q3_k(const uint8_t *b, float *out, size_t n_blocks)
{
    for (; n_blocks > 0; n_blocks--, b += 110, out += 256) {
        float d = load_f16(b + 108);
        const uint8_t *scales = b + 96;
        for (int i = 0; i < 256; i++) {
            int h = i / 128, j = i / 32 % 4, l = i % 32, k = i / 16;
            int q = (b[32 + 32 * h + l] >> 2 * j & 3) | (b[l] >> (4 * h + j) & 1) << 2;
            int s = (scales[k % 8] >> 4 * (k / 8) & 15) | (scales[8 + k % 4] >> 2 * (k / 4) & 3) << 4;
            out[i] = d * (float)(s - 32) * (float)(q - 4);
        }
    }
}

/*
 * Eight 6-bit scales and eight 6-bit mins in 12 bytes: the low 6 bits of bytes 0-3 are scales 0-3, of bytes 4-7 mins
 * 0-3; bytes 8-11 hold the low nibbles of scales (low) and mins (high) 4-7, whose upper two bits top bytes 0-3 and 4-7.
 */
static void scale_and_min(const uint8_t *p, int k, int *scale, int *min)
{
    if (k < 4) {
        *scale = p[k] & 63;
        *min = p[k + 4] & 63;
    } else {
        *scale = (p[k + 4] & 15) | p[k - 4] >> 6 << 4;
        *min = p[k + 4] >> 4 | p[k] >> 6 << 4;
    }
}

/* f16 d, dmin; 12 bytes scales and mins; 128 bytes q, 64 weights in each 32: low nibbles, then high: as q2_k */
void dequantize_q4_k(const uint8_t *b, float *out, size_t n_blocks)
{
    for (; n_blocks > 0; n_blocks--, b += 144, out += 256) {
        float d = load_f16(b), dmin = load_f16(b + 2);
        for (int k = 0; k < 8; k++) {
            int scale, min;
            scale_and_min(b + 4, k, &scale, &min);
            for (int l = 0; l < 32; l++) {
                int q = b[16 + 32 * (k / 2) + l] >> 4 * (k % 2) & 15;
                out[32 * k + l] = d * (float)scale * (float)q - dmin * (float)min;
            }
        }
    }
}

/* As q4_k, with 32 bytes before q, whose bit k of byte l is the fifth bit of weight l of 32-weight group k. */
void dequantize_q5_k(const uint8_t *b, float *out, size_t n_blocks)
{
    for (; n_blocks > 0; n_blocks--, b += 176, out += 256) {
        float d = load_f16(b), dmin = load_f16(b + 2);
        for (int k = 0; k < 8; k++) {
            int scale, min;
            scale_and_min(b + 4, k, &scale, &min);
            for (int l = 0; l < 32; l++) {
                int q = (b[48 + 32 * (k / 2) + l] >> 4 * (k % 2) & 15) | (b[16 + l] >> k & 1) << 4;
                out[32 * k + l] = d * (float)scale * (float)q - dmin * (float)min;
            }
        }
    }
}

/*
 * 128 bytes low nibbles: quarters 0 and 2 of half h in bytes 64h + l, 1 and 3 in bytes 64h + 32 + l; 64 bytes of upper
 * two bits in the order above; 16 signed scales; f16 d: d * scale * (q - 32)
 */
void dequantize_q6_k(const uint8_t *b, float *out, size_t n_blocks)
{
    for (; n_blocks > 0; n_blocks--, b += 210, out += 256) {
        float d = load_f16(b + 208);
        for (int i = 0; i < 256; i++) {
            int h = i / 128, j = i / 32 % 4, l = i % 32;
            int low = b[64 * h + 32 * (j % 2) + l] >> 4 * (j / 2) & 15;
            int q = low | (b[128 + 32 * h + l] >> 2 * j & 3) << 4;
            out[i] = d * (float)(int8_t)b[192 + i / 16] * (float)(q - 32);
        }
    }
}

/* The 16 values that iq4_nl and iq4_xs choose from. */
static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* f16 d; 16 bytes q: d * value[q] */
void dequantize_iq4_nl(const uint8_t *b, float *out, size_t n_blocks)
{
    for (; n_blocks > 0; n_blocks--, b += 18, out += 32) {
        float d = load_f16(b);
        for (int i = 0; i < 32; i++)
            out[i] = d * (float)iq4_values[nibble(b + 2, i)];
    }
}

/* f16 d; 16 bits of upper scale bits, two for each of 8 groups; 4 bytes of lower scale nibbles; 128 bytes q, 16 a
 * group: d * (scale - 32) * value[q] */
void dequantize_iq4_xs(const uint8_t *b, float *out, size_t n_blocks)
{
    for (; n_blocks > 0; n_blocks--, b += 136, out += 256) {
        float d = load_f16(b);
        int high = load_u16(b + 2);
        for (int k = 0; k < 8; k++) {
            int scale = (b[4 + k / 2] >> 4 * (k % 2) & 15) | (high >> 2 * k & 3) << 4;
            for (int i = 0; i < 32; i++)
                out[32 * k + i] = d * (float)(scale - 32) * (float)iq4_values[nibble(b + 8 + 16 * k, i)];
        }
    }
}
