/* SPDX-License-Identifier: Apache-2.0 */
#include "conversation.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "save.h"
#include "text.h"

static const char *const roles[] = {
    [SC_ROLE_SYSTEM] = "system", [SC_ROLE_USER] = "user", [SC_ROLE_ASSISTANT] = "assistant"};

static void free_message(struct sc_message *m)
{
    free((void *)m->text); /* const only for those who read */
    free((void *)m->tokens);
}

static bool insert(struct conversation *c, size_t at, enum sc_role role, const char *text, size_t size_bytes,
                   sc_token *tokens, size_t n_tokens, struct sc_error *e)
{
    char *copy = malloc(size_bytes + 1);

    if (copy && c->n == c->capacity) {
        size_t capacity = 2 * c->capacity + 16;
        struct sc_message *messages = realloc(c->messages, capacity * sizeof *messages);
        if (messages) {
            c->messages = messages;
            c->capacity = capacity;
        }
    }
    if (!copy || c->n == c->capacity) {
        free(copy);
        free(tokens);
        return sc_fail_memory(e, "the conversation");
    }
    if (size_bytes)
        memcpy(copy, text, size_bytes);
    copy[size_bytes] = 0;
    memmove(c->messages + at + 1, c->messages + at, (c->n - at) * sizeof *c->messages);
    c->messages[at] = (struct sc_message){role, copy, size_bytes, tokens, n_tokens};
    c->n++;
    return true;
}

bool conversation_add(struct conversation *c, enum sc_role role, const char *text, size_t size_bytes, sc_token *tokens,
                      size_t n_tokens, struct sc_error *e)
{
    return insert(c, c->n, role, text, size_bytes, tokens, n_tokens, e);
}

void conversation_drop_last(struct conversation *c)
{
    free_message(&c->messages[--c->n]);
}

size_t conversation_n_system(const struct conversation *c)
{
    return c->n && c->messages[0].role == SC_ROLE_SYSTEM;
}

static void drop(struct conversation *c, size_t at, size_t n)
{
    for (size_t i = at; i < at + n; i++)
        free_message(&c->messages[i]);
    memmove(c->messages + at, c->messages + at + n, (c->n - at - n) * sizeof *c->messages);
    c->n -= n;
}

bool conversation_set_system(struct conversation *c, const char *text, size_t size_bytes, struct sc_error *e)
{
    size_t had = conversation_n_system(c);

    if (size_bytes && !insert(c, 0, SC_ROLE_SYSTEM, text, size_bytes, NULL, 0, e))
        return false;
    if (had)
        drop(c, size_bytes ? 1 : 0, 1);
    return true;
}

void conversation_drop_oldest(struct conversation *c, size_t n)
{
    if (n)
        drop(c, conversation_n_system(c), n);
}

void conversation_reset(struct conversation *c)
{
    conversation_drop_oldest(c, c->n - conversation_n_system(c));
}

void conversation_finish(struct conversation *c)
{
    if (c->n)
        drop(c, 0, c->n);
    free(c->messages);
    *c = (struct conversation){0};
}

bool conversation_save(const struct conversation *c, const char *path, struct sc_error *e)
{
    json_t *list = json_array(), *object;
    struct save out;

    for (size_t i = 0; i < c->n; i++)
        json_array_append_new(list, json_pack("{s:s, s:o}", "role", roles[c->messages[i].role], "content",
                                              json_text(c->messages[i].text, c->messages[i].size_bytes)));
    object = json_pack("{s:o}", "messages", list);
    char *text = object ? json_dumps(object, JSON_INDENT(2)) : NULL;
    json_decref(object);
    if (!text)
        return sc_fail_memory(e, path);
    bool ok = save_open(&out, path, e) && save_write(&out, text, strlen(text), e) && save_write(&out, "\n", 1, e) &&
              save_finish(&out, e);
    save_abandon(&out);
    free(text);
    return ok;
}

static bool read_messages(struct conversation *c, const json_t *list, const char *path, struct sc_error *e)
{
    size_t i;
    json_t *item;

    json_array_foreach(list, i, item)
    {
        const json_t *role = json_object_get(item, "role"), *content = json_object_get(item, "content");
        bool has_system = conversation_n_system(c);
        enum sc_role wanted = (i - has_system) % 2 ? SC_ROLE_ASSISTANT : SC_ROLE_USER;

        if (!json_is_string(role) || !json_is_string(content))
            return sc_fail(e, SC_BAD_FILE, "%s: message %zu has no role and content", path, i + 1);
        if (i == 0 && !strcmp(json_string_value(role), roles[SC_ROLE_SYSTEM]))
            wanted = SC_ROLE_SYSTEM;
        if (strcmp(json_string_value(role), roles[wanted]))
            return sc_fail(e, SC_BAD_FILE, "%s: message %zu is of '%s' where one of '%s' must follow", path, i + 1,
                           json_string_value(role), roles[wanted]);
        if (!conversation_add(c, wanted, json_string_value(content), json_string_length(content), NULL, 0, e))
            return false;
    }
    if (c->n > conversation_n_system(c) && c->messages[c->n - 1].role == SC_ROLE_USER)
        return sc_fail(e, SC_BAD_FILE, "%s: the last question has no answer", path);
    return true;
}

bool conversation_load(struct conversation *c, const char *path, struct sc_error *e)
{
    struct conversation loaded = {0};
    struct text text = {0};
    json_error_t where;
    json_t *object = NULL;
    bool ok = text_read(&text, path, e);

    if (ok) {
        object = json_loadb(text.data ? text.data : "", text.size_bytes, 0, &where);
        const json_t *list = json_object_get(object, "messages");
        if (!object)
            ok = sc_fail(e, SC_BAD_FILE, "%s: line %d: %s", path, where.line, where.text);
        else if (!json_is_array(list))
            ok = sc_fail(e, SC_BAD_FILE, "%s: there are no messages in it", path);
        else
            ok = read_messages(&loaded, list, path, e);
    }
    if (ok) {
        conversation_finish(c);
        *c = loaded;
    } else {
        conversation_finish(&loaded);
    }
    json_decref(object);
    text_finish(&text);
    return ok;
}
