/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bounded part of RAM for experts: slots of one expert each, filled from the model's files by reader.h. The store
 * (store.h) decides whether there is one. Experts are named by their index, layer * n_experts + expert.
 *
 * Who gives way: first whom the device's slots hold, then whom the passes will do longest without, as far as counts
 * tell. An expert that a share p of the passes uses waits (1 / p - 1) passes, and less of one the nearer its layer is.
 * So prompts, which use all experts layer by layer, find again what fits; by recency they would find nothing.
 */
#ifndef SCORIA_RAM_POOL_H
#define SCORIA_RAM_POOL_H

#include "config.h"
#include "policy.h"

struct ram_pool;

/* Bytes of a slot: the largest expert of any layer, its matrices as they lie in the blocks of their file. */
uint64_t ram_pool_slot_bytes(const struct weights *w, const struct config *c);

struct ram_pool_params {
    const struct sc_gguf *gguf;
    const struct weights *weights;
    const struct config *config;
    const struct policy *device; /* its slot_of tells who has a slot there; NULL: nobody yet */
    uint32_t n_slots;
    bool lock;   /* into RAM; whether that worked is in ram_pool_is_locked */
    bool cached; /* reading may leave the files in the system's cache as well */
};

/* Allocates all there will be. Borrows what the params name. */
struct ram_pool *ram_pool_create(const struct ram_pool_params *params, struct sc_error *e) SC_CHECK;
void ram_pool_destroy(struct ram_pool *p); /* accepts NULL */
bool ram_pool_is_locked(const struct ram_pool *p);

void ram_pool_begin(struct ram_pool *p); /* a pass begins */

/* The layer that the pass is at needs the expert: begins to read it if it is not there, in the place of another. */
void ram_pool_want(struct ram_pool *p, uint32_t index);

/* The same for an expert of a later layer, if that costs none that the pass may still need. False: it does. */
bool ram_pool_prefetch(struct ram_pool *p, uint32_t index);

/* Fills *out; the bytes stay until ram_pool_unpin, as often. At most n_slots experts can be pinned at once. */
bool ram_pool_pin(struct ram_pool *p, uint32_t index, struct expert_weights *out, struct sc_error *e) SC_CHECK;
void ram_pool_unpin(struct ram_pool *p, uint32_t index);

/*
 * All of the expert is on the device: as long as it has a slot there and is not pinned again, it is first to give way.
 * Until it is dropped it stays, as it may be on its way.
 */
void ram_pool_drop(struct ram_pool *p, uint32_t index);
bool ram_pool_is_dropped(const struct ram_pool *p, uint32_t index);

uint64_t ram_pool_read_bytes(const struct ram_pool *p); /* from disk so far */

#endif
