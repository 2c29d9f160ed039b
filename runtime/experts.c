/* SPDX-License-Identifier: Apache-2.0 */
#include "experts.h"

#include <stdlib.h>
#include <string.h>

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
                  struct store *store, struct sc_error *e)
{
    memset(x, 0, sizeof(*x));
    const uint32_t n_table = c->n_layers * c->n_experts;
    x->gpu = gpu;
    x->weights = w;
    x->store = store;
    x->n_layers = c->n_layers;
    x->n_experts = c->n_experts;
    x->slot_bytes = experts_slot_bytes(w, c);
    x->n_slots = n_slots;
    x->slots = calloc(n_slots, sizeof(*x->slots));
    x->table_row = calloc(c->n_experts, sizeof(*x->table_row));
    x->table_mirror = calloc(n_table, sizeof(*x->table_mirror));
    if (!x->slots || !x->table_row || !x->table_mirror)
        return sc_fail_memory(e, "the table of experts");
    if (!policy_init(&x->policy, c->n_layers, c->n_experts, n_slots, e))
        return false;
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
    policy_finish(&x->policy);
    free(x->table_row);
    free(x->table_mirror);
    memset(x, 0, sizeof(*x));
}

void experts_forget(struct experts *x)
{
    x->n_arrivals = x->n_arrived = 0;
    x->sent_bytes = 0;
    policy_forget(&x->policy);
    for (uint32_t i = 0; i < x->n_layers * x->n_experts; i++)
        x->table_mirror[i] = UINT64_MAX; /* differs from everything: the first use of a layer writes its row */
}

bool experts_fit(const struct experts *x)
{
    return x->n_slots == x->n_layers * x->n_experts;
}

bool experts_are_resident(const struct experts *x)
{
    for (uint32_t i = 0; i < x->n_slots; i++)
        if (x->policy.owner[i] == POLICY_NONE)
            return false;
    return experts_fit(x);
}

/* Those that were not sent whole get no slot after all. */
static void cancel_arrivals(struct experts *x)
{
    for (uint32_t i = x->n_arrived; i < x->n_arrivals; i++)
        policy_vacate(&x->policy, x->arrivals[i].slot);
    x->n_arrivals = x->n_arrived;
    x->sent_bytes = 0;
}

void experts_begin(struct experts *x, uint32_t n_tokens)
{
    x->hidden = false;
    cancel_arrivals(x); /* of a pass that failed */
    x->n_arrivals = x->n_arrived = 0;
    policy_begin(&x->policy, n_tokens);
    store_begin(x->store);
}

void experts_count(struct experts *x, uint32_t layer, const uint32_t *ids, uint32_t n_tokens, uint32_t n_used)
{
    uint32_t n_uses[SC_MAX_EXPERTS] = {0};
    for (uint32_t i = 0; i < n_tokens * n_used; i++)
        n_uses[ids[i]]++;
    for (uint32_t id = 0; id < x->n_experts; id++)
        if (n_uses[id])
            policy_count(&x->policy, layer * x->n_experts + id, n_uses[id], n_tokens);
}

void experts_want(struct experts *x, uint32_t layer, const uint32_t *ids, uint32_t n_ids)
{
    uint32_t indices[SC_MAX_EXPERTS];
    for (uint32_t i = 0; i < n_ids; i++)
        indices[i] = layer * x->n_experts + ids[i];
    store_want(x->store, indices, n_ids);
}

static uint64_t bytes_of(const struct experts *x, uint32_t index)
{
    const struct expert_weights *w = &x->weights->layers[index / x->n_experts].experts[index % x->n_experts];
    return w->gate.size_bytes + w->up.size_bytes + w->down.size_bytes;
}

/* Queues the upload of n bytes of an expert, from the one at `first` on, gate, up and down taken as one. */
static bool send(struct experts *x, struct upload *u, struct arrival a, const struct expert_weights *from,
                 uint64_t first, uint64_t n, struct sc_error *e)
{
    const struct place *to = &x->slots[a.slot];
    uint64_t begin = 0;
    for (uint32_t m = 0; m < 3; m++) {
        const struct weight *w = matrix_of(from, m);
        const uint64_t end = begin + w->size_bytes, i = first > begin ? first : begin;
        const uint64_t stop = first + n < end ? first + n : end;
        if (i < stop && !upload_weights(u, &x->slabs.buffers[to->slab], to->offset + matrix_offset(from, m), w,
                                        i - begin, stop - i, e))
            return false;
        begin = end;
    }
    x->uploaded_bytes += n;
    return true;
}

/* Queues the upload of an expert into a slot, whose expert loses it. */
static bool place(struct experts *x, struct upload *u, uint32_t index, uint32_t slot, struct sc_error *e)
{
    struct expert_weights from;
    policy_vacate(&x->policy, slot); /* until all of it is on its way */
    if (!store_pin(x->store, index, &from, e))
        return false;
    const bool ok = send(x, u, (struct arrival){index, slot}, &from, 0, bytes_of(x, index), e);
    store_unpin(x->store, index);
    if (!ok)
        return false;
    policy_place(&x->policy, index, slot);
    store_drop(x->store, index);
    return true;
}

/* In which slot the device finds the expert; POLICY_NONE: in none, or not yet. */
static uint32_t slot_of(const struct experts *x, uint32_t index)
{
    for (uint32_t i = 0; i < x->n_arrivals; i++)
        if (x->arrivals[i].index == index)
            return POLICY_NONE;
    return x->policy.slot_of[index];
}

/* Writes the layer's row of the device's table, unless it stands there already: those of ids[] that have a slot. */
static bool publish(struct experts *x, struct upload *u, uint32_t layer, const uint32_t *ids, uint32_t n_ids,
                    struct sc_error *e)
{
    const uint32_t first = layer * x->n_experts;
    memset(x->table_row, 0, x->n_experts * sizeof(*x->table_row));
    for (uint32_t i = 0; i < n_ids; i++) {
        const uint32_t slot = slot_of(x, first + ids[i]);
        if (slot != POLICY_NONE)
            x->table_row[ids[i]] = slabs_address(&x->slabs, x->slots[slot]);
    }
    if (memcmp(x->table_row, &x->table_mirror[first], x->n_experts * sizeof(*x->table_row)) == 0)
        return true;
    memcpy(&x->table_mirror[first], x->table_row, x->n_experts * sizeof(*x->table_row));
    return upload_bytes(u, &x->table, first * sizeof(uint64_t), x->table_row, x->n_experts * sizeof(*x->table_row), e);
}

static bool publish_all(struct experts *x, struct upload *u, uint32_t layer, struct sc_error *e)
{
    uint32_t all[SC_MAX_EXPERTS];
    for (uint32_t i = 0; i < x->n_experts; i++)
        all[i] = i;
    return publish(x, u, layer, all, x->n_experts, e);
}

uint32_t experts_wave(const struct experts *x, uint32_t layer, uint32_t *ids, uint32_t n_ids)
{
    const uint32_t *slot_of = x->policy.slot_of + layer * x->n_experts;
    uint32_t kept[SC_MAX_EXPERTS] = {0}, n_present = 0;
    for (uint32_t i = 0; i < n_ids; i++) {
        const uint32_t id = ids[i];
        if (slot_of[id] == POLICY_NONE)
            continue;
        kept[n_present] = slot_of[id];
        ids[i] = ids[n_present];
        ids[n_present++] = id;
    }
    const uint32_t n_free = policy_n_free(&x->policy, kept, n_present);
    return n_free < n_ids - n_present ? n_present + n_free : n_ids;
}

bool experts_bring(struct experts *x, struct upload *u, uint32_t layer, uint32_t id, struct sc_error *e)
{
    struct policy *p = &x->policy;
    const uint32_t index = layer * x->n_experts + id;
    if (p->slot_of[index] != POLICY_NONE) {
        x->n_hits++;
    } else {
        x->n_misses++;
        const uint32_t slot = policy_victim(p, index);
        if (slot == POLICY_NONE)
            return sc_fail(e, SC_INVALID_ARGUMENT, "a pass needs more experts than there are slots");
        if (!place(x, u, index, slot, e))
            return false;
    }
    policy_hold(p, p->slot_of[index]);
    return true;
}

bool experts_list(struct experts *x, struct upload *u, uint32_t layer, const uint32_t *ids, uint32_t n_ids, bool only,
                  struct sc_error *e)
{
    return only ? publish(x, u, layer, ids, n_ids, e) : publish_all(x, u, layer, e);
}

void experts_release(struct experts *x, uint32_t layer)
{
    policy_release(&x->policy, layer);
}

bool experts_promote(struct experts *x, struct upload *u, struct sc_error *e)
{
    struct arrival a;
    while (x->n_arrivals < MAX_ARRIVALS && policy_promote(&x->policy, &a.index, &a.slot)) {
        policy_place(&x->policy, a.index, a.slot);
        policy_hold(&x->policy, a.slot);
        x->arrivals[x->n_arrivals++] = a;
    }
    return experts_show(x, u, e);
}

bool experts_send(struct experts *x, struct upload *u, struct sc_error *e)
{
    uint64_t share = 0;
    for (uint32_t i = 0; i < x->n_arrivals; i++)
        share += (bytes_of(x, x->arrivals[i].index) + x->n_layers - 1) / x->n_layers;
    while (share && x->n_arrived < x->n_arrivals) {
        const struct arrival a = x->arrivals[x->n_arrived];
        const uint64_t left = bytes_of(x, a.index) - x->sent_bytes, n = left < share ? left : share;
        struct expert_weights from;
        struct sc_error unread = {0};
        if (!store_pin(x->store, a.index, &from, &unread)) { /* nobody needs it now: whoever does will say why */
            cancel_arrivals(x);
            break;
        }
        const bool ok = send(x, u, a, &from, x->sent_bytes, n, e);
        store_unpin(x->store, a.index);
        if (!ok)
            return false;
        x->sent_bytes += n;
        share -= n;
        if (n < left)
            break;
        store_drop(x->store, a.index);
        x->sent_bytes = 0;
        x->n_arrived++;
    }
    return upload_flush(u, e);
}

bool experts_are_sent(const struct experts *x)
{
    return x->n_arrived == x->n_arrivals;
}

bool experts_show(struct experts *x, struct upload *u, struct sc_error *e)
{
    for (uint32_t l = 0; l < x->n_layers; l++)
        if (!publish_all(x, u, l, e))
            return false;
    return true;
}

bool experts_hide(struct experts *x, struct upload *u, struct sc_error *e)
{
    x->hidden = true;
    for (uint32_t l = 0; l < x->n_layers; l++)
        if (!publish(x, u, l, NULL, 0, e))
            return false;
    return true;
}

bool experts_find(struct experts *x, uint32_t layer, uint32_t id)
{
    const bool hit = !x->hidden && slot_of(x, layer * x->n_experts + id) != POLICY_NONE;
    x->n_hits += hit;
    x->n_misses += !hit;
    return hit;
}

struct expert_tensor experts_tensor(const struct experts *x, uint32_t layer, uint32_t matrix)
{
    const struct expert_weights *any = &x->weights->layers[layer].experts[0];
    const struct weight *w = matrix_of(any, matrix);
    return (struct expert_tensor){
        .slots = x->table.address + (uint64_t)layer * x->n_experts * sizeof(uint64_t),
        .offset = (uint32_t)matrix_offset(any, matrix),
        .n_experts = x->n_experts,
        .matrix = matrix,
        .type = w->type,
        .rows = w->rows,
        .cols = w->cols,
    };
}
