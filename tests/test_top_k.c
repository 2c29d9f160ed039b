/* SPDX-License-Identifier: Apache-2.0 */
/* The best logits and their order: against sorting, bit for bit, for every kind of number and the lengths around which
 * the kernel cuts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model_builder.h"
#include "op_device.h"
#include "sampler.h"

/* What the logits are: likely ones, many that are equal, all equal, every bit pattern, all the best in one thread's
 * share, no number at all. */
enum fill { NORMAL, TIES, EQUAL, ANY_BITS, ONE_HEAD, NO_NUMBERS, N_FILLS };
static const char *const fill_names[] = {"normal", "ties", "equal", "any bits", "one head", "no numbers"};

static void fill_logits(float *logits, uint32_t n, enum fill fill, uint64_t *seed)
{
    static const float not_numbers[] = {NAN, INFINITY, -INFINITY, -NAN};
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t random = random_u64(seed);
        const uint32_t bits = (uint32_t)random;
        switch (fill) {
        case NORMAL: logits[i] = 5 * random_normal(seed); break;
        case TIES: logits[i] = random % 5 ? (float)(random % 7) - 3 : -0.0f; break;
        case EQUAL: logits[i] = -1.5f; break;
        case ANY_BITS: memcpy(&logits[i], &bits, sizeof bits); break;
        case ONE_HEAD: logits[i] = random_normal(seed) + (i % TOP_K_HEADS == 5 ? 100 : 0); break;
        case NO_NUMBERS: logits[i] = not_numbers[random % 4]; break;
        case N_FILLS: break;
        }
        if (fill == NORMAL && random % 97 == 0)
            logits[i] = not_numbers[random / 97 % 4];
    }
    if (fill == NO_NUMBERS && n > 2) { /* but two */
        logits[n - 1] = -3e38f;
        logits[n / 2] = 0;
    }
}

static int compare(const void *x, const void *y)
{
    const struct sc_candidate *a = x, *b = y;
    return a->logit > b->logit ? -1 : a->logit < b->logit ? 1 : (a->token > b->token) - (a->token < b->token);
}

static uint32_t sort(struct sc_candidate *sorted, const float *logits, uint32_t n)
{
    uint32_t n_sorted = 0;
    for (uint32_t i = 0; i < n; i++)
        if (isfinite(logits[i]))
            sorted[n_sorted++] = (struct sc_candidate){logits[i], (sc_token)i};
    qsort(sorted, n_sorted, sizeof *sorted, compare);
    return n_sorted;
}

static void test_top_k(void **state)
{
    static const uint32_t vocabularies[] = {1, 2, 31, 64, 257, 4096, 4097, 32000, 151936}, counts[] = {1, 2, 40, 64};
    enum { N_VOCABULARIES = sizeof vocabularies / sizeof vocabularies[0], N_COUNTS = sizeof counts / sizeof counts[0] };
    static struct sc_candidate want[151936];
    struct op_device *d = *state;
    struct op_judge judge = {0};
    for (uint32_t i = 0; i < N_VOCABULARIES * N_COUNTS * N_FILLS; i++) {
        const uint32_t n = vocabularies[i % N_VOCABULARIES], n_top = counts[i / N_VOCABULARIES % N_COUNTS];
        const enum fill fill = (enum fill)(i / N_VOCABULARIES / N_COUNTS);
        op_case(&judge, d, i, "%u of %u, %s", n_top, n, fill_names[fill]);
        struct tensor logits = op_tensor(d, SC_F32, 1, n), step = op_tensor(d, SC_F32, 1, 4);
        const struct top top = {.list = op_tensor(d, SC_F32, 64, 2),
                                .best = op_tensor(d, SC_F32, 1, 1),
                                .heads = op_tensor(d, SC_F32, TOP_K_HEADS, 2),
                                .counter = op_tensor(d, SC_F32, 1, 1).address};
        fill_logits(op_floats(d, logits), n, fill, &d->seed);
        *(struct step *)op_host(d, step.address) = (struct step){.n_top = n_top};
        uint32_t *counter = op_host(d, top.counter);
        *counter = 0;
        op_top_k(&d->commands, top, logits, step);
        op_writes_rows(d, top.list, 0, n_top);
        op_writes(d, top.best);
        op_writes(d, top.heads);
        op_judge_run(&judge, d);

        const uint32_t n_want = sort(want, op_floats(d, logits), n), *got = op_words(d, top.list);
        for (uint32_t k = 0; k < n_top && k <= n_want; k++) {
            uint32_t bits = 0;
            if (k < n_want)
                memcpy(&bits, op_floats(d, logits) + want[k].token, sizeof bits);
            op_judge_word(&judge, k, 0, got[2 * k], bits);
            op_judge_word(&judge, k, 1, got[2 * k + 1], k < n_want ? (uint32_t)want[k].token : NO_TOKEN);
        }
        op_judge_word(&judge, 0, 2, *op_words(d, top.best), n_want ? (uint32_t)want[0].token : 0);
        op_judge_word(&judge, 0, 3, *counter, 0);
    }
    op_judge_report(&judge, "top_k");
}

/* The embedding takes its token from there. */
static void test_best_is_embedded(void **state)
{
    enum { N_VOCAB = 300, COLS = 64 };
    struct op_device *d = *state;
    struct op_judge judge = {0};
    op_case(&judge, d, 1, "the best of %d embedded", N_VOCAB);
    struct tensor logits = op_random(d, 1, N_VOCAB, 1), step = op_tensor(d, SC_F32, 1, 4);
    struct tensor w = op_random(d, N_VOCAB, COLS, 1), y = op_tensor(d, SC_F32, 2, COLS);
    struct tensor tokens = op_tensor(d, SC_F32, 2, 1);
    const struct top top = {.list = op_tensor(d, SC_F32, 1, 2),
                            .best = op_tensor(d, SC_F32, 1, 1),
                            .heads = op_tensor(d, SC_F32, TOP_K_HEADS, 2),
                            .counter = op_tensor(d, SC_F32, 1, 1).address};
    *(struct step *)op_host(d, step.address) = (struct step){.n_top = 1};
    *(uint32_t *)op_host(d, top.counter) = 0;
    op_floats(d, logits)[217] = 50;
    op_words(d, tokens)[0] = 5;
    op_words(d, tokens)[1] = NO_TOKEN;
    op_top_k(&d->commands, top, logits, step);
    op_embed(&d->commands, y, w, tokens, top.best);
    op_writes(d, top.list);
    op_writes(d, top.best);
    op_writes(d, top.heads);
    op_writes(d, y);
    op_judge_run(&judge, d);
    assert_memory_equal(op_floats(d, y), op_floats(d, w) + 5 * COLS, COLS * sizeof(float));
    assert_memory_equal(op_floats(d, y) + COLS, op_floats(d, w) + 217 * COLS, COLS * sizeof(float));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_top_k), cmocka_unit_test(test_best_is_embedded)};
    return cmocka_run_group_tests(tests, op_device_create, op_device_destroy);
}
