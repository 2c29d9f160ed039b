/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "engine.h"
#include "interrupt.h"
#include "output.h"
#include "save.h"
#include "scoria.h"
#include "terminal.h"

enum { MAX_CHUNK_BYTES = 64 << 20 }; /* of logits held at a time */

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the file is little endian, and written as the floats lie in memory"
#endif

static bool read_tokens(const struct options *o, uint32_t n_vocab, sc_token *tokens, struct sc_error *e)
{
    for (size_t i = 0; i < o->tokens.n; i++) {
        if (o->tokens.values[i] >= n_vocab)
            return sc_fail(e, SC_INVALID_ARGUMENT, "%s: token %" PRId64 " is not in the vocabulary of %" PRIu32,
                           o->model, o->tokens.values[i], n_vocab);
        tokens[i] = (sc_token)o->tokens.values[i];
    }
    return true;
}

static bool write_logits(const struct options *o, struct sc_engine *engine, struct save *out, struct sc_error *e)
{
    size_t n_vocab = sc_engine_n_vocab(engine), n_tokens = o->tokens.n;
    size_t row_bytes = n_vocab * sizeof(float);
    size_t chunk = o->decode ? 1 : sc_engine_n_batch(engine);
    struct sc_session *session = NULL;
    sc_token *tokens = NULL;
    float *logits = NULL;
    bool ok = false;

    if (chunk > MAX_CHUNK_BYTES / row_bytes)
        chunk = MAX_CHUNK_BYTES / row_bytes ? MAX_CHUNK_BYTES / row_bytes : 1;
    if (chunk > n_tokens)
        chunk = n_tokens;
    if (n_tokens > sc_engine_n_ctx(engine)) {
        sc_fail(e, SC_CONTEXT_FULL, "%s: %zu tokens are more than the context of %" PRIu32 " holds", o->model, n_tokens,
                sc_engine_n_ctx(engine));
        goto end;
    }
    tokens = malloc(n_tokens * sizeof *tokens);
    logits = malloc(chunk * row_bytes);
    if (!tokens || !logits) {
        sc_fail_memory(e, "the logits");
        goto end;
    }
    if (!read_tokens(o, (uint32_t)n_vocab, tokens, e))
        goto end;
    session = sc_session_create(engine, e);
    if (!session)
        goto end;
    for (size_t at = 0; at < n_tokens; at += chunk) {
        size_t n = n_tokens - at < chunk ? n_tokens - at : chunk;
        terminal_progress("computing", at, n_tokens);
        if (interrupt_requested())
            sc_fail(e, SC_CANCELLED, "interrupted");
        if (e->code || !sc_session_eval(session, tokens + at, n, logits, n, e) ||
            !save_write(out, logits, n * row_bytes, e))
            goto end;
    }
    ok = true;
end:
    terminal_clear();
    sc_session_destroy(session);
    free(logits);
    free(tokens);
    return ok;
}

static void print_summary(const struct options *o, const struct sc_engine *engine, double seconds)
{
    uint32_t n_vocab = sc_engine_n_vocab(engine);

    if (o->json && strcmp(o->output, "-")) {
        json_t *object = json_object();
        json_put(object, "file", json_word(o->output));
        json_put(object, "n_tokens", json_count(o->tokens.n));
        json_put(object, "n_vocab", json_count(n_vocab));
        json_put(object, "seconds", json_number(seconds));
        output_json(object);
    } else {
        terminal_note("%zu tokens x %" PRIu32 " logits in %.2f s, %.2f t/s", o->tokens.n, n_vocab, seconds,
                      (double)o->tokens.n / seconds);
    }
}

static int run(const struct options *o)
{
    struct sc_error e = {0};
    struct save out = {0};
    struct sc_engine *engine = NULL;
    struct sc_engine_params params = engine_params(o, o->tokens.n > 4096 ? (uint32_t)o->tokens.n : 0);
    bool ok = false;

    params.no_hot_set = true; /* equal calls give equal bits */
    /* before the model, whose loading may take long: is there a place to write to? */
    if (save_open(&out, o->output, &e))
        engine = engine_open(params, &e);
    if (engine) {
        double start = engine_clock();
        ok = write_logits(o, engine, &out, &e) && save_finish(&out, &e);
        if (ok)
            print_summary(o, engine, engine_clock() - start);
    }
    save_abandon(&out);
    sc_engine_destroy(engine);
    return ok ? EXIT_OK : engine_failed(&e);
}

static const enum option_id options[] = {
    OPTION_MODEL,   OPTION_TOKENS,        OPTION_OUTPUT,    OPTION_DECODE, OPTION_CONTEXT,
    OPTIONS_ENGINE, OPTION_ROUTING_TRACE, OPTION_LOG_LEVEL, OPTION_JSON,
};

const struct command command_logits = {
    .name = "logits",
    .summary = "compute the logits of given tokens",
    .usage = "-m MODEL --tokens LIST [--decode] -o FILE [FLAGS]",
    .details =
        "Writes raw little-endian float32, tokens x vocabulary: row i says what follows token i. No token is added.\n"
        "FILE appears when it is complete; a failure leaves what was there.\n",
    .options = options,
    .n_options = N_ELEMENTS(options),
    .run = run,
};
