/* SPDX-License-Identifier: Apache-2.0 */
#include "policy.h"

#include <stdlib.h>
#include <string.h>

/* Chosen with tools/simulate-experts; docs/decisions.md has the figures. */
static const float DECAY = 0.99f;      /* of a use's worth with every token */
static const float FORGOTTEN = 0.001f; /* worth as much as never used */
static const float PROMPT_USES = 4;
static const float ADVANTAGE = 1.25f; /* times as valuable as the one whose place it takes */
enum { PROMOTIONS_PER_TOKEN = 1, PROMPT_LAYERS = 2 };

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
    p->slots = calloc(n_slots, sizeof(*p->slots));
    if (!p->owner || !p->slot_of || !p->heat || !p->learned || !p->used_at || !p->held || !p->open || !p->slots) {
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
    free(p->learned);
    free(p->used_at);
    free(p->held);
    free(p->open);
    free(p->slots);
    memset(p, 0, sizeof(*p));
}

static float value(const struct policy *p, uint32_t index)
{
    return p->heat[index] + 1 / (float)(p->n_steps - p->used_at[index] + 1);
}

/* Less than every expert's: empty slots go first. */
static float slot_value(const struct policy *p, uint32_t slot)
{
    return p->owner[slot] == POLICY_NONE ? -1 : value(p, p->owner[slot]);
}

/* Where in slots[from] to slots[to - 1] the least valuable one stands that is not held; `to` if there is none. */
static uint32_t least_valuable(const struct policy *p, uint32_t from, uint32_t to)
{
    uint32_t best = to;
    float least = 0;
    for (uint32_t i = from; i < to; i++) {
        const uint32_t slot = p->slots[i];
        if (p->held[slot])
            continue;
        const float worth = slot_value(p, slot);
        if (best == to || worth < least) {
            best = i;
            least = worth;
        }
        if (p->owner[slot] == POLICY_NONE)
            break; /* nothing is worth less */
    }
    return best;
}

/* Opens the n least valuable slots. */
static void open_slots(struct policy *p, uint32_t n)
{
    p->n_open = n < p->n_slots ? n : p->n_slots;
    for (uint32_t i = 0; i < p->n_slots; i++)
        p->slots[i] = i;
    for (uint32_t i = 0; i < p->n_open && p->n_open < p->n_slots; i++) {
        const uint32_t at = least_valuable(p, i, p->n_slots), slot = p->slots[at];
        p->slots[at] = p->slots[i];
        p->slots[i] = slot;
    }
    for (uint32_t i = 0; i < p->n_slots; i++)
        p->open[p->slots[i]] = i < p->n_open;
}

static float decayed(float heat)
{
    return heat < FORGOTTEN ? 0 : heat * DECAY;
}

void policy_begin(struct policy *p, uint32_t n_tokens)
{
    const bool is_prompt = n_tokens > 1;
    memset(p->held, 0, p->n_slots * sizeof(*p->held));
    open_slots(p, is_prompt ? PROMPT_LAYERS * p->n_experts : p->n_slots);
    p->n_promotions = PROMOTIONS_PER_TOKEN;
    p->n_steps += !is_prompt;
    for (uint32_t i = 0; !is_prompt && i < p->n_layers * p->n_experts; i++) {
        p->heat[i] = decayed(p->heat[i]);
        p->learned[i] = decayed(p->learned[i]);
    }
}

void policy_count(struct policy *p, uint32_t index, uint32_t n_uses, uint32_t n_tokens)
{
    p->heat[index] += n_tokens == 1 ? 1 : PROMPT_USES * (float)n_uses / (float)n_tokens;
    p->used_at[index] = p->n_steps;
}

uint32_t policy_victim(const struct policy *p)
{
    const uint32_t at = least_valuable(p, 0, p->n_open);
    return at < p->n_open ? p->slots[at] : POLICY_NONE;
}

uint32_t policy_n_free(const struct policy *p)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_open; i++)
        n += !p->held[p->slots[i]];
    return n;
}

bool policy_promote(struct policy *p, uint32_t *index, uint32_t *slot)
{
    float most = 0;
    *index = POLICY_NONE;
    for (uint32_t i = 0; i < p->n_layers * p->n_experts; i++) {
        if (p->slot_of[i] != POLICY_NONE || p->heat[i] == 0 || value(p, i) <= most)
            continue;
        *index = i;
        most = value(p, i);
    }
    *slot = policy_victim(p);
    if (*index == POLICY_NONE || *slot == POLICY_NONE)
        return false;
    if (p->owner[*slot] == POLICY_NONE || p->heat[p->owner[*slot]] == 0)
        return true;
    if (p->n_promotions == 0 || most < ADVANTAGE * slot_value(p, *slot))
        return false;
    p->n_promotions--;
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
    const uint32_t n = p->n_layers * p->n_experts;
    struct candidate *candidates = malloc(n * sizeof(*candidates));
    if (!candidates)
        return sc_fail_memory(e, "the choice of experts");
    for (uint32_t i = 0; i < n; i++)
        candidates[i] =
            (struct candidate){p->heat[i] > 0 ? value(p, i) : 0, i % p->n_experts * p->n_layers + i / p->n_experts, i};
    qsort(candidates, n, sizeof(*candidates), by_value);
    memset(chosen, 0, n * sizeof(*chosen));
    for (uint32_t i = 0; i < p->n_slots && i < n; i++)
        chosen[candidates[i].index] = true;
    free(candidates);
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
