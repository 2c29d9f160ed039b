/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logits that an implementation which is not ours computed: tiny random models in the `transformers` package, recorded
 * by tools/record_transformers.py. Both readings of the weights' layout, of rope and of routing meet here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "reference.h"
#include "trial.h"

static const struct model_file {
    const char *name, *path;
    uint32_t n_experts, n_tokens;
} mixtral = {"transformers' Mixtral", SCORIA_TEST_VECTORS "/transformers-mixtral.gguf", 4, 24},
  llama = {"transformers' Llama", SCORIA_TEST_VECTORS "/transformers-llama.gguf", 0, 24};

static void check_budget(struct trial *t, uint64_t vram_bytes, uint64_t *minimum_bytes)
{
    struct sc_engine *engine = trial_engine(
        t, (struct sc_engine_params){.n_ctx = 64, .n_batch = 16, .kv_type = SC_KV_F32, .vram_bytes = vram_bytes});
    *minimum_bytes = sc_engine_placement(engine)->minimum_bytes;
    assert_int_equal(sc_engine_n_vocab(engine), t->n_vocab);
    struct sc_session *session = trial_session(t, engine);
    trial_eval(t, session, t->n_tokens);
    sc_session_truncate(session, 0);
    trial_decode(t, session, t->n_tokens);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
}

static void test_runtime(void **state)
{
    const struct model_file *m = *state;
    struct trial t;
    uint64_t minimum_bytes;
    trial_init_recorded(&t, m->name, m->path);
    assert_int_equal(t.n_tokens, m->n_tokens);
    check_budget(&t, 0, &minimum_bytes);
    if (m->n_experts > 0)
        check_budget(&t, minimum_bytes, &minimum_bytes);
    printf("%s: worst KL %.1e\n", m->name, t.worst_kl);
    trial_finish(&t);
}

/* The reference that the random models are held against is held against something itself. */
static void test_reference(void **state)
{
    const struct model_file *m = *state;
    struct trial t;
    struct reference r;
    struct sc_error e = {0};
    trial_init_recorded(&t, m->name, m->path);
    if (!reference_open(&r, t.path, &e))
        fail_msg("%s", e.text);
    assert_int_equal(r.config.n_experts, m->n_experts);
    double *logits = reference_logits(&r, t.tokens, t.n_tokens);
    for (size_t i = 0; i < t.n_tokens * t.n_vocab; i++)
        t.got[i] = (float)logits[i];
    const struct difference d = logits_compare(t.want, t.got, t.n_tokens, t.n_vocab, t.bound.margin);
    printf("%s: the reference's KL %.1e\n", m->name, d.worst_kl);
    assert_true(d.worst_kl <= t.bound.kl && d.n_wrong == 0);
    free(logits);
    reference_close(&r);
    trial_finish(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_reference, (void *)(uintptr_t)&mixtral),
        cmocka_unit_test_prestate(test_reference, (void *)(uintptr_t)&llama),
        cmocka_unit_test_prestate(test_runtime, (void *)(uintptr_t)&mixtral),
        cmocka_unit_test_prestate(test_runtime, (void *)(uintptr_t)&llama),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
