/* SPDX-License-Identifier: Apache-2.0 */
#include "host_read.h"

#include <stdbool.h>
#include <string.h>

enum { CHUNK_BYTES = 1 << 20 };

struct reading {
    const uint8_t *bytes;
    size_t size_bytes;
    uint64_t (*read)(const uint8_t *bytes, size_t size_bytes);
    _Atomic uint64_t sum;
};

/* Four sums, or each would wait for the one before. */
#define READER(name, target) \
    target static uint64_t name(const uint8_t *p, size_t size_bytes) \
    { \
        __attribute__((vector_size(32))) uint64_t a = {0}, b = a, c = a, d = a, v; \
        for (const uint8_t *end = p + size_bytes; p < end; p += 4 * sizeof(v)) { \
            memcpy(&v, p, sizeof(v)); \
            a ^= v; \
            memcpy(&v, p + sizeof(v), sizeof(v)); \
            b ^= v; \
            memcpy(&v, p + 2 * sizeof(v), sizeof(v)); \
            c ^= v; \
            memcpy(&v, p + 3 * sizeof(v), sizeof(v)); \
            d ^= v; \
        } \
        a ^= b ^ c ^ d; \
        return a[0] ^ a[1] ^ a[2] ^ a[3]; \
    }

READER(read_portable, )
#if defined(__x86_64__)
READER(read_avx2, __attribute__((target("avx2"))))
#endif

static void read_chunk(void *context, uint32_t item)
{
    struct reading *r = context;
    const size_t first = (size_t)item * CHUNK_BYTES, left = r->size_bytes - first;
    r->sum ^= r->read(r->bytes + first, left < CHUNK_BYTES ? left : CHUNK_BYTES);
}

uint64_t host_read(struct cpu_pool *pool, const void *bytes, size_t size_bytes)
{
    struct reading r = {.bytes = bytes, .size_bytes = size_bytes, .read = read_portable};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        r.read = read_avx2; /* wide loads get a tenth more out of a memory than narrow ones */
#endif
    cpu_pool_run(pool, read_chunk, &r, (uint32_t)((size_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES));
    return r.sum;
}
