/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who has a slot, and who deserves one: the directory of the slots and the choices of the cache. Knows neither Vulkan
 * nor weights, so that tools/simulate-experts replays recorded routing through the very code that runs. An expert is
 * named by its index, layer * n_experts + expert. Counts decide, never times: equal runs decide equally.
 *
 * An expert is worth the uses that it had, each counting 1 % less with every token since, and a little more for having
 * been used just now, which decides between equals. A prompt adds four uses, shared among the experts of a layer as its
 * tokens chose them. The least valuable slot gives way. Where the CPU computes the misses, nothing has to be uploaded:
 * an expert that was used gets an empty slot, or that of one never used, at once; but to take another's place it must
 * be worth a quarter more, and one a token may. An upload costs what two or three misses do, and it takes many uses to
 * earn that.
 *
 * That is called heat. It has the choice only as far as it has proved to be better than plain recency (duel.h); else
 * the cache is LRU.
 *
 * Of a prompt all experts are needed, in the order of the layers. So those of the layers that it has computed give way
 * before those of the layers to come, and of these the last layers', whatever they are worth.
 */
#ifndef SCORIA_POLICY_H
#define SCORIA_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "duel.h"
#include "error.h"

#define POLICY_NONE UINT32_MAX

/* What makes one expert more valuable than another. */
enum policy_measure { POLICY_RECENCY, POLICY_HEAT, POLICY_N_MEASURES };

enum { POLICY_PROMOTIONS_PER_TOKEN = 1 };

struct policy {
    uint32_t n_layers, n_experts, n_slots;
    uint32_t *owner;    /* (n_slots) the expert that has the slot, or POLICY_NONE */
    uint32_t *slot_of;  /* (n_layers, n_experts) its slot, or POLICY_NONE */
    float *heat;        /* (n_layers, n_experts) decayed count of uses */
    float *learned;     /* (n_layers, n_experts) that of earlier runs, decayed alike: for hot_set.h, decides nothing */
    uint32_t *used_at;  /* (n_layers, n_experts) the pass of the last use */
    uint32_t n_steps;   /* passes so far */
    bool *held;         /* (n_slots) needed by work that has not ended */
    bool *open;         /* (n_slots) the pass has given it to another expert, and may do so again */
    uint32_t n_empty;   /* slots that no expert has */
    uint32_t n_to_open; /* slots that the pass may still open */
    uint32_t n_promotions; /* that this token may still make */
    bool promotes;         /* this token's misses need no slot: policy_promote has been asked */
    bool is_prompt;
    uint32_t layer;                            /* the last one that asked for a slot */
    struct ranking victims[POLICY_N_MEASURES]; /* those that may lose their slots */
    bool is_ranked[POLICY_N_MEASURES];         /* a slot has been asked for in this pass */
    struct duel duel;
};

bool policy_init(struct policy *p, uint32_t n_layers, uint32_t n_experts, uint32_t n_slots,
                 struct sc_error *e) SC_CHECK;
void policy_finish(struct policy *p); /* accepts a zeroed struct */

/*
 * A pass of n_tokens begins, and holds nothing yet. A prompt (n_tokens > 1) touches nearly all experts once, in the
 * order of the layers, so it has to do with the slots of two layers' experts, whichever give way first when it
 * needs them.
 */
void policy_begin(struct policy *p, uint32_t n_tokens);

/* n_uses of the pass's n_tokens tokens chose the expert. */
void policy_count(struct policy *p, uint32_t index, uint32_t n_uses, uint32_t n_tokens);

/* The slot that the pass can best spare for an expert, which has none; POLICY_NONE: each is held or closed to it. */
uint32_t policy_victim(struct policy *p, uint32_t index);

/* How many slots policy_victim may name one after the other, if the n_kept distinct slots in kept[] are held as well.
 */
uint32_t policy_n_free(const struct policy *p, const uint32_t *kept, uint32_t n_kept);

/* An expert that has earned a slot, for which the CPU need not wait. False: none, or this token has moved enough. */
bool policy_promote(struct policy *p, uint32_t *index, uint32_t *slot);

/* Marks as many experts as there are slots, the most valuable ones: chosen (n_layers, n_experts). */
bool policy_choose(const struct policy *p, bool *chosen, struct sc_error *e) SC_CHECK;

/* The expert has the slot now, and who had it has none. */
void policy_place(struct policy *p, uint32_t index, uint32_t slot);
void policy_vacate(struct policy *p, uint32_t slot);

/* A slot that has an expert stays as it is until its layer is released. */
void policy_hold(struct policy *p, uint32_t slot);
void policy_release(struct policy *p, uint32_t layer);

/* What was in the slots is lost. */
void policy_forget(struct policy *p);

/* ---- for duel.c ---- */

/* What an expert is worth; of equals the one with the higher index is worth more. By recency 0: never used. */
uint64_t policy_worth(const struct policy *p, enum policy_measure m, uint32_t index);

/* Has `index` earned the place of `victim`? Takes 1 off *n_left if it is one of the few promotions a token may make. */
bool policy_earns(const struct policy *p, enum policy_measure m, uint32_t index, uint32_t victim, uint32_t *n_left);

/* The expert with the most heat that is not among those; POLICY_NONE: none has any. */
uint32_t policy_hottest_but(const struct policy *p, const struct ranking *those);

#endif
