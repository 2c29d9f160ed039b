/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A conversation as the tokens that the model was trained to see. Messages become tokens one by one and never pass
 * through a common string, so that nothing a user writes can become a control token or end his turn.
 *
 * The tokens of a conversation begin with the tokens of its shorter versions: after an answer, append it and the next
 * question to the messages, and only what is new needs evaluating. For this, Mistral's v1 and v3 formats put the system
 * message before the first question, where llama.cpp puts it too (mistral-common moves it to the last one in v3).
 */
#ifndef SCORIA_CHAT_H
#define SCORIA_CHAT_H

#include "tokenizer.h"

enum sc_role { SC_ROLE_SYSTEM, SC_ROLE_USER, SC_ROLE_ASSISTANT };

struct sc_message {
    enum sc_role role;
    const char *text;
    size_t size_bytes;
    /* An answer's own tokens, without the one that ended it; NULL: encode the text. They keep the KV cache valid. */
    const sc_token *tokens;
    size_t n_tokens;
};

struct sc_chat;

/*
 * Chooses the template: `name`, or if that is NULL the one that tokenizer.chat_template of the file is recognised as,
 * or else "plain". Borrows t. Fails if there is no template of that name (the error lists them), or if the vocabulary
 * lacks its control tokens.
 */
struct sc_chat *sc_chat_create(const struct sc_gguf *g, const struct sc_tokenizer *t, const char *name,
                               struct sc_error *e) SC_CHECK;
void sc_chat_destroy(struct sc_chat *c); /* accepts NULL */

const char *sc_chat_template(const struct sc_chat *c); /* "mistral-v3" */

/* One sentence for the user if the template is a guess (the file has none, or an unknown one), otherwise NULL. */
const char *sc_chat_note(const struct sc_chat *c);

/* Text that ends an answer just as sc_tokenizer_is_end does and is not part of it ("\nUser:"), or NULL. */
const char *sc_chat_stop(const struct sc_chat *c);

/* All names, *count of them, for help texts. */
const char *const *sc_chat_templates(size_t *count);

/*
 * The tokens that the next answer follows. Messages are at most one of the system, first, then questions and answers in
 * turn, a question last. Sets *tokens to *n_tokens tokens that the caller frees with free().
 */
bool sc_chat_encode(const struct sc_chat *c, const struct sc_message *messages, size_t n_messages, sc_token **tokens,
                    size_t *n_tokens, struct sc_error *e) SC_CHECK;

#endif
