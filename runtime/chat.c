/* SPDX-License-Identifier: Apache-2.0 */
#include "chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "printable.h"
#include "spm.h"

enum template { MISTRAL_V1, MISTRAL_V3, MISTRAL_V7, LLAMA2, CHATML, ZEPHYR, PLAIN, N_TEMPLATES };

static const char *const template_names[N_TEMPLATES] = {
    [MISTRAL_V1] = "mistral-v1", [MISTRAL_V3] = "mistral-v3", [MISTRAL_V7] = "mistral-v7", [LLAMA2] = "llama2",
    [CHATML] = "chatml",         [ZEPHYR] = "zephyr",         [PLAIN] = "plain",
};

struct sc_chat {
    const struct sc_tokenizer *t;
    enum template template;
    const char *stop;
    char note[400]; /* "": none */
};

/*
 * Collects text until a control token or the end of a turn, then encodes it in one go, because pieces may span what the
 * template and what the user wrote. Keeps the first error; later calls do nothing.
 */
struct builder {
    const struct sc_tokenizer *t;
    char *text;
    size_t size_bytes, capacity;
    bool continues; /* the text goes on within a word or line: no space before it */
    struct token_list out;
    bool failed;
    struct sc_error *e;
};

static void add_text(struct builder *b, const char *text, size_t size_bytes)
{
    if (b->failed || size_bytes == 0)
        return;
    if (size_bytes > b->capacity - b->size_bytes) {
        size_t capacity = (b->size_bytes + size_bytes) * 2;
        char *bigger = realloc(b->text, capacity);
        if (!bigger) {
            b->failed = !sc_fail_memory(b->e, "the conversation");
            return;
        }
        b->text = bigger;
        b->capacity = capacity;
    }
    memcpy(b->text + b->size_bytes, text, size_bytes);
    b->size_bytes += size_bytes;
}

static void add_string(struct builder *b, const char *string)
{
    add_text(b, string, strlen(string));
}

static void add_tokens(struct builder *b, const sc_token *tokens, size_t n_tokens)
{
    for (size_t i = 0; i < n_tokens && !b->failed; i++)
        b->failed = !token_list_add(&b->out, tokens[i], b->e);
}

/* Encodes the text so far. What follows begins a new word, unless `continues`. */
static void end_run(struct builder *b, bool continues)
{
    sc_token *tokens = NULL;
    size_t n_tokens = 0;
    uint32_t flags = b->continues ? SC_ENCODE_NO_SPACE_PREFIX : 0;
    if (!b->failed)
        b->failed = !sc_tokenizer_encode(b->t, b->text, b->size_bytes, flags, &tokens, &n_tokens, b->e);
    add_tokens(b, tokens, n_tokens);
    free(tokens);
    b->size_bytes = 0;
    b->continues = continues;
}

static void add_token(struct builder *b, sc_token token)
{
    end_run(b, false);
    if (token >= 0)
        add_tokens(b, &token, 1);
}

static sc_token find_control(const struct sc_tokenizer *t, const char *name)
{
    sc_token token = sc_tokenizer_find(t, name, strlen(name));
    return sc_tokenizer_is_control(t, token) ? token : -1;
}

/* A marker of the template: its control token, or plain text in a vocabulary that has none. */
static void add_marker(struct builder *b, const char *name)
{
    sc_token token = find_control(b->t, name);
    if (token >= 0)
        add_token(b, token);
    else
        add_string(b, name);
}

static void add_message(struct builder *b, const struct sc_message *m)
{
    if (m->tokens) {
        end_run(b, true);
        add_tokens(b, m->tokens, m->n_tokens);
    } else {
        add_text(b, m->text, m->size_bytes);
    }
}

/* Each function below adds one turn: `system` (NULL after the first turn), the question, and the answer unless NULL. */

static void mistral_v1(struct builder *b, const struct sc_message *system, const struct sc_message *question,
                       const struct sc_message *answer)
{
    add_string(b, "[INST] ");
    if (system) {
        add_message(b, system);
        add_string(b, "\n\n");
    }
    add_message(b, question);
    add_string(b, " [/INST]");
    end_run(b, false);
    if (answer) {
        add_message(b, answer);
        add_token(b, sc_tokenizer_eos(b->t));
    }
}

static void mistral_v3(struct builder *b, const struct sc_message *system, const struct sc_message *question,
                       const struct sc_message *answer)
{
    add_marker(b, "[INST]");
    if (system) {
        add_message(b, system);
        add_string(b, "\n\n");
    }
    add_message(b, question);
    add_marker(b, "[/INST]");
    if (answer) {
        struct sc_message m = *answer; /* mistral-common drops the spaces at its end */
        while (m.size_bytes > 0 && m.text[m.size_bytes - 1] == ' ')
            m.size_bytes--;
        add_message(b, &m);
        add_token(b, sc_tokenizer_eos(b->t));
    }
}

static void mistral_v7(struct builder *b, const struct sc_message *system, const struct sc_message *question,
                       const struct sc_message *answer)
{
    if (system) {
        add_marker(b, "[SYSTEM_PROMPT]");
        add_message(b, system);
        add_marker(b, "[/SYSTEM_PROMPT]");
    }
    mistral_v3(b, NULL, question, answer);
}

static void llama2(struct builder *b, const struct sc_message *system, const struct sc_message *question,
                   const struct sc_message *answer)
{
    add_string(b, "[INST] ");
    if (system) {
        add_string(b, "<<SYS>>\n");
        add_message(b, system);
        add_string(b, "\n<</SYS>>\n\n");
    }
    add_message(b, question);
    add_string(b, " [/INST]");
    end_run(b, false);
    if (answer) {
        add_message(b, answer);
        if (!answer->tokens)
            add_string(b, " ");
        add_token(b, sc_tokenizer_eos(b->t));
        add_token(b, sc_tokenizer_bos(b->t)); /* every turn begins with one */
    }
}

static void chatml_message(struct builder *b, const char *role, const struct sc_message *m)
{
    add_marker(b, "<|im_start|>");
    add_string(b, role);
    add_string(b, "\n");
    if (!m)
        return;
    end_run(b, true);
    add_message(b, m);
    add_marker(b, "<|im_end|>");
    add_string(b, "\n");
}

static void chatml(struct builder *b, const struct sc_message *system, const struct sc_message *question,
                   const struct sc_message *answer)
{
    if (system)
        chatml_message(b, "system", system);
    chatml_message(b, "user", question);
    chatml_message(b, "assistant", answer);
}

static void zephyr_message(struct builder *b, const char *marker, const struct sc_message *m)
{
    add_marker(b, marker);
    add_string(b, "\n");
    if (!m)
        return;
    end_run(b, true);
    add_message(b, m);
    add_token(b, sc_tokenizer_eos(b->t));
    add_string(b, "\n");
}

static void zephyr(struct builder *b, const struct sc_message *system, const struct sc_message *question,
                   const struct sc_message *answer)
{
    if (system)
        zephyr_message(b, "<|system|>", system);
    zephyr_message(b, "<|user|>", question);
    zephyr_message(b, "<|assistant|>", answer);
}

/* For base models, which continue any dialogue that is laid out clearly. */
static void plain(struct builder *b, const struct sc_message *system, const struct sc_message *question,
                  const struct sc_message *answer)
{
    if (system) {
        add_message(b, system);
        add_string(b, "\n\n");
    }
    add_string(b, "User: ");
    add_message(b, question);
    add_string(b, "\nAssistant:");
    end_run(b, false);
    if (answer) {
        add_message(b, answer);
        end_run(b, true);
        add_string(b, "\n");
    }
}

static void (*const turns[N_TEMPLATES])(struct builder *, const struct sc_message *, const struct sc_message *,
                                        const struct sc_message *) = {
    [MISTRAL_V1] = mistral_v1, [MISTRAL_V3] = mistral_v3, [MISTRAL_V7] = mistral_v7, [LLAMA2] = llama2,
    [CHATML] = chatml,         [ZEPHYR] = zephyr,         [PLAIN] = plain,
};

/* The template itself begins with BOS, whatever add_bos_token says. */
static const bool writes_bos[N_TEMPLATES] = {
    [MISTRAL_V1] = true,
    [MISTRAL_V3] = true,
    [MISTRAL_V7] = true,
    [LLAMA2] = true,
};

static bool check_order(const struct sc_message *messages, size_t n_messages, struct sc_error *e)
{
    size_t first = n_messages > 0 && messages[0].role == SC_ROLE_SYSTEM;
    if (first == n_messages)
        return sc_fail(e, SC_INVALID_ARGUMENT, "the conversation has no question yet");
    for (size_t i = first; i < n_messages; i++)
        if (messages[i].role != ((i - first) % 2 ? SC_ROLE_ASSISTANT : SC_ROLE_USER))
            return sc_fail(e, SC_INVALID_ARGUMENT, "message %zu of the conversation should be from the %s", i + 1,
                           (i - first) % 2 ? "assistant" : "user");
    if (messages[n_messages - 1].role != SC_ROLE_USER)
        return sc_fail(e, SC_INVALID_ARGUMENT, "the conversation ends with an answer, so there is nothing to answer");
    return true;
}

bool sc_chat_encode(const struct sc_chat *c, const struct sc_message *messages, size_t n_messages, sc_token **tokens,
                    size_t *n_tokens, struct sc_error *e)
{
    *tokens = NULL;
    *n_tokens = 0;
    if (!check_order(messages, n_messages, e))
        return false;
    struct builder b = {.t = c->t, .e = e};
    if (writes_bos[c->template] || sc_tokenizer_adds_bos(c->t))
        add_token(&b, sc_tokenizer_bos(c->t));

    const struct sc_message *end = messages + n_messages;
    const struct sc_message *system = messages[0].role == SC_ROLE_SYSTEM ? messages++ : NULL;
    for (; messages < end; messages += 2, system = NULL)
        turns[c->template](&b, system, messages, messages + 1 < end ? messages + 1 : NULL);
    end_run(&b, false);
    free(b.text);
    if (b.failed) {
        free(b.out.items);
        return false;
    }
    *tokens = b.out.items;
    *n_tokens = b.out.n;
    return true;
}

static bool contains(struct sc_gguf_string s, const char *part)
{
    size_t size_bytes = strlen(part);
    for (size_t i = 0; i + size_bytes <= s.size_bytes; i++)
        if (memcmp(s.data + i, part, size_bytes) == 0)
            return true;
    return false;
}

/* Templates are programs in Jinja; which format they write is told by the markers in them. */
static enum template recognise(const struct sc_tokenizer *t, struct sc_gguf_string program)
{
    if (contains(program, "<|im_start|>"))
        return CHATML;
    if (contains(program, "[INST]")) {
        if (contains(program, "<<SYS>>"))
            return LLAMA2;
        if (find_control(t, "[INST]") < 0)
            return MISTRAL_V1;
        bool is_v7 = contains(program, "[SYSTEM_PROMPT]") && find_control(t, "[SYSTEM_PROMPT]") >= 0;
        return is_v7 ? MISTRAL_V7 : MISTRAL_V3;
    }
    if (contains(program, "<|user|>") && contains(program, "<|assistant|>") && contains(program, "eos_token"))
        return ZEPHYR;
    return PLAIN;
}

static bool choose(struct sc_chat *c, const struct sc_gguf *g, const char *name, struct sc_error *e)
{
    struct printable_path path = sc_printable_path(sc_gguf_path(g));
    struct sc_gguf_string program;
    bool has_program = sc_gguf_read_string(sc_gguf_find_value(g, "tokenizer.chat_template"), &program);
    if (name) {
        size_t i = 0;
        while (i < N_TEMPLATES && strcmp(template_names[i], name) != 0)
            i++;
        if (i == N_TEMPLATES) {
            char names[200] = "";
            for (i = 0; i < N_TEMPLATES; i++)
                snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "", template_names[i]);
            return sc_fail(e, SC_INVALID_ARGUMENT, "there is no chat template \"%s\"; there are %s",
                           sc_printable(name, strlen(name)).text, names);
        }
        c->template = (enum template)i;
    } else {
        c->template = has_program ? recognise(c->t, program) : PLAIN;
    }
    if (!name && c->template == PLAIN)
        snprintf(c->note, sizeof c->note, "%s has %s, so the conversation is written as \"User: ... Assistant: ...\"",
                 path.text, has_program ? "a chat template of an unknown kind" : "no chat template");

    static const char *const needed[N_TEMPLATES] = {[MISTRAL_V3] = "[INST]", [MISTRAL_V7] = "[SYSTEM_PROMPT]"};
    const char *marker = needed[c->template];
    if (marker && find_control(c->t, marker) < 0)
        return sc_fail(e, SC_UNSUPPORTED, "%s: chat template %s needs the control token %s, which the vocabulary lacks",
                       path.text, template_names[c->template], marker);
    if (c->template == PLAIN)
        c->stop = "\nUser:";
    if (c->template == CHATML && find_control(c->t, "<|im_end|>") < 0)
        c->stop = "<|im_end|>";
    return true;
}

struct sc_chat *sc_chat_create(const struct sc_gguf *g, const struct sc_tokenizer *t, const char *name,
                               struct sc_error *e)
{
    struct sc_chat *c = calloc(1, sizeof *c);
    if (!c) {
        sc_fail_memory(e, "the conversation");
        return NULL;
    }
    c->t = t;
    if (!choose(c, g, name, e)) {
        free(c);
        return NULL;
    }
    return c;
}

void sc_chat_destroy(struct sc_chat *c)
{
    free(c);
}

const char *sc_chat_template(const struct sc_chat *c)
{
    return template_names[c->template];
}

const char *sc_chat_note(const struct sc_chat *c)
{
    return c->note[0] ? c->note : NULL;
}

const char *sc_chat_stop(const struct sc_chat *c)
{
    return c->stop;
}

const char *const *sc_chat_templates(size_t *count)
{
    *count = N_TEMPLATES;
    return template_names;
}
