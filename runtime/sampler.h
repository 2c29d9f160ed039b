/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Choosing the next token from logits, on the host. The steps and their order are llama.cpp's: repeat penalty, top-k,
 * top-p, min-p, temperature, then a draw. The random numbers are our own (PCG32), so that a seed means the same
 * everywhere.
 */
#ifndef SCORIA_SAMPLER_H
#define SCORIA_SAMPLER_H

#include "tokenizer.h"

/* Start from sc_sampling_default(), not from {0}: a temperature of 0 has its own meaning. */
struct sc_sampling {
    float temperature;      /* 0: always the likeliest token, the lowest id of equals */
    int32_t top_k;          /* keep the k likeliest; 0 or less: all */
    float top_p;            /* then as few of the likeliest as reach this probability together; 1: all */
    float min_p;            /* then those at least this likely relative to the likeliest; 0: all */
    float repeat_penalty;   /* of the last repeat_last_n tokens: logit / penalty, or * penalty if negative; 1: none */
    uint32_t repeat_last_n; /* 0: no penalty */
    uint64_t seed;
};

/* What llama.cpp uses: 0.8, 40, 0.95, 0.05, 1.0, 64; the seed is 0. */
struct sc_sampling sc_sampling_default(void);

/* A token that may come next. */
struct sc_candidate {
    float logit;
    sc_token token;
};

enum { SC_MAX_CANDIDATES = 64 };

struct sc_sampler;

/* Allocates all that sampling needs. Fails on parameters that make no sense, with the name of the parameter. */
struct sc_sampler *sc_sampler_create(const struct sc_sampling *sampling, uint32_t n_vocab, struct sc_error *e) SC_CHECK;
void sc_sampler_destroy(struct sc_sampler *s); /* accepts NULL */

/* Chooses from logits (n_vocab). NaN and Inf are never chosen; -1 if there is nothing else. Does not call accept. */
sc_token sc_sampler_sample(struct sc_sampler *s, const float *logits);

/*
 * How many of the likeliest are enough to choose from, at most SC_MAX_CANDIDATES; 0: the choice takes all logits.
 * sc_sampler_choose makes the same choice of that many candidates (or of all finite ones, if they are fewer) as
 * sc_sampler_sample of the logits that they are the highest of, the lowest ids of equals. -1 if n is 0.
 */
uint32_t sc_sampler_n_candidates(const struct sc_sampler *s);
sc_token sc_sampler_choose(struct sc_sampler *s, const struct sc_candidate *candidates, size_t n);

/* Tells that token is now part of the text: a chosen one, or one of the prompt. Only the repeat penalty looks at it. */
void sc_sampler_accept(struct sc_sampler *s, sc_token token);

/* Forgets what was accepted and starts the random numbers over. */
void sc_sampler_reset(struct sc_sampler *s);

#endif
