/* SPDX-License-Identifier: Apache-2.0 */
#include "policy.h"

#include <stdlib.h>
#include <string.h>

/* Chosen with tools/simulate-experts; docs/decisions.md has the figures. */
static const float DECAY = 0.99f;      /* of a use's worth with every token */
static const float FORGOTTEN = 0.001f; /* worth as much as never used */
static const float PROMPT_USES = 4;
static const float ADVANTAGE = 1.25f; /* times as valuable as the one whose place it takes */
static const float UPLOAD_PRICE = 3;  /* in hits, where a miss can do without */
static const float CERTAINTY = 9;     /* three standard deviations, squared */
enum { PROMOTIONS_PER_TOKEN = 1, PROMPT_LAYERS = 2 };
enum {
    OUTSIDE,
    INSIDE,
    PINNED,
    WANTED
}; /* of the duel's shadow; the last two: hit and missed by the layer that runs */

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
    p->duel.shadow = calloc(n, sizeof(*p->duel.shadow));
    if (!p->owner || !p->slot_of || !p->heat || !p->learned || !p->used_at || !p->held || !p->open || !p->duel.shadow) {
        policy_finish(p);
        return sc_fail_memory(e, "the policy of the expert slots");
    }
    memset(p->owner, 0xff, n_slots * sizeof(*p->owner));
    memset(p->slot_of, 0xff, n * sizeof(*p->slot_of));
    policy_begin(p, 1);
    p->duel.is_stale = true;
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
    free(p->duel.shadow);
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

/* At least 0, and 0 only if it was never used. */
static double value(const struct policy *p, enum policy_measure m, uint32_t index)
{
    if (m == POLICY_RECENCY) /* within a pass, in the order of the layers */
        return p->used_at[index] ? (double)p->used_at[index] * n_all(p) + index : 0;
    return (double)heat_value(p, index);
}

/* ---- the duel ---- */

static enum policy_measure other(enum policy_measure m)
{
    return m == POLICY_HEAT ? POLICY_RECENCY : POLICY_HEAT;
}

/* The shadow has gained so much on what was done, or lost. */
static void score(struct duel *d, float gain)
{
    d->lead += gain;
    d->spread += gain * gain;
}

static void cast_shadow(struct policy *p)
{
    for (uint32_t i = 0; i < n_all(p); i++)
        p->duel.shadow[i] = p->slot_of[i] != POLICY_NONE ? INSIDE : OUTSIDE;
    p->duel.oldest = p->duel.next = 0;
}

/* Those with the same last pass are asked for one after the other: all are searched only for the next pass. */
static uint32_t oldest_in_shadow(struct policy *p)
{
    struct duel *d = &p->duel;
    for (uint32_t oldest = 0; oldest != UINT32_MAX;) {
        for (uint32_t i = d->next; i < n_all(p); i++)
            if (d->shadow[i] == INSIDE && p->used_at[i] == d->oldest) {
                d->next = i + 1;
                return i;
            }
        oldest = UINT32_MAX;
        for (uint32_t i = 0; i < n_all(p); i++)
            if (d->shadow[i] == INSIDE && p->used_at[i] < oldest)
                oldest = p->used_at[i];
        d->oldest = oldest;
        d->next = 0;
    }
    return POLICY_NONE;
}

static uint32_t coldest_in_shadow(const struct policy *p)
{
    uint32_t best = POLICY_NONE;
    for (uint32_t i = 0; i < n_all(p); i++)
        if (p->duel.shadow[i] == INSIDE && (best == POLICY_NONE || heat_value(p, i) < heat_value(p, best)))
            best = i;
    return best;
}

/* Whom the shadow would give up; POLICY_NONE: none. */
static uint32_t shadow_victim(struct policy *p)
{
    return other(p->duel.measure) == POLICY_RECENCY ? oldest_in_shadow(p) : coldest_in_shadow(p);
}

static void replace_in_shadow(struct policy *p, uint32_t victim, uint32_t index)
{
    p->duel.shadow[victim] = OUTSIDE;
    p->duel.shadow[index] = INSIDE;
    if (p->promotes)
        score(&p->duel, -UPLOAD_PRICE);
}

/* The layer has run: its misses get their places, as far as the shadow uploads at every miss. */
static void settle(struct policy *p)
{
    struct duel *d = &p->duel;
    uint8_t *layer = d->shadow + (size_t)d->layer * p->n_experts;
    const bool uploads = !p->promotes || d->measure == POLICY_HEAT;
    for (uint32_t i = 0; i < p->n_experts; i++) {
        if (layer[i] != WANTED)
            continue;
        const uint32_t victim = uploads ? shadow_victim(p) : POLICY_NONE;
        layer[i] = OUTSIDE;
        if (victim != POLICY_NONE) {
            replace_in_shadow(p, victim, d->layer * p->n_experts + i);
            layer[i] = PINNED;
        }
    }
    for (uint32_t i = 0; i < p->n_experts; i++)
        layer[i] = layer[i] == PINNED ? INSIDE : layer[i];
}

static void count_for_duel(struct policy *p, uint32_t index)
{
    struct duel *d = &p->duel;
    if (index / p->n_experts != d->layer)
        settle(p);
    d->layer = index / p->n_experts;
    const bool hit = p->slot_of[index] != POLICY_NONE, shadow_hit = d->shadow[index] == INSIDE;
    if (hit != shadow_hit)
        score(d, shadow_hit ? 1 : -1);
    d->shadow[index] = shadow_hit ? PINNED : WANTED;
}

/* The shadow has proved to be better, beyond chance. What it lost before it began to gain does not count. */
static void change_places(struct policy *p)
{
    struct duel *d = &p->duel;
    if (d->lead < 0)
        d->lead = d->spread = 0;
    if (d->lead == 0 || d->lead * d->lead < CERTAINTY * d->spread)
        return;
    d->measure = other(d->measure);
    d->lead = d->spread = 0;
    cast_shadow(p);
}

static float decayed(float heat)
{
    return heat < FORGOTTEN ? 0 : heat * DECAY;
}

void policy_begin(struct policy *p, uint32_t n_tokens)
{
    const bool is_prompt = n_tokens > 1;
    settle(p);
    change_places(p);
    if (p->duel.is_stale)
        cast_shadow(p);
    p->duel.is_stale = is_prompt;
    p->promotes = false;
    memset(p->held, 0, p->n_slots * sizeof(*p->held));
    memset(p->open, 0, p->n_slots * sizeof(*p->open));
    p->n_to_open = is_prompt ? PROMPT_LAYERS * p->n_experts : p->n_slots;
    p->n_promotions = PROMOTIONS_PER_TOKEN;
    p->n_steps++;
    for (uint32_t i = 0; !is_prompt && i < n_all(p); i++) {
        p->heat[i] = decayed(p->heat[i]);
        p->learned[i] = decayed(p->learned[i]);
    }
}

void policy_count(struct policy *p, uint32_t index, uint32_t n_uses, uint32_t n_tokens)
{
    if (n_tokens == 1)
        count_for_duel(p, index);
    p->heat[index] += n_tokens == 1 ? 1 : PROMPT_USES * (float)n_uses / (float)n_tokens;
    p->used_at[index] = p->n_steps;
}

uint32_t policy_victim(const struct policy *p)
{
    uint32_t best = POLICY_NONE;
    double least = 0;
    for (uint32_t i = 0; i < p->n_slots; i++) {
        if (p->held[i] || (!p->open[i] && !p->n_to_open))
            continue;
        if (p->owner[i] == POLICY_NONE)
            return i;
        const double worth = value(p, p->duel.measure, p->owner[i]);
        if (best == POLICY_NONE || worth < least) {
            best = i;
            least = worth;
        }
    }
    return best;
}

uint32_t policy_n_free(const struct policy *p, const uint32_t *kept, uint32_t n_kept)
{
    uint32_t n_open = 0, n_closed = 0;
    for (uint32_t i = 0; i < p->n_slots; i++)
        *(p->open[i] ? &n_open : &n_closed) += !p->held[i];
    for (uint32_t i = 0; i < n_kept; i++)
        *(p->open[kept[i]] ? &n_open : &n_closed) -= !p->held[kept[i]];
    return n_open + (n_closed < p->n_to_open ? n_closed : p->n_to_open);
}

/* Has `index` earned the place of `victim`? Counts the promotion if it is one of the few that a token may make. */
static bool earns(const struct policy *p, enum policy_measure m, uint32_t index, uint32_t victim, uint32_t *n_left)
{
    if (m == POLICY_RECENCY)
        return value(p, m, index) > value(p, m, victim);
    if (p->heat[victim] == 0)
        return true;
    if (*n_left == 0 || value(p, m, index) < ADVANTAGE * value(p, m, victim))
        return false;
    --*n_left;
    return true;
}

static uint32_t most_valuable_outside(const struct policy *p, enum policy_measure m, bool shadow)
{
    uint32_t best = POLICY_NONE;
    double most = 0;
    for (uint32_t i = 0; i < n_all(p); i++) {
        const bool is_in = shadow ? p->duel.shadow[i] == INSIDE : p->slot_of[i] != POLICY_NONE;
        if (is_in || p->heat[i] == 0 || value(p, m, i) <= most)
            continue;
        best = i;
        most = value(p, m, i);
    }
    return best;
}

static void promote_in_shadow(struct policy *p)
{
    const enum policy_measure m = other(p->duel.measure);
    uint32_t n_left = PROMOTIONS_PER_TOKEN;
    while (m == POLICY_HEAT) {
        const uint32_t index = most_valuable_outside(p, m, true), victim = shadow_victim(p);
        if (index == POLICY_NONE || victim == POLICY_NONE || !earns(p, m, index, victim, &n_left))
            break;
        replace_in_shadow(p, victim, index);
    }
}

bool policy_promote(struct policy *p, uint32_t *index, uint32_t *slot)
{
    if (!p->promotes) {
        p->promotes = true;
        promote_in_shadow(p);
    }
    change_places(p);
    const enum policy_measure m = p->duel.measure;
    *index = most_valuable_outside(p, m, false);
    *slot = policy_victim(p);
    if (*index == POLICY_NONE || *slot == POLICY_NONE)
        return false;
    if (p->owner[*slot] == POLICY_NONE)
        return true;
    if (!earns(p, m, *index, p->owner[*slot], &p->n_promotions))
        return false;
    score(&p->duel, UPLOAD_PRICE);
    return true;
}

struct candidate {
    double value;
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
        candidates[i] = (struct candidate){p->heat[i] > 0 ? value(p, POLICY_HEAT, i) : 0,
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
    if (p->owner[slot] != POLICY_NONE)
        p->slot_of[p->owner[slot]] = POLICY_NONE;
    p->owner[slot] = POLICY_NONE;
}

void policy_place(struct policy *p, uint32_t index, uint32_t slot)
{
    policy_vacate(p, slot);
    if (!p->open[slot] && p->n_to_open)
        p->n_to_open--;
    p->open[slot] = true;
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
