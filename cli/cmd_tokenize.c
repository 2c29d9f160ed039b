/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "engine.h"
#include "output.h"
#include "scoria.h"
#include "terminal.h"
#include "text.h"

static void print_tokens(const struct options *o, const struct sc_tokenizer *t, const sc_token *tokens, size_t n)
{
    if (o->json) {
        json_t *ids = json_array(), *pieces = json_array();
        for (size_t i = 0; i < n; i++) {
            struct sc_gguf_string piece = sc_tokenizer_piece(t, tokens[i]);
            json_array_append_new(ids, json_integer(tokens[i]));
            json_array_append_new(pieces, json_text(piece.data, piece.size_bytes));
        }
        json_t *object = json_pack("{s:I, s:o}", "n_tokens", (json_int_t)n, "ids", ids);
        if (o->ids)
            json_decref(pieces);
        else
            json_object_set_new(object, "pieces", pieces);
        output_json(object);
        return;
    }
    if (o->ids) {
        for (size_t i = 0; i < n; i++)
            output_printf(i ? " %" PRId32 : "%" PRId32, tokens[i]);
        output_printf("\n");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        struct sc_gguf_string piece = sc_tokenizer_piece(t, tokens[i]);
        output_printf("%6" PRId32 "  ", tokens[i]);
        output_quoted(piece.data, piece.size_bytes, SIZE_MAX);
        output_printf("\n");
    }
}

static bool encode(const struct options *o, const struct sc_tokenizer *t, const struct text *text, struct sc_error *e)
{
    uint32_t flags = (o->no_bos ? 0u : (uint32_t)SC_ENCODE_BOS) | (o->special ? (uint32_t)SC_ENCODE_SPECIAL : 0u);
    struct sc_error broken = {0};
    sc_token *tokens;
    size_t n;

    if (!text_check_utf8("the text", text->data, text->size_bytes, &broken))
        terminal_warning("%s; every broken sequence is read as U+FFFD", broken.text);
    if (!sc_tokenizer_encode(t, text->data ? text->data : "", text->size_bytes, flags, &tokens, &n, e))
        return false;
    print_tokens(o, t, tokens, n);
    free(tokens);
    return true;
}

static bool decode(const struct options *o, const struct sc_tokenizer *t, const struct text *ids, struct sc_error *e)
{
    struct integers list = {0};
    struct sc_decoder decoder = {0};
    struct text text = {0};
    char piece[SC_DECODE_MAX_BYTES];
    bool ok = true;

    if (!number_integers(ids->data ? ids->data : "", ids->size_bytes, 0, (int64_t)sc_tokenizer_n_vocab(t) - 1, &list))
        ok = sc_fail(e, SC_INVALID_ARGUMENT,
                     "--decode takes token ids from 0 to %" PRIu32 ", separated by commas or spaces",
                     sc_tokenizer_n_vocab(t) - 1);
    for (size_t i = 0; ok && i < list.n; i++) {
        size_t length = sc_tokenizer_decode(t, &decoder, (sc_token)list.values[i], o->special, piece);
        ok = text_append(&text, piece, length, e);
    }
    if (ok)
        ok = text_append(&text, piece, sc_tokenizer_decode_end(&decoder, piece), e);
    if (ok && o->json) {
        json_t *array = json_array();
        for (size_t i = 0; i < list.n; i++)
            json_array_append_new(array, json_integer(list.values[i]));
        output_json(json_pack("{s:o, s:o}", "ids", array, "text", json_text(text.data, text.size_bytes)));
    } else if (ok) {
        output_write(text.data, text.size_bytes);
        if (terminal_output())
            output_printf("\n");
    }
    text_finish(&text);
    integers_finish(&list);
    return ok;
}

/* The argument, -p, -f or standard input; for --decode all arguments together. */
static bool read_input(const struct options *o, struct text *text, struct sc_error *e)
{
    for (size_t i = 0; i < o->n_arguments; i++)
        if ((i && !text_append(text, " ", 1, e)) || !text_append(text, o->arguments[i], strlen(o->arguments[i]), e))
            return false;
    if (o->n_arguments)
        return true;
    if (o->prompt)
        return text_append(text, o->prompt, strlen(o->prompt), e);
    if (!text_read(text, o->file ? o->file : "-", e))
        return false;
    if (o->file)
        text_drop_newline(text);
    return true;
}

static int run(const struct options *o)
{
    struct sc_error e = {0};
    struct sc_gguf *g = NULL;
    struct sc_tokenizer *t = NULL;
    struct text text = {0};
    bool ok = false;

    if ((o->n_arguments > 0) + o->given[OPTION_PROMPT] + o->given[OPTION_FILE] > 1) {
        terminal_error("tokenize takes one text: an argument, -p, or -f");
        return EXIT_USAGE;
    }
    if (o->n_arguments > 1 && !o->decode) {
        terminal_error("tokenize takes one text but has %zu arguments; put quotes around it", o->n_arguments);
        return EXIT_USAGE;
    }
    g = sc_gguf_open(o->model, &e);
    if (g)
        t = sc_tokenizer_create(g, &e);
    if (t && read_input(o, &text, &e))
        ok = o->decode ? decode(o, t, &text, &e) : encode(o, t, &text, &e);
    if (g && !sc_gguf_check(g, &e))
        ok = false;
    text_finish(&text);
    sc_tokenizer_destroy(t);
    sc_gguf_close(g);
    return ok ? EXIT_OK : engine_failed(&e);
}

static const enum option_id options[] = {
    OPTION_MODEL, OPTION_PROMPT, OPTION_FILE, OPTION_IDS, OPTION_DECODE_IDS, OPTION_NO_BOS, OPTION_SPECIAL, OPTION_JSON,
};

const struct command command_tokenize = {
    .name = "tokenize",
    .summary = "turn text into tokens, and back",
    .usage = "-m MODEL [FLAGS] [TEXT]\n       scoria tokenize -m MODEL --decode [ID...]",
    .details =
        "Without TEXT, -p or -f the text is standard input, every byte of it. Prints a line for each token, its id\n"
        "and its piece as it stands in the vocabulary. Text that starts with a dash follows after --.\n"
        "With --decode the ids may be separated by commas or spaces; into a pipe the text goes as it is, with no\n"
        "newline added. No Vulkan driver is needed.\n",
    .options = options,
    .n_options = N_ELEMENTS(options),
    .takes_arguments = true,
    .run = run,
};
