/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policy of the expert slots: small cases whose answer is known, recorded routing on which it must not lose to LRU
 * and come near to the optimum, and that optimum against all possibilities. And the traces as hostile files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "belady.h"
#include "policy.h"
#include "random_blocks.h"
#include "replay.h"

static const char *const traces[] = {SCORIA_TEST_VECTORS "/routing-story.trace",
                                     SCORIA_TEST_VECTORS "/routing-licence.trace"};
enum { N_TRACES = sizeof traces / sizeof traces[0] };

static struct policy make(uint32_t n_layers, uint32_t n_experts, uint32_t n_slots)
{
    struct policy p;
    struct sc_error e = {0};
    if (!policy_init(&p, n_layers, n_experts, n_slots, &e))
        fail_msg("%s", e.text);
    duel_trust(&p);
    p.duel.stake = 1e6f; /* heat decides, whatever LRU has */
    return p;
}

/* A token that uses these experts, promotions first; returns how many were made. */
static uint32_t step(struct policy *p, const uint32_t *used, uint32_t n_used)
{
    uint32_t n = 0, index, slot;
    policy_begin(p, 1);
    for (; policy_promote(p, &index, &slot); n++)
        policy_place(p, index, slot);
    for (uint32_t i = 0; i < n_used; i++)
        policy_count(p, used[i], 1, 1);
    return n;
}

static bool has(const struct policy *p, uint32_t index)
{
    return p->slot_of[index] != POLICY_NONE;
}

static void test_promotion(void **state)
{
    (void)state;
    struct policy p = make(1, 6, 2);
    assert_int_equal(step(&p, (uint32_t[]){0, 1}, 2), 0);
    for (uint32_t i = 0; i < 20; i++) /* what was used gets the empty slots at once */
        assert_int_equal(step(&p, (uint32_t[]){0, 1}, 2), i == 0 ? 2 : 0);
    assert_true(has(&p, 0) && has(&p, 1));

    /* others must earn their place: not with the first use, and not two with the same token */
    uint32_t first = 0, second = 0;
    for (uint32_t i = 1; i <= 60 && !second; i++) {
        const uint32_t n = step(&p, (uint32_t[]){2, 3}, 2);
        assert_true(n <= 1);
        if (n && !first)
            first = i;
        else if (n)
            second = i;
    }
    assert_true(first > 5 && second > first);
    assert_true(has(&p, 2) && has(&p, 3));

    /* one that alternates with them leaves the slots as they are */
    for (uint32_t i = 0; i < 40; i++)
        assert_int_equal(step(&p, i % 4 ? (uint32_t[]){2, 3} : (uint32_t[]){2, 4}, 2), 0);
    policy_finish(&p);
}

/* A use counts half after some 70 tokens, and nothing after a thousand. */
static void test_forgetting(void **state)
{
    (void)state;
    struct policy p = make(1, 4, 2);
    policy_count(&p, 3, 1, 1);
    for (uint32_t i = 0; i < 70; i++)
        policy_begin(&p, 1);
    assert_true(p.heat[3] > 0.45f && p.heat[3] < 0.55f);
    policy_begin(&p, 20); /* a prompt is no time */
    assert_true(p.heat[3] > 0.45f);
    for (uint32_t i = 0; i < 1000; i++)
        policy_begin(&p, 1);
    assert_true(p.heat[3] == 0);
    policy_finish(&p);
}

/* A slot whose expert was never used is as good as an empty one. */
static void test_unused(void **state)
{
    (void)state;
    struct policy p = make(1, 6, 3);
    for (uint32_t i = 0; i < 3; i++)
        policy_place(&p, i, i);
    step(&p, (uint32_t[]){4, 5}, 2);
    assert_int_equal(step(&p, (uint32_t[]){4, 5}, 2), 2);
    assert_true(has(&p, 4) && has(&p, 5));
    policy_finish(&p);
}

static void test_demand(void **state)
{
    (void)state;
    struct policy p = make(2, 6, 3);
    const uint32_t uses[] = {5, 1, 2}; /* so many of expert i */
    for (uint32_t i = 0; i < 3; i++) {
        policy_place(&p, i, i);
        for (uint32_t n = 0; n < uses[i]; n++)
            policy_count(&p, i, 1, 1);
    }
    assert_int_equal(policy_victim(&p, 3), 1);
    policy_hold(&p, 1);
    assert_int_equal(policy_n_free(&p, NULL, 0), 2);
    assert_int_equal(policy_victim(&p, 3), 2);
    policy_hold(&p, 2);
    policy_hold(&p, 0);
    assert_int_equal(policy_victim(&p, 3), POLICY_NONE);
    policy_release(&p, 1); /* another layer's */
    assert_int_equal(policy_victim(&p, 3), POLICY_NONE);
    policy_release(&p, 0);
    assert_int_equal(policy_victim(&p, 3), 1);
    policy_hold(&p, 1);
    policy_begin(&p, 1); /* a new pass holds nothing */
    assert_int_equal(policy_victim(&p, 3), 1);
    policy_vacate(&p, 2); /* empty slots go first */
    assert_int_equal(policy_victim(&p, 3), 2);
    policy_finish(&p);
}

/* A prompt may have the slots of two layers' experts, the least valuable ones. */
static void test_prompt(void **state)
{
    (void)state;
    enum { LAYERS = 5, EXPERTS = 4, SLOTS = 18 };
    struct policy p = make(LAYERS, EXPERTS, SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++) {
        policy_place(&p, i, i);
        for (uint32_t n = 0; n < (i * 7) % SLOTS; n++)
            policy_count(&p, i, 1, 1);
    }
    policy_begin(&p, 100);
    assert_int_equal(policy_n_free(&p, NULL, 0), 2 * EXPERTS);
    assert_int_equal(policy_n_free(&p, (uint32_t[]){3, 5}, 2), 2 * EXPERTS);
    uint32_t outside = SLOTS;
    for (uint32_t n = 0; n < 2 * EXPERTS; n++) {
        const uint32_t slot = policy_victim(&p, outside), left = p.owner[slot];
        assert_int_equal((slot * 7) % SLOTS, n);
        policy_place(&p, outside, slot);
        policy_hold(&p, slot);
        outside = left;
    }
    assert_int_equal(policy_n_free(&p, NULL, 0), 0);
    assert_int_equal(policy_victim(&p, 3), POLICY_NONE);
    policy_release(&p, LAYERS - 1); /* what it has it may use again */
    assert_in_range(policy_n_free(&p, NULL, 0), 1, EXPERTS);
    assert_true(p.open[policy_victim(&p, 3)]);
    policy_begin(&p, 1);
    assert_int_equal(policy_n_free(&p, NULL, 0), SLOTS);

    /* layers that it has computed give way before those to come, whose coldest expert goes if there is none else */
    policy_begin(&p, 100);
    outside = 0;
    while (has(&p, outside))
        outside++;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        uint32_t has_some = 0, last = 0;
        for (uint32_t i = 0; i < LAYERS * EXPERTS; i++)
            if (has(&p, i)) {
                has_some += i / EXPERTS == layer;
                last = i / EXPERTS;
            }
        const uint32_t slot = policy_victim(&p, layer * EXPERTS), of = p.owner[slot] / EXPERTS;
        assert_int_equal(of, has_some ? layer : last);
        for (uint32_t i = layer * EXPERTS; i < (layer + 1) * EXPERTS; i++)
            if (has(&p, i)) {
                assert_true(!has_some || p.heat[i] >= p.heat[p.owner[slot]]);
                policy_hold(&p, p.slot_of[i]);
            }
    }
    policy_begin(&p, 1);

    /* its popularity counts, but no more than a few uses */
    policy_begin(&p, 100);
    const float before = p.heat[0];
    policy_count(&p, 0, 100, 100);
    assert_true(p.heat[0] > before + 1 && p.heat[0] < before + 10);
    policy_finish(&p);
}

static void test_traces(void **state)
{
    (void)state;
    for (size_t t = 0; t < N_TRACES; t++) {
        struct routing_file r;
        struct sc_error e = {0};
        if (!routing_file_init(&r, traces[t], &e))
            fail_msg("%s", e.text);
        const uint32_t all = r.n_layers * r.n_experts;
        for (enum replay_path path = 0; path < REPLAY_N_PATHS; path++)
            for (uint32_t n = r.n_used; n < all; n += 3) {
                struct replay x[REPLAY_N_CACHES] = {0};
                for (enum replay_cache c = 0; c < REPLAY_N_CACHES; c++)
                    if (!replay_run(&r, path, c, n, &x[c], &e))
                        fail_msg("%s", e.text);
                const struct replay *o = &x[REPLAY_OURS], *l = &x[REPLAY_LRU];
                const bool not_below = path == REPLAY_PROMOTE
                                           ? o->n_hits >= l->n_hits
                                           : o->n_uploads + o->n_prompt_uploads <= l->n_uploads + l->n_prompt_uploads;
                const double ours = (double)x[REPLAY_OURS].n_hits, lru = (double)x[REPLAY_LRU].n_hits,
                             priced = (double)x[REPLAY_PRICED].n_hits, belady = (double)x[REPLAY_BELADY].n_hits;
                if (!not_below || !(lru <= belady) || (path == REPLAY_PROMOTE && !(ours >= 0.8 * priced)) ||
                    (n >= all / 2 && !(ours >= 0.8 * belady)))
                    fail_msg("%s, path %d, %u slots: %.0f hits, LRU %.0f, priced optimum %.0f, Belady %.0f", traces[t],
                             path, n, ours, lru, priced, belady);
                if (path == REPLAY_PROMOTE)
                    assert_true(x[REPLAY_OURS].n_uploads < x[REPLAY_OURS].n_tokens + n);
            }
        routing_file_finish(&r);
    }
}

/* Routing that nobody recorded: what kinds there are, and a trace in memory. */
enum kind { UNIFORM, POPULAR, STICKY, CIRCLE, CHANGING, BAIT, N_KINDS };
enum { MADE_LAYERS = 4, MADE_EXPERTS = 8, MADE_USED = 2, MADE_TOKENS = 500, MADE_ALL = MADE_LAYERS * MADE_EXPERTS };

struct made {
    struct routing_file file;
    struct routing_pass passes[MADE_TOKENS];
    uint8_t ids[MADE_TOKENS][MADE_LAYERS][MADE_USED];
};

/* An expert of the layer that few others are as likely as. */
static uint8_t popular(uint64_t *seed, uint32_t layer, uint32_t first)
{
    const uint32_t a = random_u64(seed) % MADE_EXPERTS, b = random_u64(seed) % MADE_EXPERTS,
                   c = random_u64(seed) % MADE_EXPERTS, least = a < b ? a : b;
    return (uint8_t)(((least < c ? least : c) + layer + first) % MADE_EXPERTS);
}

static uint8_t made_id(const struct made *m, enum kind kind, uint32_t t, uint32_t l, uint32_t k, uint64_t *seed)
{
    if (kind == BAIT) /* what is popular for a while, and then the opposite */
        kind = t < 60 ? POPULAR : STICKY;
    switch (kind) {
    case POPULAR: return popular(seed, l, 0);
    case CHANGING: return popular(seed, l, t / 100 * 3);
    case STICKY:
        if (t && random_u64(seed) % 10)
            return m->ids[t - 1][l][k];
        break;
    case CIRCLE: return (uint8_t)((t * MADE_USED + k) % MADE_EXPERTS);
    default: break;
    }
    return (uint8_t)(random_u64(seed) % MADE_EXPERTS);
}

static void make_routing(struct made *m, enum kind kind, uint64_t seed)
{
    m->file = (struct routing_file){.n_layers = MADE_LAYERS,
                                    .n_experts = MADE_EXPERTS,
                                    .n_used = MADE_USED,
                                    .passes = m->passes,
                                    .n_passes = MADE_TOKENS};
    for (uint32_t t = 0; t < MADE_TOKENS; t++) {
        m->passes[t] = (struct routing_pass){.n_tokens = 1, .ids = &m->ids[t][0][0]};
        for (uint32_t l = 0; l < MADE_LAYERS; l++)
            for (uint32_t k = 0; k < MADE_USED; k++) {
                uint8_t id = made_id(m, kind, t, l, k, &seed);
                while (k && id == m->ids[t][l][0])
                    id = (uint8_t)(random_u64(&seed) % MADE_EXPERTS);
                m->ids[t][l][k] = id;
            }
    }
}

static double price(const struct replay *r, enum replay_path path)
{
    return (double)(r->n_uses - r->n_hits) + (path == REPLAY_PROMOTE ? REPLAY_PRICE * (double)r->n_uploads : 0);
}

/* Whatever the routing, hardly more than a stake is lost to LRU. And where counts help they are used. */
static void test_made_routing(void **state)
{
    (void)state;
    static struct made m;
    uint32_t n_better = 0;
    for (uint64_t seed = 1; seed <= 8; seed++)
        for (enum kind kind = 0; kind < N_KINDS; kind++) {
            make_routing(&m, kind, seed);
            for (enum replay_path path = 0; path < REPLAY_N_PATHS; path++)
                for (uint32_t n = MADE_USED; n < MADE_ALL; n += 5) {
                    struct replay lru = {0}, ours = {0};
                    struct sc_error e = {0};
                    if (!replay_run(&m.file, path, REPLAY_LRU, n, &lru, &e) ||
                        !replay_run(&m.file, path, REPLAY_OURS, n, &ours, &e))
                        fail_msg("%s", e.text);
                    if (price(&ours, path) > price(&lru, path) + 40)
                        fail_msg("kind %d, seed %u, path %d, %u slots: %u hits, %u uploads, LRU %u, %u", (int)kind,
                                 (unsigned)seed, (int)path, n, (unsigned)ours.n_hits, (unsigned)ours.n_uploads,
                                 (unsigned)lru.n_hits, (unsigned)lru.n_uploads);
                    n_better += price(&ours, path) < 0.9 * price(&lru, path);
                }
        }
    assert_true(n_better > 200); /* of 560 */
}

enum { MAX_USES = 16, N_INDICES = 5, IMPOSSIBLE = -1000 };

/* The best that any choice of evictions can do from use i on, with the experts of `there` in slots. */
static int best_of_all(const struct belady_use *uses, size_t n, size_t i, unsigned there, uint32_t n_slots, bool bypass,
                       int price)
{
    if (i == n)
        return 0;
    unsigned group = 0;
    size_t end = i;
    int hits = 0, best = IMPOSSIBLE;
    for (; end < n && uses[end].group == uses[i].group; end++) {
        group |= 1u << uses[end].index;
        hits += (there & 1u << uses[end].index) != 0;
    }
    const unsigned offered = there | group;
    for (unsigned next = offered;; next = (next - 1) & offered) {
        if ((uint32_t)__builtin_popcount(next) <= n_slots && (bypass || (next & group) == group)) {
            const int more =
                best_of_all(uses, n, end, next, n_slots, bypass, price) - price * __builtin_popcount(next & ~there);
            best = more > best ? more : best;
        }
        if (next == 0)
            return hits + best;
    }
}

static int score(const struct belady_use *uses, size_t n, int price)
{
    int sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += uses[i].is_hit - price * uses[i].is_upload;
    return sum;
}

static void test_optimum(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 150; seed++) {
        struct belady_use uses[MAX_USES] = {0};
        struct sc_error e = {0};
        uint32_t random = seed * 2654435761u;
        const uint32_t n_slots = 2 + seed % 2;
        const size_t n = 8;
        for (size_t i = 0; i < n; i++) {
            random = random * 1664525 + 1013904223;
            uses[i] =
                (struct belady_use){.index = (random >> 16) % N_INDICES, .group = (uint32_t)i / 2, .counts = true};
            if (i % 2 && uses[i].index == uses[i - 1].index)
                uses[i].index = (uses[i].index + 1) % N_INDICES;
        }
        for (int bypass = 0; bypass < 2; bypass++) {
            assert_true(belady_run(uses, n, N_INDICES, n_slots, bypass, &e));
            const int want = best_of_all(uses, n, 0, 0, n_slots, bypass, 0);
            if (score(uses, n, 0) != want)
                fail_msg("seed %u, bypass %d: %d hits, %d are possible", seed, bypass, score(uses, n, 0), want);
        }
        for (int price = 1; price <= 2; price++) {
            assert_true(belady_priced(uses, n, N_INDICES, n_slots, price, &e));
            const int want = best_of_all(uses, n, 0, 0, n_slots, true, price);
            if (score(uses, n, price) != want)
                fail_msg("seed %u, price %d: %d, %d is possible", seed, price, score(uses, n, price), want);
        }
    }
}

/* The bytes as a file: are they a trace? */
static bool reads(const uint8_t *bytes, size_t n)
{
    char path[64];
    struct routing_file r;
    struct sc_error e = {0};
    snprintf(path, sizeof path, "test_policy.%ld.trace", (long)getpid());
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    const bool ok = routing_file_init(&r, path, &e);
    if (!ok && !strstr(e.text, path))
        fail_msg("\"%s\" does not name the file", e.text);
    unlink(path);
    routing_file_finish(&r);
    return ok;
}

static void test_hostile_trace(void **state)
{
    (void)state;
    /* 2 layers, 4 experts, 2 used; passes of 1 and 2 tokens */
    static const uint8_t good[] = {'S', 'C', 'R', 'O', 'U', 'T', 'E', '1', 2, 0, 0, 0, 4, 0, 0, 0, 2, 0,
                                   0,   0,   1,   0,   0,   0,   9,   0,   0, 0, 0, 3, 1, 2, 2, 0, 0, 0,
                                   7,   0,   0,   0,   8,   0,   0,   0,   0, 1, 2, 3, 3, 0, 1, 0};
    uint8_t bytes[sizeof good];
    assert_true(reads(good, sizeof good));
    for (size_t n = 0; n < sizeof good; n++)
        assert_int_equal(reads(good, n), n == 20 || n == 32);
    static const struct {
        size_t at;
        uint8_t value;
    } bad[] = {{0, 's'}, {7, '2'}, {8, 0},  {8, 1},    {8, 3},  {10, 1}, {12, 3}, {12, 1}, {14, 1}, {16, 0},
               {16, 1},  {16, 3},  {16, 5}, {19, 1},   {20, 0}, {20, 2}, {23, 1}, {28, 4}, {29, 0}, {31, 255},
               {32, 0},  {32, 1},  {32, 3}, {35, 128}, {44, 4}, {45, 0}, {50, 4}, {51, 1}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        memcpy(bytes, good, sizeof good);
        bytes[bad[i].at] = bad[i].value;
        if (reads(bytes, sizeof bytes))
            fail_msg("byte %zu may be %u", bad[i].at, bad[i].value);
    }
    for (size_t i = 0; i < sizeof good; i++) /* whatever it makes of these, a sanitizer watches */
        for (unsigned value = 0; value < 256; value += 5) {
            memcpy(bytes, good, sizeof good);
            bytes[i] = (uint8_t)value;
            (void)reads(bytes, sizeof bytes);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_promotion),    cmocka_unit_test(test_forgetting), cmocka_unit_test(test_unused),
        cmocka_unit_test(test_demand),       cmocka_unit_test(test_prompt),     cmocka_unit_test(test_traces),
        cmocka_unit_test(test_made_routing), cmocka_unit_test(test_optimum),    cmocka_unit_test(test_hostile_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
