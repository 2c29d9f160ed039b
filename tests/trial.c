/* SPDX-License-Identifier: Apache-2.0 */
#include "trial.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "reference.h"

static void allocate(struct trial *t, size_t n_tokens, uint32_t n_vocab)
{
    t->n_tokens = n_tokens;
    t->n_vocab = n_vocab;
    t->tokens = calloc(n_tokens, sizeof *t->tokens);
    t->got = calloc(n_tokens * n_vocab, sizeof *t->got);
    assert_non_null(t->tokens);
    assert_non_null(t->got);
}

static void init(struct trial *t, const char *name, const struct model_spec *spec, size_t n_tokens, bool rounds_kv)
{
    *t = (struct trial){.name = name, .is_temporary = true, .bound = exact_bound};
    static unsigned n_trials;
    snprintf(t->path, sizeof t->path, "trial-%ld-%u.tmp.gguf", (long)getpid(), n_trials++);
    assert_true(model_write(t->path, spec));

    struct sc_error e = {0};
    struct reference r;
    if (!reference_open(&r, t->path, &e))
        fail_msg("%s: %s", name, e.text);
    r.rounds_kv = rounds_kv;
    allocate(t, n_tokens, r.config.n_vocab);
    uint64_t state = spec->seed + 77;
    for (size_t i = 0; i < n_tokens; i++)
        t->tokens[i] = (sc_token)(random_u64(&state) % t->n_vocab);
    t->want = reference_logits(&r, t->tokens, n_tokens);
    reference_close(&r);
}

void trial_init(struct trial *t, const char *name, const struct model_spec *spec, size_t n_tokens)
{
    init(t, name, spec, n_tokens, false);
}

void trial_init_q8_kv(struct trial *t, const char *name, const struct model_spec *spec, size_t n_tokens)
{
    init(t, name, spec, n_tokens, true);
}

void trial_init_recorded(struct trial *t, const char *name, const char *path)
{
    *t = (struct trial){.name = name, .bound = exact_bound};
    assert_true((size_t)snprintf(t->path, sizeof t->path, "%s", path) < sizeof t->path);

    struct sc_error e = {0};
    struct sc_gguf *g = sc_gguf_open(path, &e);
    if (!g)
        fail_msg("%s: %s", name, e.text);
    const struct sc_gguf_value *tokens = sc_gguf_find_value(g, "scoria.test.tokens");
    const struct sc_gguf_value *logits = sc_gguf_find_value(g, "scoria.test.logits");
    assert_non_null(tokens);
    assert_non_null(logits);
    allocate(t, tokens->n_elements, (uint32_t)(logits->n_elements / tokens->n_elements));
    t->want = calloc(logits->n_elements, sizeof *t->want);
    assert_non_null(t->want);
    for (size_t i = 0; i < tokens->n_elements; i++) {
        int64_t token;
        assert_true(sc_gguf_array_i64(tokens, i, &token));
        t->tokens[i] = (sc_token)token;
    }
    for (size_t i = 0; i < logits->n_elements; i++)
        assert_true(sc_gguf_array_f64(logits, i, &t->want[i]));
    sc_gguf_close(g);
}

void trial_finish(struct trial *t)
{
    if (t->is_temporary)
        unlink(t->path);
    free(t->tokens);
    free(t->want);
    free(t->got);
    *t = (struct trial){0};
}

struct sc_engine *trial_engine(const struct trial *t, struct sc_engine_params params)
{
    struct sc_error e = {0};
    params.model_path = t->path;
    params.cache_dir = "";
    struct sc_engine *engine = sc_engine_create(&params, &e);
    if (!engine)
        fail_msg("%s: %s", t->name, e.text);
    return engine;
}

struct sc_session *trial_session(const struct trial *t, struct sc_engine *engine)
{
    struct sc_error e = {0};
    struct sc_session *session = sc_session_create(engine, &e);
    if (!session)
        fail_msg("%s: %s", t->name, e.text);
    return session;
}

void trial_eval(struct trial *t, struct sc_session *session, size_t n)
{
    struct sc_error e = {0};
    const size_t first = sc_session_n_past(session);
    float *got = t->got + first * t->n_vocab;
    assert_true(first + n <= t->n_tokens);
    memset(got, 0xFF, n * t->n_vocab * sizeof *got); /* NaN, lest a row be forgotten */
    if (!sc_session_eval(session, t->tokens + first, n, got, n, &e))
        fail_msg("%s: %zu tokens at %zu: %s", t->name, n, first, e.text);
    assert_int_equal(sc_session_n_past(session), first + n);

    const struct difference d = logits_compare(t->want + first * t->n_vocab, got, n, t->n_vocab, t->bound.margin);
    if (!(d.worst_kl <= t->bound.kl) || d.n_wrong > 0)
        fail_msg("%s: %zu tokens at %zu: KL %.2e at token %zu, %zu wrong arg max", t->name, n, first, d.worst_kl,
                 first + d.worst_row, d.n_wrong);
    t->worst_kl = fmax(t->worst_kl, d.worst_kl);
}

void trial_decode(struct trial *t, struct sc_session *session, size_t n)
{
    for (size_t i = 0; i < n; i++)
        trial_eval(t, session, 1);
}
