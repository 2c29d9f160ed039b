/* SPDX-License-Identifier: Apache-2.0 */
#include "policy.h"

#include <stdlib.h>
#include <string.h>

/* Chosen with tools/simulate-experts; docs/decisions.md has the figures. */
static const float DECAY = 0.99f;      /* of a use's worth with every token */
static const float FORGOTTEN = 0.001f; /* worth as much as never used */
static const float PROMPT_USES = 4;
static const float ADVANTAGE = 1.25f;            /* times as valuable as the one whose place it takes */
static const uint64_t LATER = (uint64_t)1 << 32; /* more than any policy_worth: a prompt has yet to come to its layer */
enum { PROMPT_LAYERS = 2 };

bool policy_init(struct policy *p, uint32_t n_layers, uint32_t n_experts, uint32_t n_slots, struct sc_error *e)
{
    const size_t n = (size_t)n_layers * n_experts;
    *p = (struct policy){.n_layers = n_layers, .n_experts = n_experts, .n_slots = n_slots};
    p->owner = calloc(n_slots, sizeof(*p->owner));
    p->slot_of = calloc(n, sizeof(*p->slot_of));
    p->heat = calloc(n, sizeof(*p->heat));
    p->learned = calloc(n, sizeof(*p->learned));
    p->used_at = calloc(n, sizeof(*p->used_at));
    p->held = calloc(n_slots, sizeof(*p->held));
    p->open = calloc(n_slots, sizeof(*p->open));
    p->n_to_open = p->n_empty = n_slots;
    bool ok = (p->owner && p->slot_of && p->heat && p->learned && p->used_at && p->held && p->open) ||
              sc_fail_memory(e, "the policy of the expert slots");
    for (enum policy_measure m = 0; m < POLICY_N_MEASURES; m++)
        ok = ok && ranking_init(&p->victims[m], n_layers * n_experts, e);
    ok = ok && duel_init(&p->duel, n_layers, n_experts, e);
    if (!ok) {
        policy_finish(p);
        return false;
    }
    memset(p->owner, 0xff, n_slots * sizeof(*p->owner));
    memset(p->slot_of, 0xff, n * sizeof(*p->slot_of));
    return true;
}

void policy_finish(struct policy *p)
{
    free(p->owner);
    free(p->slot_of);
    free(p->heat);
    free(p->learned);
    free(p->used_at);
    free(p->held);
    free(p->open);
    for (enum policy_measure m = 0; m < POLICY_N_MEASURES; m++)
        ranking_finish(&p->victims[m]);
    duel_finish(&p->duel);
    memset(p, 0, sizeof(*p));
}

static uint32_t n_all(const struct policy *p)
{
    return p->n_layers * p->n_experts;
}

static float heat_value(const struct policy *p, uint32_t index)
{
    return p->heat[index] + 1 / (float)(p->n_steps - p->used_at[index] + 1);
}

uint64_t policy_worth(const struct policy *p, enum policy_measure m, uint32_t index)
{
    uint32_t bits = p->used_at[index]; /* those of the same pass: the higher layer, so the higher index */
    if (m == POLICY_HEAT) {
        const float value = heat_value(p, index); /* not below 0: the order of such floats is that of their bits */
        memcpy(&bits, &value, sizeof(bits));
    }
    return bits;
}

/* ---- who may lose its slot ---- */

/* The expert's place among the victims follows what has become of it. */
static void rank(struct policy *p, uint32_t index)
{
    const uint32_t slot = p->slot_of[index];
    const bool is_victim = slot != POLICY_NONE && !p->held[slot] && (p->open[slot] || p->n_to_open);
    const uint32_t layer = index / p->n_experts;
    const uint64_t later = p->is_prompt && layer > p->layer ? LATER * (p->n_layers - layer) : 0;
    for (enum policy_measure m = 0; m < POLICY_N_MEASURES; m++) {
        if (p->is_ranked[m] && is_victim)
            ranking_set(&p->victims[m], index, policy_worth(p, m, index) | later);
        else if (p->is_ranked[m])
            ranking_remove(&p->victims[m], index);
    }
}

static void rank_all(struct policy *p)
{
    for (uint32_t i = 0; i < n_all(p); i++)
        rank(p, i);
}

/* A prompt has come so far. */
static void go_on_to(struct policy *p, uint32_t layer)
{
    while (p->layer < layer) {
        p->layer++;
        for (uint32_t i = 0; i < p->n_experts; i++)
            rank(p, p->layer * p->n_experts + i);
    }
}

static float decayed(float heat)
{
    return heat < FORGOTTEN ? 0 : heat * DECAY;
}

void policy_begin(struct policy *p, uint32_t n_tokens)
{
    p->is_prompt = n_tokens > 1;
    duel_begin(p, p->is_prompt);
    p->promotes = p->is_ranked[POLICY_RECENCY] = p->is_ranked[POLICY_HEAT] = false;
    p->layer = 0;
    memset(p->held, 0, p->n_slots * sizeof(*p->held));
    memset(p->open, 0, p->n_slots * sizeof(*p->open));
    p->n_to_open = p->is_prompt ? PROMPT_LAYERS * p->n_experts : p->n_slots;
    p->n_promotions = POLICY_PROMOTIONS_PER_TOKEN;
    p->n_steps++;
    for (uint32_t i = 0; !p->is_prompt && i < n_all(p); i++) {
        p->heat[i] = decayed(p->heat[i]);
        p->learned[i] = decayed(p->learned[i]);
    }
}

void policy_count(struct policy *p, uint32_t index, uint32_t n_uses, uint32_t n_tokens)
{
    p->heat[index] += n_tokens == 1 ? 1 : PROMPT_USES * (float)n_uses / (float)n_tokens;
    p->used_at[index] = p->n_steps;
    rank(p, index);
    duel_count(p, index, n_tokens == 1);
}

/* That chooses now. */
static enum policy_measure measure(struct policy *p)
{
    duel_settle(p);
    return duel_may_stray(p) ? POLICY_HEAT : POLICY_RECENCY;
}

static uint32_t empty_slot(const struct policy *p)
{
    for (uint32_t i = 0; p->n_empty && i < p->n_slots; i++)
        if (p->owner[i] == POLICY_NONE && !p->held[i] && (p->open[i] || p->n_to_open))
            return i;
    return POLICY_NONE;
}

uint32_t policy_victim(struct policy *p, uint32_t index)
{
    const uint32_t empty = empty_slot(p);
    if (empty != POLICY_NONE)
        return empty;
    go_on_to(p, index / p->n_experts);
    const enum policy_measure m = measure(p);
    if (!p->is_ranked[m]) {
        p->is_ranked[m] = true;
        rank_all(p);
    }
    const uint32_t least = ranking_least(&p->victims[m]);
    return least == RANKING_NONE ? POLICY_NONE : p->slot_of[least];
}

uint32_t policy_n_free(const struct policy *p, const uint32_t *kept, uint32_t n_kept)
{
    uint32_t n_free = 0, n_open = 0;
    for (uint32_t i = 0; i < p->n_slots; i++) {
        n_free += !p->held[i];
        n_open += !p->held[i] & p->open[i];
    }
    for (uint32_t i = 0; i < n_kept; i++) {
        n_free -= !p->held[kept[i]];
        n_open -= !p->held[kept[i]] & p->open[kept[i]];
    }
    return n_free - n_open < p->n_to_open ? n_free : n_open + p->n_to_open;
}

bool policy_earns(const struct policy *p, enum policy_measure m, uint32_t index, uint32_t victim, uint32_t *n_left)
{
    if (m == POLICY_RECENCY)
        return p->used_at[index] > p->used_at[victim] || (p->used_at[index] == p->used_at[victim] && index > victim);
    if (p->heat[victim] == 0)
        return true;
    if (*n_left == 0 || heat_value(p, index) < ADVANTAGE * heat_value(p, victim))
        return false;
    --*n_left;
    return true;
}

uint32_t policy_hottest_but(const struct policy *p, const struct ranking *those)
{
    uint32_t best = POLICY_NONE;
    float most = 0;
    for (uint32_t i = 0; i < n_all(p); i++)
        if (p->heat[i] > 0 && !ranking_has(those, i) && heat_value(p, i) > most) {
            best = i;
            most = heat_value(p, i);
        }
    return best;
}

/* The expert without a slot that is worth most; POLICY_NONE: none was ever used. */
static uint32_t best_outside(const struct policy *p, enum policy_measure m)
{
    uint32_t best = POLICY_NONE;
    uint64_t most = 0;
    for (uint32_t i = 0; i < n_all(p); i++)
        if (p->slot_of[i] == POLICY_NONE && p->heat[i] > 0 && policy_worth(p, m, i) >= most) {
            best = i;
            most = policy_worth(p, m, i);
        }
    return best;
}

bool policy_promote(struct policy *p, uint32_t *index, uint32_t *slot)
{
    if (!p->promotes) {
        p->promotes = true;
        duel_promote_in_shadow(p);
    }
    const enum policy_measure m = measure(p);
    *index = best_outside(p, m);
    *slot = *index == POLICY_NONE ? POLICY_NONE : policy_victim(p, *index);
    if (*slot == POLICY_NONE)
        return false;
    if (p->owner[*slot] == POLICY_NONE)
        return true;
    if (!policy_earns(p, m, *index, p->owner[*slot], &p->n_promotions))
        return false;
    duel_pay(&p->duel);
    return true;
}

struct candidate {
    float value;
    uint32_t rank; /* among equals: as many of each layer */
    uint32_t index;
};

static int by_value(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->value != y->value)
        return x->value < y->value ? 1 : -1;
    return x->rank < y->rank ? -1 : 1;
}

bool policy_choose(const struct policy *p, bool *chosen, struct sc_error *e)
{
    const uint32_t n = n_all(p);
    struct candidate *candidates = malloc(n * sizeof(*candidates));
    if (!candidates)
        return sc_fail_memory(e, "the choice of experts");
    for (uint32_t i = 0; i < n; i++)
        candidates[i] = (struct candidate){p->heat[i] > 0 ? heat_value(p, i) : 0,
                                           i % p->n_experts * p->n_layers + i / p->n_experts, i};
    qsort(candidates, n, sizeof(*candidates), by_value);
    memset(chosen, 0, n * sizeof(*chosen));
    for (uint32_t i = 0; i < p->n_slots && i < n; i++)
        chosen[candidates[i].index] = true;
    free(candidates);
    return true;
}

void policy_vacate(struct policy *p, uint32_t slot)
{
    const uint32_t index = p->owner[slot];
    if (index == POLICY_NONE)
        return;
    p->slot_of[index] = p->owner[slot] = POLICY_NONE;
    p->n_empty++;
    rank(p, index);
    duel_leave(&p->duel, index);
}

void policy_place(struct policy *p, uint32_t index, uint32_t slot)
{
    policy_vacate(p, slot);
    const bool is_last = !p->open[slot] && p->n_to_open && --p->n_to_open == 0;
    p->open[slot] = true;
    p->owner[slot] = index;
    p->slot_of[index] = slot;
    p->n_empty--;
    if (is_last)
        rank_all(p); /* those who were not opened are no victims any more */
    rank(p, index);
    duel_arrive(&p->duel, index);
}

void policy_hold(struct policy *p, uint32_t slot)
{
    p->held[slot] = true;
    if (p->owner[slot] != POLICY_NONE)
        rank(p, p->owner[slot]);
}

void policy_release(struct policy *p, uint32_t layer)
{
    for (uint32_t i = layer * p->n_experts; i < (layer + 1) * p->n_experts; i++)
        if (p->slot_of[i] != POLICY_NONE) {
            p->held[p->slot_of[i]] = false;
            rank(p, i);
        }
}

void policy_forget(struct policy *p)
{
    for (uint32_t i = 0; i < p->n_slots; i++)
        policy_vacate(p, i);
    duel_forget(p);
}
