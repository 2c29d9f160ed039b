/* SPDX-License-Identifier: Apache-2.0 */
/* The messages of a chat: perhaps a system message, then questions and answers in turn. */
#ifndef SCORIA_CLI_CONVERSATION_H
#define SCORIA_CLI_CONVERSATION_H

#include "scoria.h"

/* Owns the messages with their texts and tokens. Start with {0}. */
struct conversation {
    struct sc_message *messages;
    size_t n, capacity;
};

/* Copies the text and takes the tokens (may be NULL), also on failure. */
bool conversation_add(struct conversation *c, enum sc_role role, const char *text, size_t size_bytes, sc_token *tokens,
                      size_t n_tokens, struct sc_error *e) SC_CHECK;
void conversation_drop_last(struct conversation *c);

/* Sets, changes or (an empty text) removes the system message. */
bool conversation_set_system(struct conversation *c, const char *text, size_t size_bytes, struct sc_error *e) SC_CHECK;

size_t conversation_n_system(const struct conversation *c);      /* 1 if there is a system message, or else 0 */
void conversation_drop_oldest(struct conversation *c, size_t n); /* the first n messages after the system's */
void conversation_reset(struct conversation *c);                 /* keeps only the system's */
void conversation_finish(struct conversation *c);

/* As JSON: {"messages": [{"role": "user", "content": "..."}]}. A failed load leaves *c as it was. */
bool conversation_save(const struct conversation *c, const char *path, struct sc_error *e) SC_CHECK;
bool conversation_load(struct conversation *c, const char *path, struct sc_error *e) SC_CHECK;

#endif
