/* SPDX-License-Identifier: Apache-2.0 */
#include "random_blocks.h"

#include <math.h>
#include <string.h>

/* splitmix64 */
uint64_t random_u64(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Sum of eight 16-bit uniforms: near enough, and unlike log and cos the same bits on every machine. */
float random_normal(uint64_t *state)
{
    int64_t sum = 0;
    for (int i = 0; i < 2; i++) {
        uint64_t bits = random_u64(state);
        for (int k = 0; k < 4; k++)
            sum += (int64_t)(bits >> 16 * k & 0xFFFF) - 32768;
    }
    return (float)sum * (1.2247449f / 65536); /* variance of the sum: 8 / 12 of 65536^2 */
}

static uint32_t random_below(uint64_t *state, uint32_t n)
{
    return (uint32_t)(random_u64(state) % n);
}

static uint16_t half(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    float a = fabsf(f);
    if (a < 0x1p-14f)
        return (uint16_t)(sign | (uint16_t)lrintf(a * 0x1p24f));
    bits &= 0x7FFFFFFF;
    bits += 0xFFF + (bits >> 13 & 1); /* to nearest, ties to even */
    return (uint16_t)(sign | (bits - (112u << 23)) >> 13);
}

static void put_half(uint8_t *p, float f)
{
    uint16_t h = half(f);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

/* Twelve bytes of scales and mins of q4_k and q5_k, all from 20 to 63 so that no group of weights vanishes. */
static void put_scales(uint8_t *p, uint64_t *state)
{
    uint32_t s[8], m[8];
    for (int i = 0; i < 8; i++) {
        s[i] = 20 + random_below(state, 44);
        m[i] = 20 + random_below(state, 44);
    }
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(s[i] | s[i + 4] >> 4 << 6);
        p[i + 4] = (uint8_t)(m[i] | m[i + 4] >> 4 << 6);
        p[i + 8] = (uint8_t)((s[i + 4] & 15) | (m[i + 4] & 15) << 4);
    }
}

/* The block's bytes are random; puts scales into it that give the wanted deviation, from the deviation of the bare
 * values. */
static void put_block_scales(uint8_t *b, enum sc_type type, float sigma, uint64_t *state)
{
    float jitter = 0.8f + 0.4f * (float)random_below(state, 1024) / 1024;
    float s = sigma * jitter;
    switch (type) {
    case SC_Q4_0: put_half(b, s / 4.61f); break;
    case SC_Q4_1:
        put_half(b, s / 4.61f);
        put_half(b + 2, s / 4.61f * -7.5f);
        break;
    case SC_Q5_0: put_half(b, s / 9.23f); break;
    case SC_Q5_1:
        put_half(b, s / 9.23f);
        put_half(b + 2, s / 9.23f * -15.5f);
        break;
    case SC_Q8_0: put_half(b, s / 73.9f); break;
    case SC_Q2_K:
        put_half(b + 80, s / 1.75f / 8);
        put_half(b + 82, s / 1.75f / 8 * 1.5f);
        break;
    case SC_Q3_K: put_half(b + 108, s / 2.3f / 18.5f); break;
    case SC_Q4_K:
        put_half(b, s / 4.61f / 52);
        put_half(b + 2, s / 4.61f / 52 * 7.5f);
        put_scales(b + 4, state);
        break;
    case SC_Q5_K:
        put_half(b, s / 9.23f / 53);
        put_half(b + 2, s / 9.23f / 53 * 15.5f);
        put_scales(b + 4, state);
        break;
    case SC_Q6_K: put_half(b + 208, s / 18.5f / 73.9f); break;
    case SC_IQ4_NL: put_half(b, s / 67.4f); break;
    case SC_IQ4_XS: put_half(b, s / 67.4f / 18.5f); break;
    case SC_F32:
    case SC_F16:
    case SC_BF16: break;
    }
}

static void put_float(uint8_t *b, enum sc_type type, float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (type == SC_F32) {
        memcpy(b, &bits, sizeof bits);
    } else if (type == SC_F16) {
        put_half(b, f);
    } else {
        b[0] = (uint8_t)(bits >> 16);
        b[1] = (uint8_t)(bits >> 24);
    }
}

void random_blocks(uint8_t *blocks, enum sc_type type, size_t n_blocks, float sigma, uint64_t *state)
{
    const struct sc_type_info *info = sc_type_info(type);
    for (size_t i = 0; i < n_blocks; i++) {
        uint8_t *b = blocks + i * info->block_bytes;
        if (info->block_size == 1) {
            put_float(b, type, sigma * random_normal(state));
            continue;
        }
        for (uint32_t k = 0; k < info->block_bytes; k++)
            b[k] = (uint8_t)random_u64(state);
        put_block_scales(b, type, sigma, state);
    }
}

void random_fill(uint8_t *bytes, enum sc_type type, uint64_t size_bytes, float sigma, uint64_t seed)
{
    const uint32_t block_bytes = sc_type_info(type)->block_bytes;
    uint64_t pattern_bytes = (64 << 10) / block_bytes * block_bytes;
    if (pattern_bytes > size_bytes)
        pattern_bytes = size_bytes;
    random_blocks(bytes, type, (size_t)(pattern_bytes / block_bytes), sigma, &seed);
    for (uint64_t at = pattern_bytes; at < size_bytes; at += pattern_bytes)
        memcpy(bytes + at, bytes, (size_t)(size_bytes - at < pattern_bytes ? size_bytes - at : pattern_bytes));
}
