/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The experts below the device: in RAM where they fit, on disk where they do not. There are two ways.
 *
 * Mapped: the bytes are those of the mapped files, and the system decides what of them is in RAM. An expert that the
 * device holds is let go where RAM has no room for all (exclusive residency).
 *
 * Reading: a pool of RAM, as large as --ram says or as RAM has free, into which Scoria reads experts itself
 * (ram_pool.h). For --ram and --no-mmap, and where the experts that the device does not hold are more than RAM has
 * free: the system's cache knows nothing of routers and throws away what the next token needs.
 *
 * An expert is named by its index, layer * n_experts + expert. One thread at a time.
 */
#ifndef SCORIA_STORE_H
#define SCORIA_STORE_H

#include "config.h"
#include "policy.h"
#include "scoria.h"

struct store;

struct store_params {
    const struct sc_gguf *gguf;
    const struct weights *weights;
    const struct config *config;
    const struct policy *device; /* its slot_of tells whom the device holds; NULL there: nobody yet */
    bool host_computes_all;      /* also the experts that the device holds are wanted from RAM */
    bool lock;                   /* what is in RAM stays there; store_is_locked tells whether that worked */

    /* from store_place */
    uint32_t n_ram_slots; /* 0: mapped */
    bool is_short;        /* RAM has no room for all, so nothing may be in it twice, or there and on the device */
    bool fills;           /* reads all it has room for when the model is loaded, not when it is wanted */
};

/*
 * Decides the way, for *placement too, from ram_bytes and no_mmap of the engine's params, placement->n_slots, and the
 * bytes that RAM has free. Fails if --ram is too small, with the minimum in the sentence.
 */
bool store_place(struct sc_placement *placement, struct store_params *params, const struct sc_engine_params *engine,
                 uint64_t available_bytes, struct sc_error *e) SC_CHECK;

/* Borrows what the params name. */
struct store *store_create(const struct store_params *params, struct sc_error *e) SC_CHECK;
void store_destroy(struct store *s); /* accepts NULL */
bool store_is_locked(const struct store *s);
bool store_is_steady(const struct store *s); /* mapped, and RAM has room for all: pinned bytes never move */

/* The device has what it gets. Reads what is to be read before the first pass; `progress` as in sc_engine_params. */
bool store_load(struct store *s, const struct sc_engine_params *params, struct sc_error *e) SC_CHECK;

/*
 * Every pass begins here, and tells whom a layer needs as soon as it knows: distinct indices of one layer. What of them
 * has to come from disk is on its way when this returns; if they are most of the layer's experts, so are the next
 * layer's, as far as there is room.
 */
void store_begin(struct store *s);
void store_want(struct store *s, const uint32_t *indices, uint32_t n);

/*
 * The expert's bytes in *out, valid until store_unpin; waits for the disk if it must. At most store_n_pins at once,
 * which are no fewer than a token chooses of a layer. Fails in one sentence, and the next call may succeed.
 */
bool store_pin(struct store *s, uint32_t index, struct expert_weights *out, struct sc_error *e) SC_CHECK;
uint32_t store_n_pins(const struct store *s);
void store_unpin(struct store *s, uint32_t index);
void store_drop(struct store *s, uint32_t index); /* the device has all of it now, so RAM need not */

/* Fails if bytes that were pinned, or any other view of the model's files, were not the files'. */
bool store_check(const struct store *s, struct sc_error *e) SC_CHECK;

/* Since it was created; 0 for NULL. Mapped, nobody knows. */
uint64_t store_read_bytes(const struct store *s);
double store_wait_seconds(const struct store *s);

#endif
