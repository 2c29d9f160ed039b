/* SPDX-License-Identifier: Apache-2.0 */
/* A conversation with a model: questions become answers, and what the session knows already is not computed again. */
#ifndef SCORIA_CLI_TALK_H
#define SCORIA_CLI_TALK_H

#include "conversation.h"
#include "generate.h"

struct talk {
    struct generator generator;
    struct sc_chat *chat;
    struct conversation conversation;
    int64_t max_tokens; /* of an answer, -1: no limit */
};

/* Borrows engine. To be finished also after a failure. */
bool talk_init(struct talk *t, struct sc_engine *engine, const struct options *o, struct sc_error *e) SC_CHECK;
void talk_finish(struct talk *t);

/*
 * Asks, and hands the answer to emit as it comes. If the context is too small for all, the oldest questions with their
 * answers are forgotten, *n_forgotten of them. On failure the conversation is what it was before; an answer that Ctrl-C
 * cut short (*stop tells) is part of it.
 */
bool talk_ask(struct talk *t, const char *question, size_t size_bytes,
              bool (*emit)(void *user, const char *text, size_t size_bytes), void *user, size_t *n_forgotten,
              enum stop *stop, struct sc_error *e) SC_CHECK;

#endif
