/* SPDX-License-Identifier: Apache-2.0 */
#include "generate.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"
#include "hold.h"
#include "interrupt.h"
#include "terminal.h"

const char *stop_name(enum stop stop)
{
    static const char *const names[] = {
        [STOP_END] = "end_of_text",         [STOP_COUNT] = "max_tokens",     [STOP_CONTEXT] = "context_full",
        [STOP_INTERRUPTED] = "interrupted", [STOP_OUTPUT] = "output_closed",
    };
    return names[stop];
}

static uint32_t random_seed(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t x = (uint64_t)t.tv_sec * 1000000007u ^ (uint64_t)t.tv_nsec << 20 ^ (uint64_t)getpid();
    x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
    return (uint32_t)(x >> 32);
}

bool generator_init(struct generator *g, struct sc_engine *engine, const struct options *o, struct sc_error *e)
{
    uint32_t n_vocab = sc_engine_n_vocab(engine), n_ctx = sc_engine_n_ctx(engine);

    *g = (struct generator){.engine = engine};
    g->tokenizer = sc_engine_tokenizer(engine, e);
    if (!g->tokenizer)
        return false;
    for (uint32_t i = 0; i < n_vocab && g->n_ends < MAX_END_TOKENS; i++)
        if (sc_tokenizer_is_end(g->tokenizer, (sc_token)i))
            g->ends[g->n_ends++] = (sc_token)i;
    g->seed = o->seed < 0 ? random_seed() : (uint32_t)o->seed;

    const struct sc_sampling sampling = {
        .temperature = (float)o->temperature,
        .top_k = (int32_t)o->top_k,
        .top_p = (float)o->top_p,
        .min_p = (float)o->min_p,
        .repeat_penalty = (float)o->repeat_penalty,
        .repeat_last_n = o->repeat_last_n < 0 || o->repeat_last_n > n_ctx ? n_ctx : (uint32_t)o->repeat_last_n,
        .seed = g->seed,
    };
    g->ignore_eos = o->ignore_eos;
    g->sampler = sc_sampler_create(&sampling, n_vocab, e);
    if (g->sampler && sc_sampler_n_candidates(g->sampler)) {
        const size_t n = sc_sampler_n_candidates(g->sampler) + (g->ignore_eos ? g->n_ends : 0);
        g->n_wanted = n <= SC_MAX_CANDIDATES ? (uint32_t)n : 0;
    }
    g->logits = g->n_wanted ? NULL : malloc(n_vocab * sizeof *g->logits);
    g->past = malloc(n_ctx * sizeof *g->past);
    if ((!g->n_wanted && !g->logits) || !g->past)
        sc_fail_memory(e, "the generator");
    else if (g->sampler)
        g->session = sc_session_create(engine, e);
    if (g->session)
        return true;
    generator_finish(g);
    return false;
}

void generator_finish(struct generator *g)
{
    sc_session_destroy(g->session);
    sc_sampler_destroy(g->sampler);
    free(g->logits);
    free(g->past);
    *g = (struct generator){0};
}

static bool eval(struct generator *g, const sc_token *tokens, size_t n_tokens, struct sc_error *e)
{
    uint32_t n_past = sc_session_n_past(g->session);

    g->n_top = g->n_wanted;
    if (!(g->n_wanted ? sc_session_eval_top(g->session, tokens, n_tokens, g->top, &g->n_top, e)
                      : sc_session_eval(g->session, tokens, n_tokens, g->logits, 1, e)))
        return false;
    memcpy(g->past + n_past, tokens, n_tokens * sizeof *tokens);
    for (size_t i = 0; i < n_tokens; i++)
        sc_sampler_accept(g->sampler, tokens[i]);
    return true;
}

bool generator_read(struct generator *g, const sc_token *tokens, size_t n_tokens, struct sc_error *e)
{
    uint32_t n_ctx = sc_engine_n_ctx(g->engine), n_past = sc_session_n_past(g->session), common = 0;

    if (n_tokens > n_ctx)
        return sc_fail(e, SC_CONTEXT_FULL, "the prompt has %zu tokens but the context holds %" PRIu32 " (-c sets it)",
                       n_tokens, n_ctx);
    /* the last one is always computed: its logits are wanted */
    while (common < n_past && common + 1 < n_tokens && g->past[common] == tokens[common])
        common++;
    sc_session_truncate(g->session, common);
    bool ok = eval(g, tokens + common, n_tokens - common, e);
    terminal_clear();
    return ok;
}

static bool is_end(const struct generator *g, sc_token token)
{
    for (size_t i = 0; i < g->n_ends; i++)
        if (g->ends[i] == token)
            return true;
    return false;
}

/* The next token, -1 if there is none. */
static sc_token choose(struct generator *g)
{
    size_t n = 0;

    if (!g->n_wanted) {
        for (size_t i = 0; g->ignore_eos && i < g->n_ends; i++)
            g->logits[g->ends[i]] = -INFINITY;
        return sc_sampler_sample(g->sampler, g->logits);
    }
    const size_t n_candidates = sc_sampler_n_candidates(g->sampler);
    for (size_t i = 0; i < g->n_top && n < n_candidates; i++)
        if (!g->ignore_eos || !is_end(g, g->top[i].token))
            g->top[n++] = g->top[i];
    return sc_sampler_choose(g->sampler, g->top, n);
}

static bool append(struct generation *run, size_t *capacity, sc_token token, struct sc_error *e)
{
    if (run->n_tokens == *capacity) {
        size_t grown = *capacity ? 2 * *capacity : 256;
        sc_token *tokens = realloc(run->tokens, grown * sizeof *tokens);
        if (!tokens)
            return sc_fail_memory(e, "the generated tokens");
        run->tokens = tokens;
        *capacity = grown;
    }
    run->tokens[run->n_tokens++] = token;
    return true;
}

/* One token: false when the text is over, why stands in run->stop, or on an error. */
static bool step(struct generator *g, struct generation *run, struct sc_decoder *decoder, struct hold *hold,
                 size_t *capacity, struct sc_error *e)
{
    char text[SC_DECODE_MAX_BYTES];

    run->stop = STOP_INTERRUPTED;
    if (interrupt_requested())
        return false;
    sc_token token = choose(g);
    if (token < 0)
        return sc_fail(e, SC_BAD_FILE, "%s: the model gave no number for any token",
                       sc_gguf_path(sc_engine_gguf(g->engine)));
    run->stop = STOP_END;
    if (is_end(g, token) || !append(run, capacity, token, e))
        return false;

    size_t length = sc_tokenizer_decode(g->tokenizer, decoder, token, false, text);
    run->stop = STOP_OUTPUT;
    if (!hold_text(hold, text, length, run->emit, run->user))
        return false;
    run->stop = STOP_END;
    if (hold->found) {
        run->cut_inside_token = true;
        return false;
    }
    run->stop = STOP_COUNT;
    if (run->max_tokens >= 0 && run->n_tokens >= (size_t)run->max_tokens)
        return false;
    run->stop = STOP_CONTEXT;
    if (sc_session_n_past(g->session) >= sc_engine_n_ctx(g->engine))
        return false;
    if (eval(g, &token, 1, e))
        return true;
    if (e->code == SC_CANCELLED) {
        *e = (struct sc_error){0};
        run->stop = STOP_INTERRUPTED;
    }
    return false;
}

bool generator_write(struct generator *g, struct generation *run, struct sc_error *e)
{
    struct sc_decoder decoder = {.started = run->continues};
    struct hold hold = {.stop = run->stop_text};
    char text[SC_DECODE_MAX_BYTES];
    size_t capacity = 0;

    run->tokens = NULL;
    run->n_tokens = 0;
    run->cut_inside_token = false;
    run->stop = STOP_COUNT;
    if (run->max_tokens != 0)
        while (step(g, run, &decoder, &hold, &capacity, e))
            ;
    if (e->code)
        return false;
    size_t length = sc_tokenizer_decode_end(&decoder, text);
    if (run->stop != STOP_OUTPUT &&
        (!hold_text(&hold, text, length, run->emit, run->user) || !hold_end(&hold, run->emit, run->user)))
        run->stop = STOP_OUTPUT;
    return true;
}

void generation_finish(struct generation *run)
{
    free(run->tokens);
    run->tokens = NULL;
    run->n_tokens = 0;
}
