/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model, some tokens and a reference's logits for them, against which sessions are held. Everything here
 * fails the running cmocka test by itself and names the trial.
 */
#ifndef SCORIA_TESTS_TRIAL_H
#define SCORIA_TESTS_TRIAL_H

#include "compare.h"
#include "model_builder.h"
#include "scoria.h"

struct trial {
    const char *name;
    char path[512];    /* of the model */
    bool is_temporary; /* the path: in the current folder, and unlinked in the end */
    sc_token *tokens;  /* (n_tokens) */
    size_t n_tokens;
    uint32_t n_vocab;
    double *want;       /* (n_tokens, n_vocab) */
    float *got;         /* (n_tokens, n_vocab) what trial_eval computed last, at the rows of its tokens */
    struct bound bound; /* exact_bound unless the caller sets another */
    double worst_kl;    /* of all comparisons so far */
};

/* Writes a random model and computes the reference; trial_init_q8_kv: one whose cache is of q8_0. */
void trial_init(struct trial *t, const char *name, const struct model_spec *spec, size_t n_tokens);
void trial_init_q8_kv(struct trial *t, const char *name, const struct model_spec *spec, size_t n_tokens);

/* A model whose file holds the tokens and the logits of another implementation (tools/record_transformers.py). */
void trial_init_recorded(struct trial *t, const char *name, const char *path);
void trial_finish(struct trial *t);

/* The trial's model, no pipeline cache, the rest as params says. Neither returns NULL. */
struct sc_engine *trial_engine(const struct trial *t, struct sc_engine_params params);
struct sc_session *trial_session(const struct trial *t, struct sc_engine *engine);

/* Evaluates the n tokens that follow what is in the session, in one call, and compares all their logits. */
void trial_eval(struct trial *t, struct sc_session *session, size_t n);

/* The same with a call for each token. */
void trial_decode(struct trial *t, struct sc_session *session, size_t n);

#endif
