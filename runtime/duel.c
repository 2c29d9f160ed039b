/* SPDX-License-Identifier: Apache-2.0 */
#include "duel.h"

#include <stdlib.h>

#include "policy.h"

static const int UPLOAD_PRICE = 3; /* in hits, where a miss can do without */
static const float CERTAINTY = 9;  /* three standard deviations, squared */
static const float STAKE = 0.5f;   /* of a proved lead: if that is real, 1 trial in 8000 loses so much by chance */
static const double AWAY = 0.25;   /* of a hit: what an expert may cost that LRU would have and the cache has not */

bool duel_init(struct duel *d, uint32_t n_layers, uint32_t n_experts, struct sc_error *e)
{
    d->is_stale = true;
    d->uses = calloc(n_experts, sizeof(*d->uses));
    return (d->uses || sc_fail_memory(e, "the policy of the expert slots")) &&
           ranking_init(&d->lru, n_layers * n_experts, e) && ranking_init(&d->shadow, n_layers * n_experts, e);
}

void duel_finish(struct duel *d)
{
    ranking_finish(&d->lru);
    ranking_finish(&d->shadow);
    free(d->uses);
    *d = (struct duel){0};
}

static uint32_t n_all(const struct policy *p)
{
    return p->n_layers * p->n_experts;
}

static bool has_slot(const struct policy *p, uint32_t index)
{
    return p->slot_of[index] != POLICY_NONE;
}

static void set_or_remove(struct ranking *r, uint32_t index, bool is_in, uint64_t worth)
{
    if (is_in)
        ranking_set(r, index, worth);
    else
        ranking_remove(r, index);
}

/* ---- plain LRU ---- */

static void lru_takes(struct policy *p, uint32_t index)
{
    struct duel *d = &p->duel;
    if (d->lru.n_members == p->n_slots) {
        const uint32_t victim = ranking_least(&d->lru);
        d->n_away -= !has_slot(p, victim);
        ranking_remove(&d->lru, victim);
    }
    d->n_away += !has_slot(p, index);
    ranking_set(&d->lru, index, policy_worth(p, POLICY_RECENCY, index));
}

static void lru_begins(struct policy *p)
{
    for (uint32_t i = 0; i < n_all(p); i++)
        set_or_remove(&p->duel.lru, i, has_slot(p, i), policy_worth(p, POLICY_RECENCY, i));
    p->duel.n_away = 0;
    p->duel.has_lru = true;
}

void duel_forget(struct policy *p)
{
    struct duel *d = &p->duel;
    for (uint32_t i = 0; i < n_all(p); i++)
        ranking_remove(&d->lru, i);
    d->n_uses = d->n_settled = d->n_away = 0;
    d->has_lru = false;
    d->is_stale = true;
}

/* ---- the shadow ---- */

static void cast_shadow(struct policy *p)
{
    for (uint32_t i = 0; i < n_all(p); i++)
        set_or_remove(&p->duel.shadow, i, has_slot(p, i), policy_worth(p, POLICY_HEAT, i));
    p->duel.shadow_pass = p->n_steps;
    p->duel.is_stale = false;
}

/* The shadow has gained so much on what was done, or lost. */
static void score(struct duel *d, float gain)
{
    d->lead += gain;
    d->spread += gain * gain;
}

/* Whom the shadow would give up; POLICY_NONE: none. All cool at different rates, but not within a pass. */
static uint32_t shadow_victim(struct policy *p)
{
    struct duel *d = &p->duel;
    for (uint32_t i = 0; d->shadow_pass != p->n_steps && i < n_all(p); i++)
        if (ranking_has(&d->shadow, i))
            ranking_set(&d->shadow, i, policy_worth(p, POLICY_HEAT, i));
    d->shadow_pass = p->n_steps;
    return ranking_least(&d->shadow);
}

static void trust(struct duel *d, float stake)
{
    d->is_trusted = true;
    d->stake = stake;
}

/* Has the shadow proved to be better, beyond chance? What it lost before it began to gain does not count. */
static void weigh(struct duel *d)
{
    if (d->is_trusted)
        return;
    if (d->lead < 0)
        d->lead = d->spread = 0;
    if (d->lead > 0 && d->lead * d->lead >= CERTAINTY * d->spread && d->won + (double)(STAKE * d->lead) >= AWAY)
        trust(d, STAKE * d->lead);
}

void duel_promote_in_shadow(struct policy *p)
{
    struct duel *d = &p->duel;
    uint32_t n_left = POLICY_PROMOTIONS_PER_TOKEN;
    while (d->has_lru && !d->is_trusted) {
        const uint32_t victim = shadow_victim(p), index = policy_hottest_but(p, &d->shadow);
        if (index == POLICY_NONE || victim == POLICY_NONE || !policy_earns(p, POLICY_HEAT, index, victim, &n_left))
            break;
        ranking_remove(&d->shadow, victim);
        ranking_set(&d->shadow, index, policy_worth(p, POLICY_HEAT, index));
        score(d, -(float)UPLOAD_PRICE);
    }
    weigh(d);
}

/* ---- both ---- */

void duel_settle(struct policy *p)
{
    struct duel *d = &p->duel;
    if (!d->n_uses)
        return;
    for (uint32_t i = 0; i < d->n_uses; i++) {
        struct duel_use *use = &d->uses[i];
        if (use->lru_missed)
            lru_takes(p, use->index);
        if (!use->shadow_missed || p->promotes)
            continue;
        const uint32_t victim = shadow_victim(p); /* of those that the layer has no use for */
        use->shadow_used = victim != POLICY_NONE;
        if (use->shadow_used)
            ranking_remove(&d->shadow, victim);
    }
    for (uint32_t i = 0; i < d->n_uses; i++)
        if (d->uses[i].shadow_used)
            ranking_set(&d->shadow, d->uses[i].index, policy_worth(p, POLICY_HEAT, d->uses[i].index));
    d->n_settled = d->n_uses;
    d->n_uses = 0;
}

void duel_count(struct policy *p, uint32_t index, bool is_decode)
{
    struct duel *d = &p->duel;
    if (!d->has_lru)
        return;
    if (index / p->n_experts != d->layer || d->n_uses == p->n_experts)
        duel_settle(p);
    d->layer = index / p->n_experts;
    const bool hit = has_slot(p, index), lru_hit = ranking_has(&d->lru, index);
    struct duel_use *use = &d->uses[d->n_uses++];
    *use = (struct duel_use){.index = index, .lru_missed = !lru_hit};
    if (lru_hit)
        ranking_set(&d->lru, index, policy_worth(p, POLICY_RECENCY, index));
    if (!is_decode)
        return;
    d->won += hit - lru_hit + (p->promotes && !lru_hit ? UPLOAD_PRICE : 0);
    if (d->is_trusted)
        return;
    use->shadow_used = ranking_has(&d->shadow, index);
    use->shadow_missed = !use->shadow_used;
    if (hit != use->shadow_used)
        score(d, hit ? -1 : 1);
    ranking_remove(&d->shadow, index);
}

void duel_leave(struct duel *d, uint32_t index)
{
    d->n_away += ranking_has(&d->lru, index);
}

void duel_arrive(struct duel *d, uint32_t index)
{
    d->n_away -= ranking_has(&d->lru, index);
}

void duel_trust(struct policy *p)
{
    trust(&p->duel, (float)p->n_slots);
}

void duel_pay(struct duel *d)
{
    d->won -= UPLOAD_PRICE;
    score(d, (float)UPLOAD_PRICE);
    weigh(d);
}

bool duel_may_stray(struct policy *p)
{
    struct duel *d = &p->duel;
    if (!d->is_trusted)
        return false;
    uint32_t n_away = d->n_away;
    for (uint32_t i = 0; i < d->n_settled; i++) /* but those who get their slots now */
        n_away -= ranking_has(&d->lru, d->uses[i].index) && !has_slot(p, d->uses[i].index);
    const double won = d->won - AWAY * n_away;
    if (won >= (double)d->stake)
        d->stake = 0;
    return won + (double)d->stake >= AWAY;
}

void duel_begin(struct policy *p, bool is_prompt)
{
    struct duel *d = &p->duel;
    duel_settle(p);
    d->n_settled = 0;
    if (!d->has_lru && !p->n_empty)
        lru_begins(p);
    weigh(d);
    if (d->is_trusted) {
        d->is_trusted = d->n_away > 0 || duel_may_stray(p);
        d->is_stale = true;
        d->lead = d->spread = 0;
    }
    if (d->has_lru && !d->is_trusted && d->is_stale)
        cast_shadow(p);
    d->is_stale = d->is_stale || is_prompt; /* a prompt makes room as the shadow would not */
}
