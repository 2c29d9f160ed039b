/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "engine.h"
#include "generate.h"
#include "interrupt.h"
#include "output.h"
#include "report.h"
#include "scoria.h"
#include "terminal.h"
#include "text.h"

struct run {
    const struct options *o;
    struct text prompt;
    struct text text;        /* what was generated, kept only for JSON */
    char last;               /* its last byte, 0: none came */
    struct sc_error failure; /* of keeping it */
    struct sc_engine *engine;
    struct generator generator;
    double start, load_seconds, first_seconds; /* first_seconds: from the start to the first text */
};

static bool read_prompt(struct run *r, struct sc_error *e)
{
    if (r->o->prompt && !text_append(&r->prompt, r->o->prompt, strlen(r->o->prompt), e))
        return false;
    if (r->o->file) {
        if (!text_read(&r->prompt, r->o->file, e))
            return false;
        text_drop_newline(&r->prompt);
    }
    return text_check_utf8("the prompt", r->prompt.data, r->prompt.size_bytes, e);
}

static bool emit(void *user, const char *text, size_t size_bytes)
{
    struct run *r = user;

    if (!r->last)
        r->first_seconds = engine_clock() - r->start;
    r->last = text[size_bytes - 1];
    if (r->o->json)
        return text_append(&r->text, text, size_bytes, &r->failure);
    return output_model_text(text, size_bytes) && output_flush();
}

static void show_prompt(const struct run *r)
{
    const struct options *o = r->o;

    if (o->json || o->no_display_prompt || !(o->display_prompt || terminal_output()))
        return;
    output_printf("%s", terminal_dim());
    output_model_text(r->prompt.data ? r->prompt.data : "", r->prompt.size_bytes);
    output_printf("%s", terminal_normal());
    output_flush();
}

static void print_json(struct run *r, const struct generation *g, const struct sc_stats *s)
{
    json_t *object = json_object(), *ids = json_array(), *timings = report_timings(r->engine, s);

    for (size_t i = 0; i < g->n_tokens; i++)
        json_array_append_new(ids, json_integer(g->tokens[i]));
    json_put(timings, "load_seconds", json_number(r->load_seconds));
    json_put(timings, "first_token_seconds", r->last ? json_number(r->first_seconds) : json_null());
    json_put(object, "prompt", json_text(r->prompt.data, r->prompt.size_bytes));
    json_put(object, "text", json_text(r->text.data, r->text.size_bytes));
    json_put(object, "tokens", ids);
    json_put(object, "stop", json_word(stop_name(g->stop)));
    json_put(object, "seed", json_count(r->generator.seed));
    json_put(object, "device", json_word(sc_engine_device(r->engine)->name));
    json_put(object, "timings", timings);
    json_put(object, "stats", report_stats(s));
    json_put(object, "placement", report_placement(sc_engine_placement(r->engine)));
    output_json(object);
}

static bool end_line(const struct run *r)
{
    if (!r->o->json && r->last != '\n')
        output_write("\n", 1);
    return output_flush();
}

static void print_end(struct run *r, const struct generation *g)
{
    struct sc_stats s;

    sc_session_stats(r->generator.session, &s);
    if (r->o->json) {
        print_json(r, g, &s);
        return;
    }
    if (!end_line(r))
        return; /* what is wrong with the output is said at the end, and alone */
    if (g->stop == STOP_CONTEXT)
        terminal_note("stopped: the context of %" PRIu32 " tokens is full (-c sets it)", sc_engine_n_ctx(r->engine));
    report_print(r->engine, &s);
}

static bool generate(struct run *r, struct generation *g, struct sc_error *e)
{
    sc_token *tokens = NULL;
    size_t n_tokens;
    const char *text = r->prompt.data ? r->prompt.data : "";
    bool ok = false;

    if (!sc_tokenizer_encode(r->generator.tokenizer, text, r->prompt.size_bytes,
                             (uint32_t)SC_ENCODE_BOS | (uint32_t)SC_ENCODE_SPECIAL, &tokens, &n_tokens, e))
        return false;
    if (n_tokens == 0)
        sc_fail(e, SC_INVALID_ARGUMENT, "%s: the prompt is empty and the model has no token to begin with",
                r->o->model);
    else
        ok = generator_read(&r->generator, tokens, n_tokens, e);
    free(tokens);
    if (!ok)
        return false;
    show_prompt(r);
    g->continues = r->prompt.size_bytes > 0;
    ok = generator_write(&r->generator, g, e);
    if (r->failure.code)
        ok = sc_fail(e, r->failure.code, "%s", r->failure.text);
    if (!ok)
        end_line(r);
    return ok;
}

static int run(const struct options *o)
{
    struct run r = {.o = o, .start = engine_clock()};
    struct generation g = {.max_tokens = o->predict, .emit = emit, .user = &r};
    struct sc_error e = {0};
    bool ok = false;

    if (o->given[OPTION_PROMPT] == o->given[OPTION_FILE]) {
        terminal_error(o->prompt ? "run takes one prompt: -p or -f"
                                 : "run needs a prompt: -p TEXT, or -f FILE (- is standard input)");
        return EXIT_USAGE;
    }
    if (read_prompt(&r, &e))
        r.engine = engine_open(engine_params(o, 0), &e);
    r.load_seconds = engine_clock() - r.start;
    if (r.engine && generator_init(&r.generator, r.engine, o, &e))
        ok = generate(&r, &g, &e);
    if (ok)
        print_end(&r, &g);
    int status = !ok ? engine_failed(&e) : g.stop == STOP_INTERRUPTED ? EXIT_INTERRUPTED : EXIT_OK;
    generation_finish(&g);
    generator_finish(&r.generator);
    sc_engine_destroy(r.engine);
    text_finish(&r.text);
    text_finish(&r.prompt);
    return status;
}

static const enum option_id options[] = {
    OPTION_MODEL,      OPTION_PROMPT,         OPTION_FILE,
    OPTION_PREDICT,    OPTION_CONTEXT,        OPTIONS_SAMPLING,
    OPTION_IGNORE_EOS, OPTION_DISPLAY_PROMPT, OPTION_NO_DISPLAY_PROMPT,
    OPTIONS_ENGINE,    OPTION_ROUTING_TRACE,  OPTION_NO_HOT_SET,
    OPTION_LOG_LEVEL,  OPTION_JSON,
};

const struct command command_run = {
    .name = "run",
    .summary = "generate the text that continues a prompt",
    .usage = "-m MODEL -p TEXT [FLAGS]",
    .details =
        "The text goes to standard output as it is generated, a line with the speeds to standard error at the end.\n"
        "On a terminal the prompt is printed first; a pipe gets the new text alone, unless --display-prompt is\n"
        "given. With --json the output is one object: text, tokens, timings, statistics, placement.\n"
        "Ctrl-C stops the generation and prints the speeds.\n",
    .options = options,
    .n_options = N_ELEMENTS(options),
    .run = run,
};
