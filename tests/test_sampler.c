/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling: each step's survivors, the statistics of the draw, ties, numbers that are none, and that seeds repeat. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "failing_malloc.h"
#include "sampler.h"

static const struct sc_sampling everything = {
    .temperature = 1,
    .top_p = 1,
    .repeat_penalty = 1,
    .repeat_last_n = 64,
    .seed = 7,
};

static struct sc_sampler *create(const struct sc_sampling *p, uint32_t n_vocab)
{
    struct sc_error e = {0};
    struct sc_sampler *s = sc_sampler_create(p, n_vocab, &e);
    if (!s)
        fail_msg("%s", e.text);
    return s;
}

/* Draws n times and counts into counts[n_vocab]. */
static void count_draws(const struct sc_sampling *p, const float *logits, uint32_t n_vocab, int n, int *counts)
{
    struct sc_sampler *s = create(p, n_vocab);
    memset(counts, 0, n_vocab * sizeof *counts);
    for (int i = 0; i < n; i++) {
        sc_token token = sc_sampler_sample(s, logits);
        assert_in_range(token, 0, n_vocab - 1);
        counts[token]++;
    }
    sc_sampler_destroy(s);
}

/* Which tokens can come up, as bits, of logits that are log(probability). */
static unsigned survivors(const struct sc_sampling *p, const float *probabilities, uint32_t n_vocab)
{
    float logits[16] = {0};
    int counts[16];
    for (uint32_t i = 0; i < n_vocab; i++)
        logits[i] = logf(probabilities[i]);
    count_draws(p, logits, n_vocab, 4000, counts);
    unsigned bits = 0;
    for (uint32_t i = 0; i < n_vocab; i++)
        bits |= (unsigned)(counts[i] > 0) << i;
    return bits;
}

static void test_steps(void **state)
{
    (void)state;
    static const float probabilities[] = {0.1f, 0.4f, 0.05f, 0.3f, 0.15f}; /* likeliest first: 1 3 4 0 2 */
    static const struct {
        int32_t top_k;
        float top_p, min_p;
        unsigned want;
    } cases[] = {
        {0, 1, 0, 0x1F},     {-1, 1, 0, 0x1F},      {5, 1, 0, 0x1F},       {99, 1, 0, 0x1F},      {1, 1, 0, 0x02},
        {2, 1, 0, 0x0A},     {4, 1, 0, 0x1B},       {0, 0, 0, 0x02},       {0, 0.39f, 0, 0x02},   {0, 0.5f, 0, 0x0A},
        {0, 0.75f, 0, 0x1A}, {0, 0.9999f, 0, 0x1F}, {3, 0.8f, 0, 0x0A},    {0, 1, 0.5f, 0x0A},    {0, 1, 0.3f, 0x1A},
        {0, 1, 1, 0x02},     {0, 0.6f, 0.3f, 0x0A}, {0, 0.9f, 0.5f, 0x0A}, {4, 0.9f, 0.3f, 0x1A},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sc_sampling p = everything;
        p.top_k = cases[i].top_k;
        p.top_p = cases[i].top_p;
        p.min_p = cases[i].min_p;
        unsigned got = survivors(&p, probabilities, 5);
        if (got != cases[i].want)
            fail_msg("case %zu: tokens %x came up, expected %x", i, got, cases[i].want);
        p.temperature = 50; /* comes last, so it changes no survivor */
        assert_int_equal(survivors(&p, probabilities, 5), cases[i].want);
    }
}

/* Pearson's chi-square of the draws against the exact distribution; its 99.99 % quantile for 9 degrees is 33.7. */
static void test_statistics(void **state)
{
    (void)state;
    static const float temperatures[] = {0.5f, 1, 2};
    static const float logits[10] = {0.3f, -1, 2, 0, 1.5f, -0.7f, 0.9f, 0.1f, 1.1f, -2};
    enum { N = 200000 };
    for (size_t t = 0; t < 3; t++) {
        struct sc_sampling p = everything;
        p.temperature = temperatures[t];
        int counts[10];
        count_draws(&p, logits, 10, N, counts);
        double sum = 0, chi = 0;
        for (int i = 0; i < 10; i++)
            sum += exp(logits[i] / p.temperature);
        for (int i = 0; i < 10; i++) {
            double expected = N * exp(logits[i] / p.temperature) / sum;
            chi += (counts[i] - expected) * (counts[i] - expected) / expected;
        }
        assert_true(chi < 33.7);
    }
}

/* The survivors keep their proportions, also through the heaps. */
static void test_statistics_of_many(void **state)
{
    (void)state;
    enum { N_VOCAB = 500, N = 50000, K = 10 };
    static float logits[N_VOCAB];
    static int counts[N_VOCAB];
    for (int i = 0; i < N_VOCAB; i++)
        logits[i] = (float)(i * 269 % N_VOCAB) / 500; /* all different */
    struct sc_sampling p = everything;
    p.top_k = K;
    p.temperature = 0.01f;
    count_draws(&p, logits, N_VOCAB, N, counts);
    double sum = 0, chi = 0;
    for (int rank = 0; rank < K; rank++)
        sum += exp(-rank * 0.2);
    int n_drawn = 0;
    for (int i = 0; i < N_VOCAB; i++) {
        int rank = N_VOCAB - 1 - i * 269 % N_VOCAB;
        if (rank >= K)
            continue;
        double expected = N * exp(-rank * 0.2) / sum;
        chi += (counts[i] - expected) * (counts[i] - expected) / expected;
        n_drawn += counts[i];
    }
    assert_int_equal(n_drawn, N);
    assert_true(chi < 33.7);
}

static void test_greedy(void **state)
{
    (void)state;
    struct sc_sampling p = sc_sampling_default();
    p.temperature = 0;
    struct sc_sampler *s = create(&p, 6);
    assert_int_equal(sc_sampler_sample(s, (float[]){1, 5, 2, 5, 5, 0}), 1); /* the lowest of equals */
    assert_int_equal(sc_sampler_sample(s, (float[]){-3, -3, -3, -3, -3, -3}), 0);
    assert_int_equal(sc_sampler_sample(s, (float[]){NAN, 1, INFINITY, 2, -INFINITY, NAN}), 3);
    sc_sampler_destroy(s);

    /* ties among those that top-k keeps: the lowest ids, too */
    p = everything;
    p.top_k = 2;
    assert_int_equal(survivors(&p, (float[]){0.1f, 0.2f, 0.2f, 0.2f, 0.2f, 0.1f}, 6), 0x06);
}

static void test_no_numbers(void **state)
{
    (void)state;
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (int variant = 0; variant < 4; variant++) {
        struct sc_sampling p = variant ? sc_sampling_default() : everything;
        p.temperature = variant == 1 ? 0 : variant == 2 ? 1e-45f : 3e38f;
        p.top_k = variant == 3 ? 2 : p.top_k;
        struct sc_sampler *s = create(&p, 8);
        for (size_t i = 0; i < 4; i++) {
            float logits[8];
            for (size_t j = 0; j < 8; j++)
                logits[j] = bad[(i + j) % 4];
            assert_int_equal(sc_sampler_sample(s, logits), -1);
            logits[5] = -3e38f; /* the only number is the choice, however unlikely it looks */
            assert_int_equal(sc_sampler_sample(s, logits), 5);
            logits[2] = 3e38f;
            sc_token token = sc_sampler_sample(s, logits);
            assert_true(token == 2 || (token == 5 && variant == 0));
        }
        sc_sampler_destroy(s);
    }
}

static void test_repeat_penalty(void **state)
{
    (void)state;
    struct sc_sampling p = sc_sampling_default();
    p.temperature = 0;
    p.repeat_penalty = 2;
    p.repeat_last_n = 3;
    struct sc_sampler *s = create(&p, 4);
    static const float logits[] = {4, 3, -1, -3}, negative[] = {-4, -3, -1.4f, -3};
    assert_int_equal(sc_sampler_sample(s, logits), 0);
    sc_sampler_accept(s, 0);
    assert_int_equal(sc_sampler_sample(s, logits), 1); /* 4 / 2 < 3 */
    sc_sampler_accept(s, 1);
    assert_int_equal(sc_sampler_sample(s, logits), 0); /* 4 / 2 > 3 / 2 */
    sc_sampler_accept(s, 2);
    assert_int_equal(sc_sampler_sample(s, negative), 2); /* -1.4 * 2 > -3 */
    sc_sampler_accept(s, 0); /* twice in the text: penalized once, and still when the first falls out of the last 3 */
    sc_sampler_accept(s, 3);
    assert_int_equal(sc_sampler_sample(s, logits), 1); /* 1 has fallen out */
    sc_sampler_accept(s, -1);
    sc_sampler_accept(s, 4); /* outside the vocabulary: ignored */
    assert_int_equal(sc_sampler_sample(s, logits), 1);
    sc_sampler_reset(s);
    assert_int_equal(sc_sampler_sample(s, logits), 0);
    sc_sampler_destroy(s);
}

static void test_seeds(void **state)
{
    (void)state;
    float logits[100];
    for (int i = 0; i < 100; i++)
        logits[i] = (float)(i % 7) * 0.1f;
    /* computed by an independent PCG32 in Python: must never change */
    static const sc_token want[] = {76, 45, 96, 79, 48, 70, 3, 89};
    struct sc_sampling p = everything;
    p.seed = 42;
    struct sc_sampler *a = create(&everything, 100), *b = create(&everything, 100), *c = create(&p, 100);
    int n_equal = 0;
    for (int i = 0; i < 200; i++) {
        sc_token x = sc_sampler_sample(a, logits), y = sc_sampler_sample(c, logits);
        assert_int_equal(x, sc_sampler_sample(b, logits));
        n_equal += x == y;
        if (i < 8)
            assert_int_equal(y, want[i]);
    }
    assert_true(n_equal < 20);
    sc_sampler_destroy(a);
    sc_sampler_destroy(b);
    sc_sampler_destroy(c);
}

static int likelier(const void *x, const void *y)
{
    const struct sc_candidate *a = x, *b = y;
    return a->logit > b->logit ? -1 : a->logit < b->logit ? 1 : (a->token > b->token) - (a->token < b->token);
}

/* The likeliest tokens are as good as all logits, draw for draw, wherever the sampler says that they are enough. */
static void test_candidates(void **state)
{
    (void)state;
    enum { N_VOCAB = 500, N_SEEDS = 1000 };
    uint32_t random = 3;
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        float logits[N_VOCAB];
        struct sc_candidate candidates[N_VOCAB];
        uint32_t n = 0;
        for (int i = 0; i < N_VOCAB; i++) {
            random = random * 1664525u + 1013904223u;
            logits[i] = (float)(random >> 16 & 0x3FF) * (seed % 2 ? 0.01f : 0.3f); /* with ties */
            if (random >> 26 < (seed % 5 == 0 ? 58 : 2))
                logits[i] = random & 1 ? NAN : -INFINITY;
            else
                candidates[n++] = (struct sc_candidate){logits[i], i};
        }
        qsort(candidates, n, sizeof *candidates, likelier);
        const struct sc_sampling p = {
            .temperature = (float)(seed % 4) * 0.6f,
            .top_k = (int32_t)(random >> 8) % SC_MAX_CANDIDATES + 1,
            .top_p = seed % 3 ? 0.9f : 1,
            .min_p = seed % 7 ? 0.02f : 0,
            .repeat_penalty = 1,
            .seed = seed,
        };
        struct sc_sampler *a = create(&p, N_VOCAB), *b = create(&p, N_VOCAB);
        const uint32_t n_enough = sc_sampler_n_candidates(a);
        assert_int_equal(n_enough, p.temperature == 0 ? 1 : p.top_k);
        for (int i = 0; i < 20; i++) {
            const sc_token x = sc_sampler_sample(a, logits),
                           y = sc_sampler_choose(b, candidates, n < n_enough ? n : n_enough);
            if (x != y)
                fail_msg("seed %llu, draw %d: %d of all, %d of %u", (unsigned long long)seed, i, x, y, n_enough);
        }
        assert_int_equal(sc_sampler_choose(a, NULL, 0), -1);
        sc_sampler_destroy(a);
        sc_sampler_destroy(b);
    }
}

/* Where they are not enough. */
static void test_all_logits(void **state)
{
    (void)state;
    struct sc_sampling cases[4];
    for (int i = 0; i < 4; i++)
        cases[i] = sc_sampling_default();
    cases[0].top_k = 0;
    cases[1].top_k = SC_MAX_CANDIDATES + 1;
    cases[2].repeat_penalty = 1.1f;
    cases[3].repeat_penalty = 0.9f;
    cases[3].temperature = 0;
    for (int i = 0; i < 4; i++) {
        struct sc_sampler *s = create(&cases[i], 100);
        assert_int_equal(sc_sampler_n_candidates(s), 0);
        sc_sampler_destroy(s);
    }
}

static void test_wrong_parameters(void **state)
{
    (void)state;
    static const struct {
        struct sc_sampling p;
        uint32_t n_vocab;
        const char *text;
    } cases[] = {
        {{-0.1f, 40, 0.9f, 0, 1, 0, 0}, 10, "temperature"},
        {{NAN, 40, 0.9f, 0, 1, 0, 0}, 10, "temperature"},
        {{INFINITY, 40, 0.9f, 0, 1, 0, 0}, 10, "temperature"},
        {{1, 40, 1.1f, 0, 1, 0, 0}, 10, "top-p"},
        {{1, 40, -1, 0, 1, 0, 0}, 10, "top-p"},
        {{1, 40, NAN, 0, 1, 0, 0}, 10, "top-p"},
        {{1, 40, 1, 2, 1, 0, 0}, 10, "min-p"},
        {{1, 40, 1, NAN, 1, 0, 0}, 10, "min-p"},
        {{1, 40, 1, 0, 0, 0, 0}, 10, "repeat penalty"},
        {{1, 40, 1, 0, NAN, 0, 0}, 10, "repeat penalty"},
        {{1, 40, 1, 0, 1, UINT32_MAX, 0}, 10, "repeat penalty"},
        {{1, 40, 1, 0, 1, 0, 0}, 0, "vocabulary"},
        {{1, 40, 1, 0, 1, 0, 0}, UINT32_MAX, "vocabulary"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sc_error e = {0};
        assert_null(sc_sampler_create(&cases[i].p, cases[i].n_vocab, &e));
        assert_int_equal(e.code, SC_INVALID_ARGUMENT);
        assert_non_null(strstr(e.text, cases[i].text));
    }
    sc_sampler_destroy(NULL);
}

static void test_allocation(void **state)
{
    (void)state;
    struct sc_sampling p = sc_sampling_default();
    p.repeat_penalty = 1.1f;
    struct sc_sampler *s = NULL;
    long n = 0;
    for (; !s; n++) {
        struct sc_error e = {0};
        fail_malloc(n);
        s = sc_sampler_create(&p, 100, &e);
        fail_malloc(-1);
        assert_int_equal(e.code, s ? SC_OK : SC_OUT_OF_MEMORY);
    }
    assert_int_equal(n, 5);

    float logits[100] = {0};
    fail_malloc(0); /* nothing is allocated per token */
    for (int i = 0; i < 100; i++)
        sc_sampler_accept(s, sc_sampler_sample(s, logits));
    assert_false(malloc_has_failed());
    fail_malloc(-1);
    sc_sampler_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_statistics_of_many),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_no_numbers),
        cmocka_unit_test(test_repeat_penalty),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_candidates),
        cmocka_unit_test(test_all_logits),
        cmocka_unit_test(test_wrong_parameters),
        cmocka_unit_test(test_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
