/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers out of little-endian bytes at any address. Compilers turn each into one load.
 */
#ifndef SCORIA_BYTES_H
#define SCORIA_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)load_u16(p) | (uint32_t)load_u16(p + 2) << 16;
}

static inline uint64_t load_u64(const uint8_t *p)
{
    return (uint64_t)load_u32(p) | (uint64_t)load_u32(p + 4) << 32;
}

static inline float load_f32(const uint8_t *p)
{
    uint32_t bits = load_u32(p);
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline double load_f64(const uint8_t *p)
{
    uint64_t bits = load_u64(p);
    double f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

#endif
