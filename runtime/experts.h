/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where experts live: a fixed pool of device memory slots, each holding one expert of one layer (gate, up, down). The
 * kernels find them through a table (layer, expert) -> address of its slot, 0 if it is not there. This first policy
 * uploads on demand and evicts what was used least recently; experts_require is the interface that later ones keep.
 */
#ifndef SCORIA_EXPERTS_H
#define SCORIA_EXPERTS_H

#include "config.h"
#include "ops.h"
#include "slabs.h"
#include "upload.h"

struct experts {
    struct gpu *gpu;
    const struct weights *weights;
    uint32_t n_layers, n_experts; /* per layer */
    uint64_t slot_bytes;
    uint32_t n_slots;
    struct slabs slabs;
    struct place *slots; /* (n_slots) */
    uint32_t *owner;     /* (n_slots) layer * n_experts + expert, or NOBODY */
    uint64_t *last_used; /* (n_slots) */
    uint32_t *slot_of;   /* (n_layers, n_experts) slot, or NOBODY */
    uint64_t clock;
    struct buffer table;    /* on the device: (n_layers, n_experts) addresses */
    uint64_t *table_row;    /* (n_experts) scratch */
    uint64_t *table_mirror; /* (n_layers, n_experts) what the device's table holds */
    uint64_t n_hits, n_misses, uploaded_bytes;
};

/* Bytes of a slot: the largest expert of any layer, its matrices aligned. */
uint64_t experts_slot_bytes(const struct weights *w, const struct config *c);

/* What experts_init takes off the budget. */
bool experts_footprint(uint64_t slot_bytes, uint32_t n_slots, uint32_t n_table, uint64_t *bytes,
                       struct sc_error *e) SC_CHECK;

/* Allocates the pool. Borrows gpu and weights. */
bool experts_init(struct experts *x, struct gpu *gpu, const struct weights *w, const struct config *c, uint32_t n_slots,
                  struct sc_error *e) SC_CHECK;
void experts_finish(struct experts *x); /* accepts a zeroed struct */

/* All experts of all layers have a slot of their own. */
bool experts_are_resident(const struct experts *x);

/*
 * Queues what is needed so that work submitted after upload_flush finds these experts of the layer in the table: ids
 * are distinct, n_ids <= n_slots. With `only`, the layer's table lists no other expert.
 */
bool experts_require(struct experts *x, struct upload *u, uint32_t layer, const uint32_t *ids, uint32_t n_ids,
                     bool only, struct sc_error *e) SC_CHECK;

/* Empties all slots: after a failure, what was on its way to them may not have arrived. */
void experts_forget(struct experts *x);

/* For those who place experts themselves. `index` is layer * n_experts + expert. */

/* Counts a use: true if the expert has a slot. */
bool experts_use(struct experts *x, uint32_t index);

uint32_t experts_free_slot(const struct experts *x); /* UINT32_MAX: there is none */

/* Queues the upload of an expert into a slot, whose expert loses it. */
bool experts_place(struct experts *x, struct upload *u, uint32_t index, uint32_t slot, struct sc_error *e) SC_CHECK;

/* Queues what makes the layer's table list all its experts that have a slot. */
bool experts_publish(struct experts *x, struct upload *u, uint32_t layer, struct sc_error *e) SC_CHECK;

/* The layer's gate (0), up (1) or down (2) matrices as the kernels find them. */
struct expert_tensor experts_tensor(const struct experts *x, uint32_t layer, uint32_t matrix);

#endif
