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
 * That is called heat. Before it is believed it must prove to be better than plain recency: one of the two measures
 * chooses, and the directory of what the other one would have in its place, the shadow, is kept beside it. Hits that
 * one of them has and the other has not are counted, and promotions at the price of an upload. When the shadow is ahead
 * by more than three standard deviations of chance the two change places. Without counts of earlier runs, recency
 * begins: as long as nothing is proved the cache is LRU itself, so it never loses to it by more than the proof was
 * wrong.
 */
#ifndef SCORIA_POLICY_H
#define SCORIA_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

#define POLICY_NONE UINT32_MAX

/* What makes one expert more valuable than another. */
enum policy_measure { POLICY_RECENCY, POLICY_HEAT };

/* The measure that chooses, and what the other one would have done in its place. */
struct duel {
    enum policy_measure measure;
    uint8_t *shadow;       /* (n_layers, n_experts) who would have slots if the other one chose */
    bool is_stale;         /* slots have been filled since in which both measures have no part */
    uint32_t layer;        /* whose uses the shadow has not made room for */
    uint32_t oldest, next; /* by recency: no expert in the shadow is older, and of these none is before `next` */
    float lead;            /* of the shadow, in hits */
    float spread;          /* sum of the squares of what lead is the sum of */
};

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
    uint32_t n_to_open; /* slots that the pass may still open */
    uint32_t n_promotions; /* that this token may still make */
    bool promotes;         /* this token's misses need no slot: policy_promote has been asked */
    struct duel duel;
};

bool policy_init(struct policy *p, uint32_t n_layers, uint32_t n_experts, uint32_t n_slots,
                 struct sc_error *e) SC_CHECK;
void policy_finish(struct policy *p); /* accepts a zeroed struct */

/*
 * A pass of n_tokens begins, and holds nothing yet. A prompt (n_tokens > 1) touches nearly all experts once, in the
 * order of the layers, so it has to do with the slots of two layers' experts, the least valuable ones when it needs
 * them.
 */
void policy_begin(struct policy *p, uint32_t n_tokens);

/* n_uses of the pass's n_tokens tokens chose the expert. */
void policy_count(struct policy *p, uint32_t index, uint32_t n_uses, uint32_t n_tokens);

/* The slot that the pass can best spare for an expert that has none; POLICY_NONE: each is held or closed to it. */
uint32_t policy_victim(const struct policy *p);

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

#endif
