/* SPDX-License-Identifier: Apache-2.0 */
#include "talk.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

bool talk_init(struct talk *t, struct sc_engine *engine, const struct options *o, struct sc_error *e)
{
    *t = (struct talk){.max_tokens = o->predict};
    if (!generator_init(&t->generator, engine, o, e))
        return false;
    t->chat = sc_chat_create(sc_engine_gguf(engine), t->generator.tokenizer, o->chat_template, e);
    return t->chat && (!o->system || conversation_set_system(&t->conversation, o->system, strlen(o->system), e));
}

void talk_finish(struct talk *t)
{
    conversation_finish(&t->conversation);
    sc_chat_destroy(t->chat);
    generator_finish(&t->generator);
    t->chat = NULL;
}

/* The tokens without the oldest n_skipped messages. */
static bool encode(const struct talk *t, size_t n_skipped, sc_token **tokens, size_t *n_tokens, struct sc_error *e)
{
    const struct conversation *c = &t->conversation;
    size_t n_system = conversation_n_system(c), n = c->n - n_skipped;
    struct sc_message *messages = malloc(c->n * sizeof *messages);

    if (!messages)
        return sc_fail_memory(e, "the conversation");
    if (n_system)
        messages[0] = c->messages[0];
    memcpy(messages + n_system, c->messages + n_system + n_skipped, (n - n_system) * sizeof *messages);
    bool ok = sc_chat_encode(t->chat, messages, n, tokens, n_tokens, e);
    free(messages);
    return ok;
}

/*
 * The tokens that leave room for an answer. Once something has to be forgotten, room for several answers is made at
 * once: the session can keep nothing of what follows a gap and has to read all the rest anew.
 */
static bool fit(const struct talk *t, sc_token **tokens, size_t *n_tokens, size_t *n_skipped, struct sc_error *e)
{
    size_t n_ctx = sc_engine_n_ctx(t->generator.engine),
           n_last = t->conversation.n - conversation_n_system(&t->conversation);
    size_t room = n_ctx / 8;

    if (t->max_tokens >= 0 && (size_t)t->max_tokens < room)
        room = (size_t)t->max_tokens;
    for (*n_skipped = 0;; *n_skipped += 2) {
        if (!encode(t, *n_skipped, tokens, n_tokens, e))
            return false;
        if (*n_tokens + (*n_skipped ? n_ctx / 4 : room) <= n_ctx)
            return true;
        if (*n_skipped + 1 == n_last) /* the question alone: perhaps there is room enough */
            break;
        free(*tokens);
    }
    if (*n_tokens < n_ctx)
        return true;
    free(*tokens);
    return sc_fail(e, SC_CONTEXT_FULL, "the question has %zu tokens but the context holds %zu (-c sets it)", *n_tokens,
                   n_ctx);
}

static bool answer(struct talk *t, struct generation *run, size_t *n_skipped, struct sc_error *e)
{
    sc_token *tokens;
    size_t n_tokens;

    if (!fit(t, &tokens, &n_tokens, n_skipped, e))
        return false;
    bool ok = generator_read(&t->generator, tokens, n_tokens, e);
    free(tokens);
    return ok && generator_write(&t->generator, run, e);
}

/* Passes the text on, and keeps it. */
struct listener {
    struct text text;
    bool (*emit)(void *user, const char *text, size_t size_bytes);
    void *user;
    struct sc_error failure;
};

static bool listen(void *user, const char *text, size_t size_bytes)
{
    struct listener *l = user;

    return text_append(&l->text, text, size_bytes, &l->failure) && l->emit(l->user, text, size_bytes);
}

bool talk_ask(struct talk *t, const char *question, size_t size_bytes,
              bool (*emit)(void *user, const char *text, size_t size_bytes), void *user, size_t *n_forgotten,
              enum stop *stop, struct sc_error *e)
{
    struct conversation *c = &t->conversation;
    struct listener listener = {.emit = emit, .user = user};
    struct generation run = {
        .max_tokens = t->max_tokens, .stop_text = sc_chat_stop(t->chat), .emit = listen, .user = &listener};
    size_t n_skipped = 0;

    *n_forgotten = 0;
    if (!conversation_add(c, SC_ROLE_USER, question, size_bytes, NULL, 0, e))
        return false;
    bool ok = answer(t, &run, &n_skipped, e);
    if (listener.failure.code)
        ok = sc_fail(e, listener.failure.code, "%s", listener.failure.text);
    if (ok) {
        bool exact = !run.cut_inside_token; /* or else the text is encoded anew next time */
        ok = conversation_add(c, SC_ROLE_ASSISTANT, listener.text.data ? listener.text.data : "",
                              listener.text.size_bytes, exact ? run.tokens : NULL, exact ? run.n_tokens : 0, e);
        if (exact)
            run.tokens = NULL; /* taken */
    }
    if (ok) {
        conversation_drop_oldest(c, n_skipped);
        *n_forgotten = n_skipped / 2;
        *stop = run.stop;
    } else {
        conversation_drop_last(c);
    }
    generation_finish(&run);
    text_finish(&listener.text);
    return ok;
}
