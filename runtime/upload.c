/* SPDX-License-Identifier: Apache-2.0 */
#include "upload.h"

#include <string.h>

bool upload_init(struct upload *u, struct gpu *gpu, uint64_t ring_bytes, struct sc_error *e)
{
    memset(u, 0, sizeof(*u));
    u->gpu = gpu;
    return buffer_init(gpu, &u->ring, MEMORY_UPLOAD, ring_bytes, "the upload ring", e) &&
           commands_init(&u->halves[0], gpu, e) && commands_init(&u->halves[1], gpu, e);
}

void upload_finish(struct upload *u)
{
    if (!u->gpu)
        return;
    commands_finish(&u->halves[0]);
    commands_finish(&u->halves[1]);
    buffer_finish(u->gpu, &u->ring);
    memset(u, 0, sizeof(*u));
}

bool upload_flush(struct upload *u, struct sc_error *e)
{
    if (!u->recording)
        return true;
    struct commands *half = &u->halves[u->current];
    u->recording = false;
    commands_barrier(half); /* what comes next may be a stream that continues one from before this */
    if (!commands_end(half, e) || !gpu_submit(u->gpu, &half, 1, &u->submitted[u->current], e))
        return false;
    u->current ^= 1;
    return true;
}

/* Makes the current half ready to be filled from its start. */
static bool start_half(struct upload *u, struct sc_error *e)
{
    if (u->submitted[u->current] && !gpu_wait(u->gpu, u->submitted[u->current], e))
        return false;
    u->submitted[u->current] = 0;
    u->filled_bytes = 0;
    commands_begin(&u->halves[u->current], false);
    u->recording = true;
    return true;
}

bool upload_bytes(struct upload *u, const struct buffer *to, uint64_t to_offset, const void *bytes, uint64_t size_bytes,
                  struct sc_error *e)
{
    const uint64_t half_bytes = u->ring.size_bytes / 2 / 256 * 256;
    const uint8_t *from = bytes;
    while (size_bytes) {
        if (!u->recording && !start_half(u, e))
            return false;
        uint64_t n = half_bytes - u->filled_bytes;
        if (n > size_bytes)
            n = size_bytes;
        const uint64_t at = u->current * half_bytes + u->filled_bytes;
        memcpy((uint8_t *)u->ring.mapped + at, from, n);
        commands_copy(&u->halves[u->current], &u->ring, at, to, to_offset, n);
        from += n;
        to_offset += n;
        size_bytes -= n;
        u->total_bytes += n;
        u->filled_bytes += (n + 255) / 256 * 256;
        if (u->filled_bytes >= half_bytes && !upload_flush(u, e))
            return false;
    }
    return true;
}
