/* SPDX-License-Identifier: Apache-2.0 */
#include "host_read.h"

#include <string.h>

enum { CHUNK_BYTES = 1 << 20, STEP_BYTES = 64 };

struct reading {
    const uint8_t *bytes;
    size_t size_bytes;
    _Atomic uint64_t sum;
};

static void read_chunk(void *context, uint32_t item)
{
    struct reading *r = context;
    const size_t first = (size_t)item * CHUNK_BYTES, left = r->size_bytes - first;
    const size_t size = left < CHUNK_BYTES ? left : CHUNK_BYTES;
    uint64_t sums[STEP_BYTES / sizeof(uint64_t)] = {0}, words[STEP_BYTES / sizeof(uint64_t)];
    for (size_t at = 0; at < size; at += STEP_BYTES) {
        memcpy(words, r->bytes + first + at, sizeof(words));
        for (size_t i = 0; i < STEP_BYTES / sizeof(uint64_t); i++)
            sums[i] ^= words[i];
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < STEP_BYTES / sizeof(uint64_t); i++)
        sum ^= sums[i];
    r->sum ^= sum;
}

uint64_t host_read(struct cpu_pool *pool, const void *bytes, size_t size_bytes)
{
    struct reading r = {.bytes = bytes, .size_bytes = size_bytes};
    cpu_pool_run(pool, read_chunk, &r, (uint32_t)((size_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES));
    return r.sum;
}
