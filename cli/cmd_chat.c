/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <string.h>

#include "command.h"
#include "engine.h"
#include "interrupt.h"
#include "line.h"
#include "output.h"
#include "report.h"
#include "scoria.h"
#include "talk.h"
#include "terminal.h"
#include "text.h"

enum next { NEXT_GO_ON, NEXT_LEAVE };

struct slash {
    const char *name;
    const char *argument; /* NULL: takes none */
    const char *help;
    bool (*run)(struct talk *t, const char *argument, struct sc_error *e); /* NULL: leaves */
};

static bool slash_help(struct talk *t, const char *argument, struct sc_error *e);

static bool slash_reset(struct talk *t, const char *argument, struct sc_error *e)
{
    (void)argument, (void)e;
    conversation_reset(&t->conversation);
    terminal_note("the conversation starts anew");
    return true;
}

static bool slash_system(struct talk *t, const char *argument, struct sc_error *e)
{
    if (!text_check_utf8("the system message", argument, strlen(argument), e) ||
        !conversation_set_system(&t->conversation, argument, strlen(argument), e))
        return false;
    terminal_note(*argument ? "the system message is set" : "there is no system message any more");
    return true;
}

static bool slash_save(struct talk *t, const char *argument, struct sc_error *e)
{
    if (!*argument)
        return sc_fail(e, SC_INVALID_ARGUMENT, "/save needs a FILE");
    if (!conversation_save(&t->conversation, argument, e))
        return false;
    terminal_note("%s: %zu messages saved", argument, t->conversation.n);
    return true;
}

static bool slash_load(struct talk *t, const char *argument, struct sc_error *e)
{
    if (!*argument)
        return sc_fail(e, SC_INVALID_ARGUMENT, "/load needs a FILE");
    if (!conversation_load(&t->conversation, argument, e))
        return false;
    terminal_note("%s: %zu messages loaded", argument, t->conversation.n);
    return true;
}

static bool slash_stats(struct talk *t, const char *argument, struct sc_error *e)
{
    struct sc_stats s;

    (void)argument, (void)e;
    sc_session_stats(t->generator.session, &s);
    report_print(t->generator.engine, &s);
    terminal_note("context: %" PRIu32 " of %" PRIu32 " tokens", sc_session_n_past(t->generator.session),
                  sc_engine_n_ctx(t->generator.engine));
    return true;
}

static const struct slash slashes[] = {
    {"/help", NULL, "this list", slash_help},
    {"/reset", NULL, "forget the conversation, keep the system message", slash_reset},
    {"/system", "TEXT", "set the system message; without TEXT: remove it", slash_system},
    {"/save", "FILE", "write the conversation to FILE, as JSON", slash_save},
    {"/load", "FILE", "go on with a conversation that was saved", slash_load},
    {"/stats", NULL, "speeds and statistics so far", slash_stats},
    {"/exit", NULL, "leave, as Ctrl-D does", NULL},
};

static bool slash_help(struct talk *t, const char *argument, struct sc_error *e)
{
    (void)t, (void)argument, (void)e;
    for (size_t i = 0; i < N_ELEMENTS(slashes); i++)
        terminal_note("%-8s %-5s %s", slashes[i].name, slashes[i].argument ? slashes[i].argument : "", slashes[i].help);
    terminal_note(
        "A line that ends in \\ goes on in the next. Ctrl-C stops an answer. A question that begins with / needs a "
        "space before it.");
    return true;
}

/* A line that begins with a slash. */
static enum next obey(struct talk *t, char *line, bool *failed)
{
    const char *names[N_ELEMENTS(slashes)];
    size_t length = strcspn(line, " \n");
    const char *argument = line + length + strspn(line + length, " \n");
    struct sc_error e = {0};

    for (size_t i = 0; i < N_ELEMENTS(slashes); i++) {
        const struct slash *s = &slashes[i];
        names[i] = s->name;
        if (strlen(s->name) != length || memcmp(s->name, line, length))
            continue;
        if (!s->run)
            return NEXT_LEAVE;
        if (!s->argument && *argument)
            sc_fail(&e, SC_INVALID_ARGUMENT, "%s takes nothing after it", s->name);
        if (e.code || !s->run(t, argument, &e)) {
            terminal_error("%s", e.text);
            *failed = true;
        }
        return NEXT_GO_ON;
    }
    line[length] = 0;
    const char *near = options_nearest(line, names, N_ELEMENTS(names));
    if (near)
        terminal_error("there is no command '%s'; did you mean '%s'?", line, near);
    else
        terminal_error("there is no command '%s'; /help lists those that there are", line);
    *failed = true;
    return NEXT_GO_ON;
}

static bool emit(void *user, const char *text, size_t size_bytes)
{
    char *last = user;

    *last = text[size_bytes - 1];
    return output_model_text(text, size_bytes) && output_flush();
}

static enum next ask(struct talk *t, const struct text *line, bool *failed)
{
    struct sc_error e = {0};
    size_t n_forgotten;
    enum stop stop = STOP_END;
    char last = 0;

    interrupt_catch();
    bool ok = text_check_utf8("the question", line->data, line->size_bytes, &e) &&
              talk_ask(t, line->data, line->size_bytes, emit, &last, &n_forgotten, &stop, &e);
    if (last != '\n' && (ok || last))
        output_write("\n", 1);
    if (!output_flush())
        return NEXT_LEAVE;
    if (!ok) {
        terminal_clear();
        if (e.code == SC_CANCELLED)
            terminal_note("stopped before the answer began; the question is forgotten");
        else
            terminal_error("%s", e.text);
        *failed = *failed || e.code != SC_CANCELLED;
        return e.code == SC_DEVICE_LOST ? NEXT_LEAVE : NEXT_GO_ON;
    }
    if (n_forgotten)
        terminal_note("the context is full: the oldest %zu question%s forgotten", n_forgotten,
                      n_forgotten == 1 ? " was" : "s were");
    if (stop == STOP_CONTEXT)
        terminal_note("the answer ends here: the context of %" PRIu32 " tokens is full (-c sets it)",
                      sc_engine_n_ctx(t->generator.engine));
    return stop == STOP_OUTPUT ? NEXT_LEAVE : NEXT_GO_ON;
}

static void greet(const struct talk *t)
{
    struct sc_gguf_string name = engine_model_name(t->generator.engine);
    const struct sc_device_info *device = sc_engine_device(t->generator.engine);

    if (sc_chat_note(t->chat))
        terminal_warning("%s", sc_chat_note(t->chat));
    if (terminal_input())
        terminal_note("%.*s on %s%s, context of %" PRIu32
                      " tokens, template %s. /help lists the commands, Ctrl-D leaves.",
                      name.size_bytes < 100 ? (int)name.size_bytes : 100, name.data, device->name,
                      device->kind == SC_DEVICE_CPU ? " (the CPU behind a Vulkan driver)" : "",
                      sc_engine_n_ctx(t->generator.engine), sc_chat_template(t->chat));
}

static int converse(struct talk *t)
{
    struct text line = {0};
    struct sc_error e = {0};
    bool failed = false;
    enum next next = NEXT_GO_ON;

    greet(t);
    line_init();
    while (next == NEXT_GO_ON) {
        enum line_result result = line_read(&line, "> ", &e);
        if (result == LINE_END)
            next = NEXT_LEAVE;
        else if (result == LINE_FAILED)
            next = NEXT_LEAVE, failed = true, terminal_error("%s", e.text);
        else if (result == LINE_INTERRUPTED || strspn(line.data, " \t\n") == line.size_bytes)
            continue;
        else if (line.data[0] == '/')
            next = obey(t, line.data, &failed);
        else
            next = ask(t, &line, &failed);
    }
    line_finish();
    text_finish(&line);
    return failed && !terminal_input() ? EXIT_FAILED : EXIT_OK; /* who sits there has seen what failed */
}

static int run(const struct options *o)
{
    struct talk talk = {0};
    struct sc_error e = {0};
    struct sc_engine *engine = NULL;

    if (!o->system || text_check_utf8("the system prompt", o->system, strlen(o->system), &e))
        engine = engine_open(engine_params(o, 0), &e);
    int status = engine && talk_init(&talk, engine, o, &e) ? converse(&talk) : engine_failed(&e);
    talk_finish(&talk);
    sc_engine_destroy(engine);
    return status;
}

static const enum option_id options[] = {
    OPTION_MODEL,     OPTION_SYSTEM,  OPTION_TEMPLATE,      OPTION_PREDICT,    OPTION_CONTEXT,
    OPTIONS_SAMPLING, OPTIONS_ENGINE, OPTION_ROUTING_TRACE, OPTION_NO_HOT_SET, OPTION_LOG_LEVEL,
};

const struct command command_chat = {
    .name = "chat",
    .summary = "talk with a model",
    .usage = "-m MODEL [FLAGS]",
    .details =
        "On a terminal lines can be edited, and the history is kept in $XDG_STATE_HOME/scoria. Ctrl-C stops an answer\n"
        "or clears the line, Ctrl-D leaves, /help lists more commands. From a pipe every line is a question.\n"
        "When the context is full, the oldest questions and answers are forgotten.\n",
    .options = options,
    .n_options = N_ELEMENTS(options),
    .run = run,
};
