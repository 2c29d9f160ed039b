/* SPDX-License-Identifier: Apache-2.0 */
#include "sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "random_blocks.h"

enum {
    MAX_GROUPS = 64,
    MATRIX_ALIGNMENT = 256,
    LARGEST_BLOCK = 256, /* weights in a block of any type */
};

static const uint64_t LARGEST_EXPERT_BYTES = 256 << 20, /* a larger one is cut */
    GROUP_BYTES = 64 << 20,                             /* experts run together as long as they are smaller */
    SAMPLE_BYTES = 256 << 20;                           /* more than the caches of processors and devices hold */

static struct weight *matrix_of(struct expert_weights *x, uint32_t matrix)
{
    return matrix == 0 ? &x->gate : matrix == 1 ? &x->up : &x->down;
}

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + BUFFER_PADDING_BYTES + MATRIX_ALIGNMENT - 1) / MATRIX_ALIGNMENT * MATRIX_ALIGNMENT;
}

/* Where a matrix begins in its expert's memory, on the host and on the device alike; matrix 3: the end. */
static uint64_t matrix_offset(const struct expert_weights *expert, uint32_t matrix)
{
    struct expert_weights x = *expert;
    uint64_t offset = 0;
    for (uint32_t m = 0; m < matrix; m++)
        offset += aligned(matrix_of(&x, m)->size_bytes);
    return offset;
}

static void resize(struct weight *w, uint32_t rows, uint32_t cols)
{
    const struct sc_type_info *info = sc_type_info(w->type);
    w->rows = rows;
    w->cols = cols;
    w->size_bytes = (uint64_t)rows * (cols / info->block_size) * info->block_bytes;
}

static struct expert_weights cut(struct expert_weights x, uint32_t n_ff)
{
    resize(&x.gate, n_ff, x.gate.cols);
    resize(&x.up, n_ff, x.up.cols);
    resize(&x.down, x.down.rows, n_ff);
    return x;
}

uint32_t sample_half(uint32_t n_ff)
{
    return n_ff >= 4 * LARGEST_BLOCK ? n_ff / 2 / LARGEST_BLOCK * LARGEST_BLOCK : n_ff;
}

static uint64_t largest_expert(const struct weights *w, const struct config *c, uint32_t n_ff)
{
    uint64_t most = 0;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const struct expert_weights x = cut(w->layers[l].experts[0], n_ff);
        const uint64_t bytes = matrix_offset(&x, 3);
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* How many experts, and how wide. */
static void choose(struct sample *s, const struct weights *w, const struct config *c, uint64_t device_bytes)
{
    const uint64_t most = device_bytes < LARGEST_EXPERT_BYTES ? device_bytes : LARGEST_EXPERT_BYTES;
    s->n_embd = c->n_embd;
    s->n_ff = c->n_ff;
    s->slot_bytes = largest_expert(w, c, s->n_ff);
    while (s->slot_bytes > most && sample_half(s->n_ff) < s->n_ff) {
        s->n_ff = sample_half(s->n_ff);
        s->slot_bytes = largest_expert(w, c, s->n_ff);
    }

    const uint64_t group_most = GROUP_BYTES < device_bytes ? GROUP_BYTES : device_bytes;
    s->n_used = c->n_experts ? c->n_experts_used : 1;
    while (s->n_used > 1 && s->n_used * s->slot_bytes > group_most)
        s->n_used--;

    /* two of a kind that has large experts, for their layers differ; no more than the model has */
    const uint64_t group_bytes = s->n_used * s->slot_bytes, fit = device_bytes / group_bytes;
    uint64_t n = (SAMPLE_BYTES + group_bytes - 1) / group_bytes;
    n = n < 2 ? 2 : n > MAX_GROUPS ? MAX_GROUPS : n;
    n = n < fit ? n : fit;
    const uint64_t there_are = (uint64_t)c->n_layers * (c->n_experts ? c->n_experts : 1) / s->n_used;
    n = n < there_are ? n : there_are;
    s->n_groups = n > 1 ? (uint32_t)n : 1;
}

static void fill_matrix(void *context, uint32_t item)
{
    const struct sample *s = context;
    const struct weight *w = matrix_of(&s->experts[item / 3], item % 3);
    random_fill(s->memory + (w->data - s->memory), w->type, w->size_bytes, 1 / sqrtf((float)w->cols), item);
}

static bool init_host(struct sample *s, struct cpu_pool *pool, const struct weights *w, const struct config *c,
                      struct sc_error *e)
{
    const uint32_t n = s->n_groups * s->n_used;
    s->memory_bytes = n * s->slot_bytes;
    s->memory = aligned_alloc(MATRIX_ALIGNMENT, (size_t)s->memory_bytes);
    s->experts = calloc(n, sizeof(*s->experts));
    if (!s->memory || !s->experts)
        return sc_fail_memory(e, "the measurement of this machine");
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t layer = (uint32_t)((2 * (uint64_t)(i / s->n_used) + 1) * c->n_layers / (2 * s->n_groups));
        s->experts[i] = cut(w->layers[layer].experts[0], s->n_ff);
        for (uint32_t m = 0; m < 3; m++) {
            struct weight *matrix = matrix_of(&s->experts[i], m);
            matrix->data = s->memory + i * s->slot_bytes + matrix_offset(&s->experts[i], m);
            s->weight_bytes += matrix->size_bytes;
        }
    }
    cpu_pool_run(pool, fill_matrix, s, 3 * n);
    return true;
}

static bool init_device(struct sample *s, struct sc_error *e)
{
    const uint32_t n = s->n_groups * s->n_used;
    s->places = calloc(n, sizeof(*s->places));
    if (!s->places)
        return sc_fail_memory(e, "the measurement of this machine");
    for (uint32_t i = 0; i < n; i++)
        if (!slabs_place(&s->slabs, s->slot_bytes, &s->places[i], e))
            return false;
    return slabs_allocate(&s->slabs, s->gpu, "the measurement of this machine", e) &&
           buffer_init(s->gpu, &s->table, MEMORY_DEVICE, n * sizeof(uint64_t), "the measurement of this machine", e);
}

bool sample_init(struct sample *s, struct gpu *gpu, struct cpu_pool *pool, const struct weights *w,
                 const struct config *c, uint64_t device_bytes, struct sc_error *e)
{
    memset(s, 0, sizeof(*s));
    s->gpu = gpu;
    choose(s, w, c, device_bytes);
    return init_host(s, pool, w, c, e) && init_device(s, e);
}

void sample_finish(struct sample *s)
{
    if (!s->gpu)
        return;
    buffer_finish(s->gpu, &s->table);
    slabs_finish(&s->slabs, s->gpu);
    free(s->places);
    free(s->experts);
    free(s->memory);
    memset(s, 0, sizeof(*s));
}

bool sample_upload(struct sample *s, struct upload *u, struct sc_error *e)
{
    for (uint32_t i = 0; i < s->n_groups * s->n_used; i++) {
        const struct place *to = &s->places[i];
        const uint64_t address = slabs_address(&s->slabs, *to), offset = i * sizeof(address);
        for (uint32_t m = 0; m < 3; m++) {
            const struct weight *w = matrix_of(&s->experts[i], m);
            if (!upload_weights(u, &s->slabs.buffers[to->slab], to->offset + matrix_offset(&s->experts[i], m), w, 0,
                                w->size_bytes, e))
                return false;
        }
        if (!upload_bytes(u, &s->table, offset, &address, sizeof(address), e))
            return false;
    }
    return upload_flush(u, e);
}

struct expert_weights sample_expert(const struct sample *s, uint32_t group, uint32_t k, uint32_t n_ff)
{
    return cut(s->experts[group * s->n_used + k], n_ff);
}

struct expert_tensor sample_tensor(const struct sample *s, uint32_t group, uint32_t matrix, uint32_t n_ff)
{
    const struct expert_weights *whole = &s->experts[group * s->n_used];
    struct expert_weights part = cut(*whole, n_ff);
    const struct weight *w = matrix_of(&part, matrix);
    return (struct expert_tensor){
        .slots = s->table.address + (uint64_t)group * s->n_used * sizeof(uint64_t),
        .offset = (uint32_t)matrix_offset(whole, matrix),
        .n_experts = s->n_used,
        .type = w->type,
        .rows = w->rows,
        .cols = w->cols,
    };
}
