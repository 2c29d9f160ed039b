/* SPDX-License-Identifier: Apache-2.0 */
/* The loop from tokens to text: evaluate, sample, decode, hand out, until something ends it. */
#ifndef SCORIA_CLI_GENERATE_H
#define SCORIA_CLI_GENERATE_H

#include "options.h"
#include "scoria.h"

enum stop {
    STOP_END,         /* the model ended its text */
    STOP_COUNT,       /* as many tokens as wanted */
    STOP_CONTEXT,     /* the context is full */
    STOP_INTERRUPTED, /* Ctrl-C */
    STOP_OUTPUT,      /* nobody takes the text */
};

const char *stop_name(enum stop stop);

enum { MAX_END_TOKENS = 16 };

struct generator {
    struct sc_engine *engine; /* borrowed, with its tokenizer */
    const struct sc_tokenizer *tokenizer;
    struct sc_session *session;
    struct sc_sampler *sampler;
    uint32_t n_wanted; /* how many candidates the sampler needs, and as many more as it may not take; 0: all logits */
    struct sc_candidate top[SC_MAX_CANDIDATES]; /* for what follows the last token evaluated */
    size_t n_top;
    float *logits;  /* (n_vocab) instead, or NULL */
    sc_token *past; /* (n_ctx) what the session holds: sc_session_n_past of them are valid */
    sc_token ends[MAX_END_TOKENS];
    size_t n_ends;
    bool ignore_eos; /* end-of-text tokens cannot be chosen */
    uint32_t seed;   /* of the sampler: the user's, or a random one */
};

struct generation {
    int64_t max_tokens;    /* -1: no limit */
    bool continues;        /* other text: a space before its first word belongs to it */
    const char *stop_text; /* ends the text and is not part of it; may be NULL */
    bool (*emit)(void *user, const char *text, size_t size_bytes); /* whole UTF-8 characters; false stops */
    void *user;

    /* results */
    enum stop stop;
    sc_token *tokens; /* (n_tokens) without the one that ended the text; owned: generation_finish */
    size_t n_tokens;
    bool cut_inside_token; /* stop_text began inside a token, so the tokens say more than the text */
};

bool generator_init(struct generator *g, struct sc_engine *engine, const struct options *o,
                    struct sc_error *e) SC_CHECK;
void generator_finish(struct generator *g); /* accepts a zeroed one */

/*
 * Makes the session hold exactly these tokens, of which there is at least one, and computes what may come after them.
 * Tokens that it holds already are not computed again. Fails if there are more than the context holds.
 */
bool generator_read(struct generator *g, const sc_token *tokens, size_t n_tokens, struct sc_error *e) SC_CHECK;

/* Generates what follows. */
bool generator_write(struct generator *g, struct generation *run, struct sc_error *e) SC_CHECK;
void generation_finish(struct generation *run);

#endif
