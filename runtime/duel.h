/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heat against recency. Part of struct policy: what plain LRU would have done with all that was used so far, and by how
 * much the cache is ahead of it.
 *
 * Heat must prove to be better before it is believed. Until then the cache is LRU, and a shadow goes by heat: hits that
 * one of them has and the other has not are counted, and uploads at their price. When the shadow is ahead by more than
 * three standard deviations of chance, heat is trusted with half of that lead: so much it may lose.
 *
 * It chooses on a leash. Whom LRU would have in a slot and the cache has not may cost a hit, and one of four does: as
 * long as a quarter of them is no more than what was won of LRU and the stake together, heat may send away more of
 * them; when it is, the cache does as LRU would, which brings both together again. Once as much is won as was staked,
 * the stake is taken back, and the cache stays ahead. If all is lost, LRU has the cache until heat has proved itself
 * again, by more than it has lost.
 */
#ifndef SCORIA_DUEL_H
#define SCORIA_DUEL_H

#include "ranking.h"

struct policy;

/* An expert that the layer which runs has used. */
struct duel_use {
    uint32_t index;
    bool lru_missed, shadow_used, shadow_missed;
};

struct duel {
    struct ranking lru; /* who would have slots, by their last uses */
    uint32_t n_away;    /* how many of them have none */
    double won;         /* of LRU, in hits */
    float stake;        /* that may be lost to it */
    bool is_trusted;    /* heat chooses */

    struct ranking shadow;  /* unless it is: who would have slots if it did, by heat */
    uint32_t shadow_pass;   /* that the shadow's heats are of */
    float lead, spread;     /* of the shadow, in hits; sum of the squares of what lead is the sum of */
    bool has_lru, is_stale; /* lru has begun; the slots have changed in ways in which the shadow has no part */

    struct duel_use *uses; /* (n_uses) of the layer that runs; or (n_settled), since all of them are counted */
    uint32_t n_uses, n_settled, layer;
};

bool duel_init(struct duel *d, uint32_t n_layers, uint32_t n_experts, struct sc_error *e) SC_CHECK;
void duel_finish(struct duel *d); /* accepts a zeroed struct */

/* Without proof: there are counts of earlier runs. */
void duel_trust(struct policy *p);

/*
 * Slots were emptied by what LRU has no part in. It begins anew, with those who have slots, when none is empty any
 * more; until then there is nobody to give up, and nothing is won or lost.
 */
void duel_forget(struct policy *p);

void duel_begin(struct policy *p, bool is_prompt);

/* The pass uses the expert; in decode that counts. */
void duel_count(struct policy *p, uint32_t index, bool is_decode);

/* All uses of the layer that runs have been counted: LRU and the shadow make room for them. */
void duel_settle(struct policy *p);

/* May heat choose who loses the next slot? Else the cache does as LRU would. */
bool duel_may_stray(struct policy *p);

/* The expert has lost its slot, or got one. */
void duel_leave(struct duel *d, uint32_t index);
void duel_arrive(struct duel *d, uint32_t index);

/* The cache has uploaded an expert of which the CPU could have computed a miss. */
void duel_pay(struct duel *d);

/* The shadow promotes before a token, as the policy does. */
void duel_promote_in_shadow(struct policy *p);

#endif
