/* SPDX-License-Identifier: Apache-2.0 */
#include "upload.h"

#include <stdlib.h>
#include <string.h>

#include "layout.h"

/* An import pins its pages in one allocation, and drivers bound those. */
static const uint64_t MAX_IMPORT_BYTES = 512u << 20;
static const uint64_t COPY_PIECE_BYTES = 512u << 10;
static const uint64_t SMALLEST_RING_BYTES = 4096; /* each half takes blocks of any type */

struct import {
    const uint8_t *memory;
    struct buffer buffer;
};

bool upload_init(struct upload *u, struct gpu *gpu, struct cpu_pool *pool, uint64_t ring_bytes, struct sc_error *e)
{
    memset(u, 0, sizeof(*u));
    if (ring_bytes < SMALLEST_RING_BYTES)
        return sc_fail(e, SC_OUT_OF_DEVICE_MEMORY, "no memory is left for the upload ring");
    u->gpu = gpu;
    u->pool = pool;
    return buffer_init(gpu, &u->ring, MEMORY_UPLOAD, ring_bytes, "the upload ring", e) &&
           commands_init_transfer(&u->halves[0], gpu, e) && commands_init_transfer(&u->halves[1], gpu, e);
}

static void finish_imports(struct upload *u, uint32_t first)
{
    while (u->n_imports > first)
        buffer_finish(u->gpu, &u->imports[--u->n_imports].buffer);
}

void upload_finish(struct upload *u)
{
    if (!u->gpu)
        return;
    commands_finish(&u->halves[0]);
    commands_finish(&u->halves[1]);
    buffer_finish(u->gpu, &u->ring);
    finish_imports(u, 0);
    free(u->imports);
    memset(u, 0, sizeof(*u));
}

bool upload_import(struct upload *u, const void *memory, uint64_t size_bytes, struct sc_error *e)
{
    struct gpu *gpu = u->gpu;
    if (!gpu->import_alignment)
        return sc_fail(e, SC_UNSUPPORTED, "%s cannot read host memory in place", gpu->info.name);
    const uint64_t align = gpu->import_alignment, first = (uintptr_t)memory / align * align;
    const uint64_t end = ((uintptr_t)memory + size_bytes + align - 1) / align * align;
    const uint32_t before = u->n_imports;
    const uint64_t n = (end - first + MAX_IMPORT_BYTES - 1) / MAX_IMPORT_BYTES;
    struct import *imports = realloc(u->imports, (before + n) * sizeof(*imports));
    if (!imports)
        return sc_fail_memory(e, "the imported memory");
    u->imports = imports;
    for (uint64_t at = first; at < end; at += MAX_IMPORT_BYTES, u->n_imports++) {
        struct import *i = &imports[u->n_imports];
        i->memory = (const uint8_t *)(uintptr_t)at;
        if (!buffer_import(gpu, &i->buffer, i->memory, end - at < MAX_IMPORT_BYTES ? end - at : MAX_IMPORT_BYTES, e)) {
            finish_imports(u, before);
            return false;
        }
    }
    return true;
}

void upload_after(struct upload *u, uint64_t value)
{
    if (value > u->wait_compute)
        u->wait_compute = value;
}

bool upload_flush(struct upload *u, struct sc_error *e)
{
    if (!u->recording)
        return true;
    struct commands *half = &u->halves[u->current];
    struct submission one = {.streams = &half, .n_streams = 1, .wait_compute = u->wait_compute};
    u->recording = false;
    if (!commands_end(half, e) || !gpu_submit_chain(u->gpu, &one, 1, e))
        return false;
    u->submitted[u->current] = one.value;
    u->current ^= 1;
    return true;
}

/* Makes the current half ready to be filled from its start. */
static bool start_half(struct upload *u, struct sc_error *e)
{
    if (u->submitted[u->current] && !gpu_wait_transfer(u->gpu, u->submitted[u->current], e))
        return false;
    u->submitted[u->current] = 0;
    u->filled_bytes = 0;
    commands_begin(&u->halves[u->current], false);
    u->recording = true;
    return true;
}

/* The import that holds the byte at `from`, and how many of size_bytes from there on; NULL: none does. */
static const struct import *import_of(const struct upload *u, const uint8_t *from, uint64_t *size_bytes)
{
    for (uint32_t i = 0; i < u->n_imports; i++) {
        const struct import *import = &u->imports[i];
        const uint64_t offset = (uint64_t)((uintptr_t)from - (uintptr_t)import->memory);
        if (offset >= import->buffer.size_bytes)
            continue;
        if (*size_bytes > import->buffer.size_bytes - offset)
            *size_bytes = import->buffer.size_bytes - offset;
        return import;
    }
    return NULL;
}

/* A copy into the ring that threads share: of bytes, or of a matrix's blocks, rests first and scales behind them. */
struct copy {
    uint8_t *to;
    const uint8_t *from;
    uint64_t n, piece; /* units, and so many of them a thread takes at once */
    struct layout unit;
};

static void copy_piece(void *context, uint32_t item)
{
    const struct copy *c = context;
    const struct layout l = c->unit;
    const uint64_t at = item * c->piece, left = c->n - at, n = left < c->piece ? left : c->piece;
    const uint64_t rest_bytes = l.block_bytes - l.scale_bytes;
    if (l.scale_bytes)
        layout_split(l, c->to + at * rest_bytes, c->to + c->n * rest_bytes + at * l.scale_bytes,
                     c->from + at * l.block_bytes, n);
    else
        memcpy(c->to + at * l.block_bytes, c->from + at * l.block_bytes, n * l.block_bytes);
}

/* One thread copies at a fraction of what memory and link give. */
static void copy_units(struct cpu_pool *pool, uint8_t *to, const uint8_t *from, uint64_t n, struct layout unit)
{
    struct copy copy = {.to = to, .from = from, .n = n, .piece = n, .unit = unit};
    if (pool && n * unit.block_bytes >= 2 * COPY_PIECE_BYTES)
        copy.piece = COPY_PIECE_BYTES / unit.block_bytes;
    if (copy.piece == n)
        copy_piece(&copy, 0);
    else
        cpu_pool_run(pool, copy_piece, &copy, (uint32_t)((n + copy.piece - 1) / copy.piece));
}

static uint64_t half_bytes(const struct upload *u)
{
    return u->ring.size_bytes / 2 / 256 * 256;
}

/* Copies into the ring what fits into the current half: returns where it is, and cuts *n. */
static uint64_t fill_ring(struct upload *u, const uint8_t *from, uint64_t *n, struct layout unit)
{
    const uint64_t at = u->current * half_bytes(u) + u->filled_bytes;
    const uint64_t room = (half_bytes(u) - u->filled_bytes) / unit.block_bytes;
    if (*n > room)
        *n = room;
    copy_units(u->pool, (uint8_t *)u->ring.mapped + at, from, *n, unit);
    u->filled_bytes += (*n * unit.block_bytes + 255) / 256 * 256;
    return at;
}

/* Before and after each copy: a half that takes one, and one that is full is on its way. */
static bool begin_copy(struct upload *u, struct sc_error *e)
{
    return u->recording || start_half(u, e);
}

static bool end_copy(struct upload *u, uint64_t size_bytes, struct sc_error *e)
{
    u->total_bytes += size_bytes;
    return u->filled_bytes < half_bytes(u) || upload_flush(u, e);
}

bool upload_bytes(struct upload *u, const struct buffer *to, uint64_t to_offset, const void *bytes, uint64_t size_bytes,
                  struct sc_error *e)
{
    static const struct layout byte = {.block_bytes = 1};
    const uint8_t *from = bytes;
    for (uint64_t n; size_bytes; from += n, to_offset += n, size_bytes -= n) {
        if (!begin_copy(u, e))
            return false;
        n = size_bytes;
        const struct import *import = import_of(u, from, &n);
        const uint64_t at = import ? (uint64_t)(from - import->memory) : fill_ring(u, from, &n, byte);
        commands_copy(&u->halves[u->current], import ? &import->buffer : &u->ring, at, to, to_offset, n);
        if (!end_copy(u, n, e))
            return false;
    }
    return true;
}

bool upload_weights(struct upload *u, const struct buffer *to, uint64_t to_offset, const struct weight *w,
                    uint64_t first, uint64_t size_bytes, struct sc_error *e)
{
    const struct layout l = layout_of(w->type);
    if (!l.scale_bytes)
        return upload_bytes(u, to, to_offset + first, w->data + first, size_bytes, e);
    const uint64_t rest_bytes = l.block_bytes - l.scale_bytes;
    const uint64_t scales_offset = to_offset + w->size_bytes / l.block_bytes * rest_bytes;
    const uint64_t end = (first + size_bytes) / l.block_bytes;
    for (uint64_t n, block = first / l.block_bytes; block < end; block += n) {
        if (!begin_copy(u, e))
            return false;
        n = end - block;
        const uint64_t at = fill_ring(u, w->data + block * l.block_bytes, &n, l);
        struct commands *half = &u->halves[u->current];
        if (n) {
            commands_copy(half, &u->ring, at, to, to_offset + block * rest_bytes, n * rest_bytes);
            commands_copy(half, &u->ring, at + n * rest_bytes, to, scales_offset + block * l.scale_bytes,
                          n * l.scale_bytes);
        }
        if (!(n ? end_copy(u, n * l.block_bytes, e) : upload_flush(u, e)))
            return false;
    }
    return true;
}
