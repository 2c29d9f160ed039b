/* SPDX-License-Identifier: Apache-2.0 */
#include "experts.h"

#include <stdlib.h>
#include <string.h>

static const uint32_t NOBODY = UINT32_MAX;
enum { MATRIX_ALIGNMENT = 256 };

static const struct weight *matrix_of(const struct expert_weights *x, uint32_t matrix)
{
    return matrix == 0 ? &x->gate : matrix == 1 ? &x->up : &x->down;
}

/* Where a matrix begins in its slot; matrix 3: the slot's end. */
static uint64_t matrix_offset(const struct expert_weights *x, uint32_t matrix)
{
    uint64_t offset = 0;
    for (uint32_t m = 0; m < matrix; m++)
        offset += (matrix_of(x, m)->size_bytes + BUFFER_PADDING_BYTES + MATRIX_ALIGNMENT - 1) / MATRIX_ALIGNMENT *
                  MATRIX_ALIGNMENT;
    return offset;
}

uint64_t experts_slot_bytes(const struct weights *w, const struct config *c)
{
    uint64_t most = 0;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const uint64_t bytes = matrix_offset(&w->layers[l].experts[0], 3);
        if (bytes > most)
            most = bytes;
    }
    return most;
}

bool experts_footprint(uint64_t slot_bytes, uint32_t n_slots, uint32_t n_table, uint64_t *bytes, struct sc_error *e)
{
    struct slabs slabs = {0};
    struct place place;
    bool ok = true;
    for (uint32_t i = 0; i < n_slots && ok; i++)
        ok = slabs_place(&slabs, slot_bytes, &place, e);
    *bytes = slabs_footprint(&slabs) + buffer_footprint(n_table * sizeof(uint64_t));
    slabs_finish(&slabs, NULL);
    return ok;
}

bool experts_init(struct experts *x, struct gpu *gpu, const struct weights *w, const struct config *c, uint32_t n_slots,
                  struct sc_error *e)
{
    memset(x, 0, sizeof(*x));
    const uint32_t n_table = c->n_layers * c->n_experts;
    x->gpu = gpu;
    x->weights = w;
    x->n_layers = c->n_layers;
    x->n_experts = c->n_experts;
    x->slot_bytes = experts_slot_bytes(w, c);
    x->n_slots = n_slots;
    x->slots = calloc(n_slots, sizeof(*x->slots));
    x->owner = calloc(n_slots, sizeof(*x->owner));
    x->last_used = calloc(n_slots, sizeof(*x->last_used));
    x->slot_of = calloc(n_table, sizeof(*x->slot_of));
    x->table_row = calloc(c->n_experts, sizeof(*x->table_row));
    x->table_mirror = calloc(n_table, sizeof(*x->table_mirror));
    if (!x->slots || !x->owner || !x->last_used || !x->slot_of || !x->table_row || !x->table_mirror)
        return sc_fail_memory(e, "the table of experts");
    for (uint32_t i = 0; i < n_slots; i++)
        if (!slabs_place(&x->slabs, x->slot_bytes, &x->slots[i], e))
            return false;
    experts_forget(x);
    return slabs_allocate(&x->slabs, gpu, "the expert slots", e) &&
           buffer_init(gpu, &x->table, MEMORY_DEVICE, n_table * sizeof(uint64_t), "the table of experts", e);
}

void experts_finish(struct experts *x)
{
    if (!x->gpu)
        return;
    slabs_finish(&x->slabs, x->gpu);
    buffer_finish(x->gpu, &x->table);
    free(x->slots);
    free(x->owner);
    free(x->last_used);
    free(x->slot_of);
    free(x->table_row);
    free(x->table_mirror);
    memset(x, 0, sizeof(*x));
}

void experts_forget(struct experts *x)
{
    for (uint32_t i = 0; i < x->n_slots; i++)
        x->owner[i] = NOBODY;
    for (uint32_t i = 0; i < x->n_layers * x->n_experts; i++) {
        x->slot_of[i] = NOBODY;
        x->table_mirror[i] = UINT64_MAX; /* differs from everything: the first use of a layer writes its row */
    }
}

bool experts_are_resident(const struct experts *x)
{
    return x->n_slots == x->n_layers * x->n_experts;
}

/* A free slot, or the least recently used one that this call does not need. */
static uint32_t victim(const struct experts *x, uint64_t now)
{
    uint32_t best = NOBODY;
    for (uint32_t i = 0; i < x->n_slots; i++) {
        if (x->owner[i] == NOBODY)
            return i;
        if (x->last_used[i] != now && (best == NOBODY || x->last_used[i] < x->last_used[best]))
            best = i;
    }
    return best;
}

bool experts_place(struct experts *x, struct upload *u, uint32_t index, uint32_t slot, struct sc_error *e)
{
    const struct expert_weights *from = &x->weights->layers[index / x->n_experts].experts[index % x->n_experts];
    const struct place *to = &x->slots[slot];
    if (x->owner[slot] != NOBODY)
        x->slot_of[x->owner[slot]] = NOBODY;
    x->owner[slot] = NOBODY; /* until all of it is on its way */
    for (uint32_t m = 0; m < 3; m++) {
        const struct weight *w = matrix_of(from, m);
        if (!upload_bytes(u, &x->slabs.buffers[to->slab], to->offset + matrix_offset(from, m), w->data, w->size_bytes,
                          e))
            return false;
        x->uploaded_bytes += w->size_bytes;
    }
    x->owner[slot] = index;
    x->last_used[slot] = x->clock;
    x->slot_of[x->owner[slot]] = slot;
    return true;
}

/* Writes the layer's row of the device's table, unless it stands there already: those of ids[] that have a slot. */
static bool publish(struct experts *x, struct upload *u, uint32_t layer, const uint32_t *ids, uint32_t n_ids,
                    struct sc_error *e)
{
    const uint32_t first = layer * x->n_experts;
    memset(x->table_row, 0, x->n_experts * sizeof(*x->table_row));
    for (uint32_t i = 0; i < n_ids; i++) {
        const uint32_t slot = x->slot_of[first + ids[i]];
        if (slot != NOBODY)
            x->table_row[ids[i]] = slabs_address(&x->slabs, x->slots[slot]);
    }
    if (memcmp(x->table_row, &x->table_mirror[first], x->n_experts * sizeof(*x->table_row)) == 0)
        return true;
    memcpy(&x->table_mirror[first], x->table_row, x->n_experts * sizeof(*x->table_row));
    return upload_bytes(u, &x->table, first * sizeof(uint64_t), x->table_row, x->n_experts * sizeof(*x->table_row), e);
}

bool experts_publish(struct experts *x, struct upload *u, uint32_t layer, struct sc_error *e)
{
    uint32_t all[SC_MAX_EXPERTS];
    for (uint32_t i = 0; i < x->n_experts; i++)
        all[i] = i;
    return publish(x, u, layer, all, x->n_experts, e);
}

uint32_t experts_free_slot(const struct experts *x)
{
    for (uint32_t i = 0; i < x->n_slots; i++)
        if (x->owner[i] == NOBODY)
            return i;
    return NOBODY;
}

bool experts_use(struct experts *x, uint32_t index)
{
    const uint32_t slot = x->slot_of[index];
    if (slot == NOBODY) {
        x->n_misses++;
        return false;
    }
    x->n_hits++;
    x->last_used[slot] = ++x->clock;
    return true;
}

bool experts_require(struct experts *x, struct upload *u, uint32_t layer, const uint32_t *ids, uint32_t n_ids,
                     bool only, struct sc_error *e)
{
    const uint64_t now = ++x->clock;
    const uint32_t first = layer * x->n_experts;
    for (uint32_t i = 0; i < n_ids; i++) /* what is there already must not fall victim to what is not */
        if (x->slot_of[first + ids[i]] != NOBODY)
            x->last_used[x->slot_of[first + ids[i]]] = now;
    for (uint32_t i = 0; i < n_ids; i++) {
        if (x->slot_of[first + ids[i]] != NOBODY) {
            x->n_hits++;
            continue;
        }
        x->n_misses++;
        const uint32_t slot = victim(x, now);
        if (slot == NOBODY)
            return sc_fail(e, SC_INVALID_ARGUMENT, "a pass needs more experts than there are slots");
        if (!experts_place(x, u, first + ids[i], slot, e))
            return false;
    }

    return only ? publish(x, u, layer, ids, n_ids, e) : experts_publish(x, u, layer, e);
}

struct expert_tensor experts_tensor(const struct experts *x, uint32_t layer, uint32_t matrix)
{
    const struct expert_weights *any = &x->weights->layers[layer].experts[0];
    const struct weight *w = matrix_of(any, matrix);
    return (struct expert_tensor){
        .slots = x->table.address + (uint64_t)layer * x->n_experts * sizeof(uint64_t),
        .offset = (uint32_t)matrix_offset(any, matrix),
        .n_experts = x->n_experts,
        .type = w->type,
        .rows = w->rows,
        .cols = w->cols,
    };
}
