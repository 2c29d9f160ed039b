/* SPDX-License-Identifier: Apache-2.0 */
#include "policy.h"

#include <stdlib.h>
#include <string.h>

/* Uses count less the longer ago they were: by half after some 70 tokens. */
static const float DECAY = 0.99f;
/* How much hotter than its victim an expert must be: a promotion costs as much as it saves in several uses. */
static const float ADVANTAGE = 2;
/* What a whole prompt that chose nothing else counts, in uses. */
static const float PROMPT_WEIGHT = 4;

bool policy_init(struct policy *p, uint32_t n_layers, uint32_t n_experts, uint32_t n_slots, struct sc_error *e)
{
    const size_t n = (size_t)n_layers * n_experts;
    *p = (struct policy){.n_layers = n_layers, .n_experts = n_experts, .n_slots = n_slots};
    p->owner = calloc(n_slots, sizeof(*p->owner));
    p->slot_of = calloc(n, sizeof(*p->slot_of));
    p->heat = calloc(n, sizeof(*p->heat));
    p->held = calloc(n_slots, sizeof(*p->held));
    p->open = calloc(n_slots, sizeof(*p->open));
    if (!p->owner || !p->slot_of || !p->heat || !p->held || !p->open) {
        policy_finish(p);
        return sc_fail_memory(e, "the policy of the expert slots");
    }
    memset(p->owner, 0xff, n_slots * sizeof(*p->owner));
    memset(p->slot_of, 0xff, n * sizeof(*p->slot_of));
    policy_begin(p, 1);
    return true;
}

void policy_finish(struct policy *p)
{
    free(p->owner);
    free(p->slot_of);
    free(p->heat);
    free(p->held);
    free(p->open);
    memset(p, 0, sizeof(*p));
}

/* Less than every heat: empty slots go first. */
static float slot_heat(const struct policy *p, uint32_t slot)
{
    return p->owner[slot] == POLICY_NONE ? -1 : p->heat[p->owner[slot]];
}

/* The coldest slot of those with open[slot] == is_open that are not held. */
static uint32_t coldest(const struct policy *p, bool is_open)
{
    uint32_t best = POLICY_NONE;
    for (uint32_t i = 0; i < p->n_slots; i++)
        if (p->open[i] == is_open && !p->held[i] && (best == POLICY_NONE || slot_heat(p, i) < slot_heat(p, best)))
            best = i;
    return best;
}

void policy_begin(struct policy *p, uint32_t n_tokens)
{
    const bool is_prompt = n_tokens > 1;
    memset(p->held, 0, p->n_slots * sizeof(*p->held));
    for (uint32_t i = 0; i < p->n_slots; i++)
        p->open[i] = !is_prompt;
    for (uint32_t n = 0; is_prompt && n < p->n_slots && n < 2 * p->n_experts; n++)
        p->open[coldest(p, false)] = true;
    p->n_promotions = 1;
    for (uint32_t i = 0; !is_prompt && i < p->n_layers * p->n_experts; i++)
        p->heat[i] *= DECAY;
}

void policy_count(struct policy *p, uint32_t index, uint32_t n_uses, uint32_t n_tokens)
{
    p->heat[index] += n_tokens == 1 ? 1 : PROMPT_WEIGHT * (float)n_uses / (float)n_tokens;
}

uint32_t policy_victim(const struct policy *p)
{
    return coldest(p, true);
}

uint32_t policy_n_open(const struct policy *p)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_slots; i++)
        n += p->open[i] && !p->held[i];
    return n;
}

bool policy_promote(struct policy *p, uint32_t *index, uint32_t *slot)
{
    uint32_t best = POLICY_NONE;
    for (uint32_t i = 0; i < p->n_layers * p->n_experts; i++)
        if (p->slot_of[i] == POLICY_NONE && p->heat[i] > (best == POLICY_NONE ? 0 : p->heat[best]))
            best = i;
    *index = best;
    *slot = coldest(p, true);
    if (best == POLICY_NONE || *slot == POLICY_NONE)
        return false;
    if (p->owner[*slot] == POLICY_NONE)
        return true;
    if (p->n_promotions == 0 || p->heat[best] < slot_heat(p, *slot) + ADVANTAGE)
        return false;
    p->n_promotions--;
    return true;
}

void policy_vacate(struct policy *p, uint32_t slot)
{
    if (p->owner[slot] != POLICY_NONE)
        p->slot_of[p->owner[slot]] = POLICY_NONE;
    p->owner[slot] = POLICY_NONE;
}

void policy_place(struct policy *p, uint32_t index, uint32_t slot)
{
    policy_vacate(p, slot);
    p->owner[slot] = index;
    p->slot_of[index] = slot;
}

void policy_hold(struct policy *p, uint32_t slot)
{
    p->held[slot] = true;
}

void policy_release(struct policy *p, uint32_t layer)
{
    for (uint32_t i = 0; i < p->n_slots; i++)
        if (p->owner[i] / p->n_experts == layer)
            p->held[i] = false;
}
