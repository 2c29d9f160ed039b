/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the policy knows of plain LRU is exactly what plain LRU does, and the ranking under both is what a search would
 * find.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "policy.h"
#include "random_blocks.h"

enum {
    LAYERS = 3,
    EXPERTS = 6,
    ALL = LAYERS * EXPERTS,
    TOKENS = 600,
    PROMPT_EVERY = 90,
    FAILURE_EVERY = 250,
    N_SEEDS = 12
};

static void test_ranking(void **state)
{
    enum { N = 37, STEPS = 4000 };
    uint64_t seed = 3, worth[N];
    bool is_in[N] = {false};
    struct ranking r;
    struct sc_error e = {0};
    (void)state;
    assert_true(ranking_init(&r, N, &e));
    for (uint32_t step = 0; step < STEPS; step++) {
        const uint32_t i = (uint32_t)(random_u64(&seed) % N);
        is_in[i] = random_u64(&seed) % 3 != 0;
        worth[i] = random_u64(&seed) % 20; /* many are equal */
        if (is_in[i])
            ranking_set(&r, i, worth[i]);
        else
            ranking_remove(&r, i);
        uint32_t least = RANKING_NONE;
        for (uint32_t k = 0; k < N; k++) {
            if (ranking_has(&r, k) != is_in[k])
                fail_msg("step %u: %u", step, k);
            if (is_in[k] && (least == RANKING_NONE || worth[k] < worth[least]))
                least = k;
        }
        if (ranking_least(&r) != least)
            fail_msg("step %u: %u, not %u", step, ranking_least(&r), least);
    }
    ranking_finish(&r);
}

/* Plain LRU, by searching; its slots are full. */
struct lru {
    bool has[ALL], has_begun;
    uint64_t used[ALL], clock;
    int n_hits, n_uploads; /* of decode */
};

static void lru_use(struct lru *x, uint32_t layer, const bool *chosen, bool counts)
{
    uint64_t *used = x->used + layer * EXPERTS;
    bool *has = x->has + layer * EXPERTS;
    for (uint32_t i = 0; i < EXPERTS; i++)
        if (chosen[i]) {
            used[i] = ++x->clock;
            x->n_hits += counts && x->has_begun && has[i];
            x->n_uploads += counts && x->has_begun && !has[i];
        }
    for (uint32_t i = 0; i < EXPERTS; i++) {
        uint32_t oldest = ALL;
        for (uint32_t k = 0; k < ALL && x->has_begun && chosen[i] && !has[i]; k++)
            if (x->has[k] && (oldest == ALL || x->used[k] < x->used[oldest]))
                oldest = k;
        if (oldest < ALL) {
            x->has[oldest] = false;
            has[i] = true;
        }
    }
}

/* The layer's uses as the runtime tells them; returns the hits. */
static int policy_use(struct policy *p, uint32_t layer, const bool *chosen, uint32_t n_tokens, bool uploads)
{
    int n_hits = 0;
    for (uint32_t i = 0, index = layer * EXPERTS; i < EXPERTS; i++, index++)
        if (chosen[i]) {
            n_hits += p->slot_of[index] != POLICY_NONE;
            policy_count(p, index, 1, n_tokens);
            if (p->slot_of[index] != POLICY_NONE)
                policy_hold(p, p->slot_of[index]);
        }
    for (uint32_t i = 0, index = layer * EXPERTS; i < EXPERTS; i++, index++)
        if (uploads && chosen[i] && p->slot_of[index] == POLICY_NONE) {
            const uint32_t slot = policy_victim(p, index);
            assert_true(slot != POLICY_NONE);
            policy_place(p, index, slot);
            policy_hold(p, slot);
        }
    policy_release(p, layer);
    return n_hits;
}

/* A few experts of a layer are the usual ones, for a while. */
static void choose(bool *chosen, uint32_t n, uint32_t t, uint32_t layer, uint64_t *seed)
{
    memset(chosen, 0, EXPERTS * sizeof(*chosen));
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t usual = t / 150 + layer + (uint32_t)(random_u64(seed) % 2);
        chosen[(random_u64(seed) % 4 ? usual : (uint32_t)random_u64(seed)) % EXPERTS] = true;
    }
}

struct duel_case {
    uint64_t seed;
    uint32_t n_slots;
    bool promotes; /* the CPU computes decode's misses; else they are uploaded */
};

/* The policy and LRU side by side: what became of each, by counting. */
struct trial {
    struct policy p;
    struct lru lru;
    int n_hits, n_paid, n_trusted; /* of decode while LRU plays */
};

static void trial_init(struct trial *t, uint32_t n_slots)
{
    struct sc_error e = {0};
    *t = (struct trial){0};
    assert_true(policy_init(&t->p, LAYERS, EXPERTS, n_slots, &e));
    for (uint32_t i = 0; i < n_slots; i++)
        policy_place(&t->p, i, i);
}

/* LRU begins, and begins anew, with what the full cache has. */
static void lru_begin(struct trial *t)
{
    if (t->lru.has_begun || t->p.n_empty)
        return;
    for (uint32_t i = 0; i < ALL; i++)
        t->lru.has[i] = t->p.slot_of[i] != POLICY_NONE;
    t->lru.has_begun = true;
}

static void promote(struct trial *t)
{
    uint32_t index, slot;
    while (policy_promote(&t->p, &index, &slot)) {
        t->n_paid += t->p.owner[slot] != POLICY_NONE;
        policy_place(&t->p, index, slot);
    }
}

static void check_trial(struct trial *t, const struct duel_case *c, uint32_t pass)
{
    enum { PRICE = 3 };
    const struct duel *d = &t->p.duel;
    uint32_t n_away = 0;
    duel_settle(&t->p);
    for (uint32_t i = 0; i < ALL; i++) {
        const bool has = t->lru.has_begun && t->lru.has[i];
        if (ranking_has(&d->lru, i) != has)
            fail_msg("seed %u, %u slots, pass %u: expert %u", (unsigned)c->seed, c->n_slots, pass, i);
        n_away += has && t->p.slot_of[i] == POLICY_NONE;
    }
    const int saved = c->promotes ? PRICE * (t->lru.n_uploads - t->n_paid) : 0;
    const double won = t->n_hits - t->lru.n_hits + saved;
    if (d->n_away != n_away || d->won < won || d->won > won)
        fail_msg("seed %u, %u slots, %s, pass %u: %u away and %.0f won, not %u and %.0f", (unsigned)c->seed, c->n_slots,
                 c->promotes ? "promotions" : "uploads", pass, n_away, won, d->n_away, d->won);
    t->n_trusted += d->is_trusted;
}

/* Returns for how many passes heat was trusted. Twice an upload fails, and all slots are empty. */
static int play(const struct duel_case *c)
{
    struct trial t;
    uint64_t seed = c->seed;
    trial_init(&t, c->n_slots);
    for (uint32_t pass = 0; pass < TOKENS; pass++) {
        const bool is_prompt = pass % PROMPT_EVERY == 0;
        const uint32_t n_tokens = is_prompt ? 5 : 1;
        if (pass % FAILURE_EVERY == FAILURE_EVERY - 1) {
            policy_forget(&t.p);
            t.lru.has_begun = false;
        }
        lru_begin(&t);
        policy_begin(&t.p, n_tokens);
        if (c->promotes && !is_prompt)
            promote(&t);
        for (uint32_t l = 0; l < LAYERS; l++) {
            bool chosen[EXPERTS];
            choose(chosen, is_prompt ? 5 : 2, pass, l, &seed);
            const int n = policy_use(&t.p, l, chosen, n_tokens, is_prompt || !c->promotes);
            lru_use(&t.lru, l, chosen, !is_prompt);
            t.n_hits += t.lru.has_begun && !is_prompt ? n : 0;
        }
        check_trial(&t, c, pass);
    }
    policy_finish(&t.p);
    return t.n_trusted;
}

static void check_duels(bool promotes)
{
    int n_trusted = 0;
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++)
        for (uint32_t n_slots = EXPERTS; n_slots < ALL; n_slots += 3)
            n_trusted += play(&(struct duel_case){seed, n_slots, promotes});
    assert_true(n_trusted > 1000); /* else it was LRU all the time */
}

static void test_uploads(void **state)
{
    (void)state;
    check_duels(false);
}

static void test_promotions(void **state)
{
    (void)state;
    check_duels(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ranking), cmocka_unit_test(test_uploads),
                                       cmocka_unit_test(test_promotions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
