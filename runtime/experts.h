/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where experts live: a fixed pool of device memory slots, each holding one expert of one layer (gate, up, down). The
 * kernels find them through a table (layer, expert) -> address of its slot, 0 if it is not there. policy.h chooses who
 * has a slot; this file uploads, and tells the device.
 */
#ifndef SCORIA_EXPERTS_H
#define SCORIA_EXPERTS_H

#include "config.h"
#include "ops.h"
#include "policy.h"
#include "slabs.h"
#include "store.h"
#include "upload.h"

/* An expert on its way to its slot while a token runs; until the next one nobody finds it there. */
struct arrival {
    uint32_t index, slot;
};

enum { MAX_ARRIVALS = 4 }; /* that one token pays for */

struct experts {
    struct gpu *gpu;
    const struct weights *weights;
    struct store *store;
    uint32_t n_layers, n_experts; /* per layer */
    uint64_t slot_bytes;
    uint32_t n_slots;
    struct slabs slabs;
    struct place *slots; /* (n_slots) */
    struct policy policy;
    struct buffer table;    /* on the device: (n_layers, n_experts) addresses */
    uint64_t *table_row;    /* (n_experts) scratch */
    uint64_t *table_mirror; /* (n_layers, n_experts) what the device's table holds */
    bool hidden;            /* the pass does without slots */
    struct arrival arrivals[MAX_ARRIVALS];
    uint32_t n_arrivals, n_arrived; /* of the pass */
    uint64_t sent_bytes;            /* of arrivals[n_arrived] */
    uint64_t n_hits, n_misses, uploaded_bytes;
};

/* Bytes of a slot: the largest expert of any layer, its matrices aligned. */
uint64_t experts_slot_bytes(const struct weights *w, const struct config *c);

/* What experts_init takes off the budget. */
bool experts_footprint(uint64_t slot_bytes, uint32_t n_slots, uint32_t n_table, uint64_t *bytes,
                       struct sc_error *e) SC_CHECK;

/* Allocates the pool. Borrows gpu, weights and store, where the experts' bytes come from. */
bool experts_init(struct experts *x, struct gpu *gpu, const struct weights *w, const struct config *c, uint32_t n_slots,
                  struct store *store, struct sc_error *e) SC_CHECK;
void experts_finish(struct experts *x); /* accepts a zeroed struct */

bool experts_fit(const struct experts *x);          /* there is a slot for every expert of every layer */
bool experts_are_resident(const struct experts *x); /* and they are in them */

/*
 * Every pass begins here, and tells each layer's choice once the router has made it: ids (n_tokens, n_used), checked.
 * What an earlier pass still held is let go.
 */
void experts_begin(struct experts *x, uint32_t n_tokens);
void experts_count(struct experts *x, uint32_t layer, const uint32_t *ids, uint32_t n_tokens, uint32_t n_used);

/* The layer will need these distinct ids next: what of them is on disk is on its way to RAM when this returns. */
void experts_want(struct experts *x, uint32_t layer, const uint32_t *ids, uint32_t n_ids);

/*
 * For passes that upload what they need. Of the layer's distinct ids, experts_wave moves those to the front that can
 * have slots at the same time as all that is held, and returns how many they are: what is there already first. 0 means
 * that layers in flight hold too much: release one. experts_bring then queues what is needed of one of them, in this
 * order, and holds its slot until experts_release: uploads for later layers take other slots, so a whole layer can be
 * on its way while the one before computes (a prompt may use the slots of two layers' experts, see policy.h, and leaves
 * the others alone). experts_list makes the layer's table list the wave; with `only`, no other expert. Work that is
 * submitted after upload_flush finds both.
 */
uint32_t experts_wave(const struct experts *x, uint32_t layer, uint32_t *ids, uint32_t n_ids);
bool experts_bring(struct experts *x, struct upload *u, uint32_t layer, uint32_t id, struct sc_error *e) SC_CHECK;
bool experts_list(struct experts *x, struct upload *u, uint32_t layer, const uint32_t *ids, uint32_t n_ids, bool only,
                  struct sc_error *e) SC_CHECK;
void experts_release(struct experts *x, uint32_t layer); /* the device is done with what was submitted for it */

/*
 * For passes whose misses the CPU computes. experts_promote, after experts_begin, chooses those that have earned a slot
 * and queues what makes the table list all others that have one. experts_send, for each layer while the pass runs,
 * queues a share of the chosen ones' bytes: the next pass finds them. It may wait for copies of its own, so nothing
 * that they stand behind may wait for its caller. One that cannot be read gets no slot after all. experts_find counts
 * the hit or miss, and is true for a hit.
 */
bool experts_promote(struct experts *x, struct upload *u, struct sc_error *e) SC_CHECK;
bool experts_send(struct experts *x, struct upload *u, struct sc_error *e) SC_CHECK;
bool experts_are_sent(const struct experts *x);
bool experts_find(struct experts *x, uint32_t layer, uint32_t id);

/* The table lists none, and all are misses: instead of experts_promote, where the CPU computes all experts. */
bool experts_hide(struct experts *x, struct upload *u, struct sc_error *e) SC_CHECK;

/* The table lists all that have a slot: for passes that neither upload nor have experts on the CPU. */
bool experts_show(struct experts *x, struct upload *u, struct sc_error *e) SC_CHECK;

/* Empties all slots: after a failure, what was on its way to them may not have arrived. */
void experts_forget(struct experts *x);

/* The layer's gate (0), up (1) or down (2) matrices as the kernels find them. */
struct expert_tensor experts_tensor(const struct experts *x, uint32_t layer, uint32_t matrix);

#endif
