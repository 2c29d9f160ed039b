/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prompts of many sizes against the reference's logits of every token, which decoding is held against too: the kernels
 * change with the size, and experts get no row, one row, many. Some sizes around the tiles' edges; with "all" as its
 * argument the program takes every one from 1 to 300, with a number, 10000 say, one prompt of so many tokens.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trial.h"

enum { MOST = 300, N_DECODED = 12 };

static bool takes_all;
static uint32_t n_long;

static bool is_taken(uint32_t n)
{
    static const uint32_t sizes[] = {1, 2, 3, 5, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255, 257, MOST};
    bool found = takes_all;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        found = found || sizes[i] == n;
    return found;
}

static void check(const char *name, const struct model_spec *spec)
{
    struct trial t;
    trial_init(&t, name, spec, MOST);
    struct sc_engine *engine = trial_engine(
        &t, (struct sc_engine_params){
                .n_ctx = MOST, .n_batch = MOST, .kv_type = SC_KV_F32, .cpu_experts = SC_CPU_OFF, .no_hot_set = true});
    struct sc_session *session = trial_session(&t, engine);
    trial_decode(&t, session, N_DECODED);
    uint32_t n_sizes = 0;
    for (uint32_t n = 1; n <= MOST; n++)
        if (is_taken(n)) {
            sc_session_truncate(session, 0);
            trial_eval(&t, session, n);
            n_sizes++;
        }
    print_message("%s: %u sizes up to %u, worst KL %.1e\n", name, n_sizes, MOST, t.worst_kl);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    trial_finish(&t);
}

/* With few tokens most of the 128 have no row or one. */
static void test_many_experts(void **state)
{
    (void)state;
    check(
        "128 experts, 8 used",
        &(struct model_spec){.type = "q8_0", .d = 64, .ff = 32, .experts = 128, .used = 8, .n_ctx = MOST, .seed = 11});
}

static void test_few_experts(void **state)
{
    (void)state;
    check("8 experts, 2 used",
          &(struct model_spec){.type = "q4_0", .d = 96, .ff = 96, .experts = 8, .used = 2, .n_ctx = MOST, .seed = 12});
}

static void test_dense(void **state)
{
    (void)state;
    check("dense", &(struct model_spec){.type = "q5_0", .d = 64, .ff = 96, .dense = true, .n_ctx = MOST, .seed = 13});
}

/* Many passes of 512 tokens, and then some decoded behind them. */
static void test_long(void **state)
{
    (void)state;
    struct trial t;
    const uint32_t n_all = n_long + N_DECODED;
    trial_init(
        &t, "a long prompt",
        &(struct model_spec){.type = "q8_0", .d = 64, .ff = 64, .experts = 4, .used = 2, .n_ctx = n_all, .seed = 14},
        n_all);
    struct sc_engine *engine = trial_engine(
        &t, (struct sc_engine_params){
                .n_ctx = n_all, .n_batch = 512, .kv_type = SC_KV_F32, .cpu_experts = SC_CPU_OFF, .no_hot_set = true});
    struct sc_session *session = trial_session(&t, engine);
    trial_eval(&t, session, n_long);
    trial_decode(&t, session, N_DECODED);
    print_message("%u tokens and %d decoded: worst KL %.1e\n", n_long, N_DECODED, t.worst_kl);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    trial_finish(&t);
}

int main(int argc, char **argv)
{
    takes_all = argc > 1 && strcmp(argv[1], "all") == 0;
    n_long = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
    const struct CMUnitTest long_test[] = {cmocka_unit_test(test_long)};
    if (n_long)
        return cmocka_run_group_tests(long_test, NULL, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_experts),
        cmocka_unit_test(test_few_experts),
        cmocka_unit_test(test_dense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
