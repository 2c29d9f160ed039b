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

enum { LAYERS = 3, EXPERTS = 6, ALL = LAYERS * EXPERTS, TOKENS = 600, PROMPT_EVERY = 90, N_SEEDS = 12 };

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

struct lru {
    bool has[ALL];
    uint64_t used[ALL], clock;
    uint32_t n_hits;
};

static void lru_use(struct lru *x, uint32_t layer, const bool *chosen, bool counts)
{
    uint64_t *used = x->used + layer * EXPERTS;
    bool *has = x->has + layer * EXPERTS;
    for (uint32_t i = 0; i < EXPERTS; i++)
        if (chosen[i]) {
            used[i] = ++x->clock;
            x->n_hits += counts && has[i];
        }
    for (uint32_t i = 0; i < EXPERTS; i++) {
        uint32_t oldest = ALL;
        for (uint32_t k = 0; k < ALL && chosen[i] && !has[i]; k++)
            if (x->has[k] && (oldest == ALL || x->used[k] < x->used[oldest]))
                oldest = k;
        if (oldest < ALL) {
            x->has[oldest] = false;
            has[i] = true;
        }
    }
}

/* The layer's uses as the runtime tells them, misses uploaded; returns the hits. */
static uint32_t policy_use(struct policy *p, uint32_t layer, const bool *chosen, uint32_t n_tokens)
{
    uint32_t n_hits = 0;
    for (uint32_t i = 0, index = layer * EXPERTS; i < EXPERTS; i++, index++)
        if (chosen[i]) {
            n_hits += p->slot_of[index] != POLICY_NONE;
            policy_count(p, index, 1, n_tokens);
            if (p->slot_of[index] != POLICY_NONE)
                policy_hold(p, p->slot_of[index]);
        }
    for (uint32_t i = 0, index = layer * EXPERTS; i < EXPERTS; i++, index++)
        if (chosen[i] && p->slot_of[index] == POLICY_NONE) {
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

static void test_lru(void **state)
{
    (void)state;
    uint32_t n_trusted = 0;
    for (uint64_t s = 1; s <= N_SEEDS; s++)
        for (uint32_t n_slots = EXPERTS; n_slots < ALL; n_slots += 3) {
            struct policy p;
            struct lru lru = {0};
            struct sc_error e = {0};
            uint64_t seed = s;
            uint32_t n_hits = 0;
            assert_true(policy_init(&p, LAYERS, EXPERTS, n_slots, &e));
            for (uint32_t i = 0; i < n_slots; i++) {
                policy_place(&p, i, i);
                lru.has[i] = true;
            }
            for (uint32_t t = 0; t < TOKENS; t++) {
                const bool is_prompt = t % PROMPT_EVERY == 0;
                policy_begin(&p, is_prompt ? 5 : 1);
                for (uint32_t l = 0; l < LAYERS; l++) {
                    bool chosen[EXPERTS];
                    choose(chosen, is_prompt ? 5 : 2, t, l, &seed);
                    const uint32_t n = policy_use(&p, l, chosen, is_prompt ? 5 : 1);
                    n_hits += is_prompt ? 0 : n;
                    lru_use(&lru, l, chosen, !is_prompt);
                }
                duel_settle(&p);
                uint32_t n_away = 0;
                for (uint32_t i = 0; i < ALL; i++) {
                    if (ranking_has(&p.duel.lru, i) != lru.has[i])
                        fail_msg("seed %u, %u slots, pass %u: expert %u", (unsigned)s, n_slots, t, i);
                    n_away += lru.has[i] && p.slot_of[i] == POLICY_NONE;
                }
                const double won = (double)n_hits - lru.n_hits;
                if (p.duel.n_away != n_away || p.duel.won < won || p.duel.won > won)
                    fail_msg("seed %u, %u slots, pass %u: %u away and %.0f won, not %u and %.0f", (unsigned)s, n_slots,
                             t, n_away, won, p.duel.n_away, p.duel.won);
                n_trusted += p.duel.is_trusted;
            }
            policy_finish(&p);
        }
    assert_true(n_trusted > 1000); /* else it was LRU all the time */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ranking), cmocka_unit_test(test_lru)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
