/* SPDX-License-Identifier: Apache-2.0 */
#include "layout.h"

#include <string.h>

struct layout layout_of(enum sc_type type)
{
    const struct sc_type_info *info = sc_type_info(type);
    const uint32_t block_bytes = info->block_bytes;
    if (info->block_size == 1 || block_bytes % 4 == 0)
        return (struct layout){.block_bytes = block_bytes};
    const bool is_last = type == SC_Q3_K || type == SC_Q6_K;
    return (struct layout){.block_bytes = block_bytes, .scale_bytes = 2, .scale_at = is_last ? block_bytes - 2 : 0};
}

/* Inlined with constants, so that a copy is a few loads and stores. */
static inline void split(uint8_t *rests, uint8_t *scales, const uint8_t *blocks, uint64_t n, size_t rest_bytes,
                         size_t rest_at, size_t scale_at)
{
    for (uint64_t i = 0; i < n; i++, blocks += rest_bytes + 2) {
        memcpy(rests + i * rest_bytes, blocks + rest_at, rest_bytes);
        memcpy(scales + i * 2, blocks + scale_at, 2);
    }
}

void layout_split(struct layout l, uint8_t *rests, uint8_t *scales, const uint8_t *blocks, uint64_t n)
{
    switch (l.block_bytes) {
    case 18: split(rests, scales, blocks, n, 16, 2, 0); break;
    case 22: split(rests, scales, blocks, n, 20, 2, 0); break;
    case 34: split(rests, scales, blocks, n, 32, 2, 0); break;
    case 110: split(rests, scales, blocks, n, 108, 0, 108); break;
    case 210: split(rests, scales, blocks, n, 208, 0, 208); break;
    default: split(rests, scales, blocks, n, l.block_bytes - 2, l.scale_at ? 0 : 2, l.scale_at);
    }
}

void layout_arrange(enum sc_type type, uint8_t *matrix, const uint8_t *blocks, uint64_t n_blocks)
{
    const struct layout l = layout_of(type);
    if (l.scale_bytes)
        layout_split(l, matrix, matrix + n_blocks * (l.block_bytes - l.scale_bytes), blocks, n_blocks);
    else
        memcpy(matrix, blocks, n_blocks * l.block_bytes);
}

void layout_restore(enum sc_type type, uint8_t *blocks, const uint8_t *matrix, uint64_t n_blocks, uint64_t first,
                    uint64_t n)
{
    const struct layout l = layout_of(type);
    const uint32_t rest_bytes = l.block_bytes - l.scale_bytes;
    const uint8_t *rest = matrix + first * rest_bytes;
    const uint8_t *scale = matrix + n_blocks * rest_bytes + first * l.scale_bytes;
    for (; n; n--, blocks += l.block_bytes, rest += rest_bytes, scale += l.scale_bytes) {
        memcpy(blocks + (l.scale_at ? 0 : l.scale_bytes), rest, rest_bytes);
        memcpy(blocks + l.scale_at, scale, l.scale_bytes);
    }
}
