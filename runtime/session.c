/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "clock.h"
#include "host_experts.h"
#include "pass.h"
#include "routing_trace.h"

struct sc_session {
    struct sc_engine *engine;
    struct pass pass;
    uint32_t n_past;
    struct sc_stats counted; /* what is counted here and not below */
    struct sc_stats base;    /* the counters when the statistics began */
};

/* Where the device has no room for the session's memory that was set aside, the model takes less. */
static bool init_pass(struct sc_session *s, struct sc_error *e)
{
    struct sc_error failure = {0};
    if (!s->engine->is_placed && !engine_place(s->engine, s->engine->placement.budget_bytes, e))
        return false;
    while (!pass_init(&s->pass, s->engine, &failure)) {
        pass_finish(&s->pass);
        if (failure.code != SC_OUT_OF_DEVICE_MEMORY || s->engine->n_sessions)
            return sc_fail(e, failure.code, "%s", failure.text);
        if (!engine_step_down(s->engine, &failure, e))
            return false;
        failure = (struct sc_error){0};
    }
    return true;
}

struct sc_session *sc_session_create(struct sc_engine *engine, struct sc_error *e)
{
    struct sc_session *s = calloc(1, sizeof(*s));
    if (!s) {
        sc_fail_memory(e, "the session");
        return NULL;
    }
    s->engine = engine;
    if (!init_pass(s, e)) {
        free(s);
        return NULL;
    }
    engine->n_sessions++;
    sc_session_reset_stats(s);
    return s;
}

void sc_session_destroy(struct sc_session *s)
{
    if (!s)
        return;
    pass_finish(&s->pass);
    s->engine->n_sessions--;
    free(s);
}

static bool check_tokens(const struct sc_session *s, const sc_token *tokens, size_t n, struct sc_error *e)
{
    const uint32_t n_ctx = s->engine->params.n_ctx, n_vocab = s->engine->config.n_vocab;
    if (n > n_ctx - s->n_past)
        return sc_fail(e, SC_CONTEXT_FULL, "%zu tokens do not fit: the context holds %u and %u are in it", n, n_ctx,
                       s->n_past);
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= n_vocab)
            return sc_fail(e, SC_INVALID_ARGUMENT, "token %d is not in the vocabulary of %u", tokens[i], n_vocab);
    return true;
}

/* What an evaluation is to give: the logits of its last tokens, or the best candidates for what follows the last one.
 */
struct wanted {
    float *logits;
    size_t n_logits;
    struct sc_candidate *top; /* NULL: logits */
    size_t *n_top;
};

static bool eval(struct sc_session *s, const sc_token *tokens, size_t n_tokens, const struct wanted *w,
                 struct sc_error *e)
{
    const struct sc_engine_params *p = &s->engine->params;
    const size_t first_logit = n_tokens - w->n_logits; /* the first token whose logits are wanted */
    for (size_t done = 0; done < n_tokens;) {
        const size_t left = n_tokens - done;
        const uint32_t n = left < p->n_batch ? (uint32_t)left : p->n_batch;
        const enum output output = w->top && left == n      ? OUTPUT_TOP
                                   : done + n > first_logit ? OUTPUT_LOGITS
                                                            : OUTPUT_NONE;
        s->pass.pace.n_done = done;
        s->pass.pace.n_total = n_tokens;
        if (!pass_run(&s->pass, tokens + done, n, s->n_past, output, w->top ? (uint32_t)*w->n_top : 0, e))
            return false;
        if (output == OUTPUT_LOGITS) {
            const size_t from = done > first_logit ? done : first_logit;
            if (!pass_logits(&s->pass, (uint32_t)(from - done), (uint32_t)(done + n - from),
                             w->logits + (from - first_logit) * s->engine->config.n_vocab, e))
                return false;
        }
        if ((output == OUTPUT_TOP && !pass_top(&s->pass, w->top, w->n_top, e)) || !pass_wait(&s->pass, e))
            return false;
        s->n_past += n;
        done += n;
        if (n_tokens > 1 && p->progress && !p->progress(p->user, SC_PHASE_PREFILL, done, n_tokens))
            return sc_fail(e, SC_CANCELLED, "the prompt was cancelled");
    }
    return store_check(s->engine->store, e) && routing_trace_flush(s->engine->trace, e);
}

static bool eval_timed(struct sc_session *s, const sc_token *tokens, size_t n_tokens, const struct wanted *w,
                       struct sc_error *e)
{
    if (!check_tokens(s, tokens, n_tokens, e))
        return false;
    const uint32_t n_past = s->n_past;
    const double start = clock_seconds();
    if (!eval(s, tokens, n_tokens, w, e)) {
        s->n_past = n_past;
        pass_abandon(
            &s->pass); /* what was submitted before the failure may still run in buffers that the next step fills */
        return false;
    }
    if (n_tokens == 1) {
        s->counted.n_decode_tokens++;
        s->counted.decode_seconds += clock_seconds() - start;
    } else {
        s->counted.n_prefill_tokens += n_tokens;
        s->counted.prefill_seconds += clock_seconds() - start;
    }
    return true;
}

bool sc_session_eval(struct sc_session *s, const sc_token *tokens, size_t n_tokens, float *logits, size_t n_logits,
                     struct sc_error *e)
{
    if (n_logits > n_tokens)
        return sc_fail(e, SC_INVALID_ARGUMENT, "%zu logits were asked of %zu tokens", n_logits, n_tokens);
    return eval_timed(s, tokens, n_tokens, &(struct wanted){.logits = logits, .n_logits = n_logits}, e);
}

bool sc_session_eval_top(struct sc_session *s, const sc_token *tokens, size_t n_tokens, struct sc_candidate *top,
                         size_t *n_top, struct sc_error *e)
{
    if (n_tokens == 0 || *n_top == 0 || *n_top > SC_MAX_CANDIDATES)
        return sc_fail(e, SC_INVALID_ARGUMENT, "%zu candidates were asked of %zu tokens", *n_top, n_tokens);
    return eval_timed(s, tokens, n_tokens, &(struct wanted){.top = top, .n_top = n_top}, e);
}

uint32_t sc_session_n_past(const struct sc_session *s)
{
    return s->n_past;
}

void sc_session_truncate(struct sc_session *s, uint32_t n_past)
{
    if (n_past < s->n_past) {
        s->n_past = n_past;
        s->pass.seen = 0; /* what follows is another answer */
    }
}

/* All that is counted, since the engine was made. */
static struct sc_stats counters(const struct sc_session *s)
{
    const struct sc_engine *engine = s->engine;
    const struct experts *x = &engine->model.experts;
    struct sc_stats now = s->counted;
    now.expert_hits = x->n_hits;
    now.expert_misses = x->n_misses;
    now.expert_host_runs = host_experts_n_runs(engine->host_experts);
    now.host_seconds = host_experts_seconds(engine->host_experts);
    now.uploaded_bytes = x->uploaded_bytes;
    now.wait_seconds = s->pass.wait_seconds;
    now.idle_seconds = s->pass.idle_seconds;
    now.disk_bytes = store_read_bytes(engine->store);
    now.disk_seconds = store_wait_seconds(engine->store);
    now.n_submits = engine->gpu->n_submits;
    return now;
}

void sc_session_stats(const struct sc_session *s, struct sc_stats *stats)
{
    const struct sc_stats now = counters(s), *base = &s->base;
    *stats = (struct sc_stats){
        .n_prefill_tokens = now.n_prefill_tokens - base->n_prefill_tokens,
        .n_decode_tokens = now.n_decode_tokens - base->n_decode_tokens,
        .prefill_seconds = now.prefill_seconds - base->prefill_seconds,
        .decode_seconds = now.decode_seconds - base->decode_seconds,
        .expert_hits = now.expert_hits - base->expert_hits,
        .expert_misses = now.expert_misses - base->expert_misses,
        .expert_host_runs = now.expert_host_runs - base->expert_host_runs,
        .host_seconds = now.host_seconds - base->host_seconds,
        .uploaded_bytes = now.uploaded_bytes - base->uploaded_bytes,
        .wait_seconds = now.wait_seconds - base->wait_seconds,
        .idle_seconds = now.idle_seconds - base->idle_seconds,
        .disk_bytes = now.disk_bytes - base->disk_bytes,
        .disk_seconds = now.disk_seconds - base->disk_seconds,
        .longest_piece_seconds = s->pass.pace.longest,
        .n_submits = now.n_submits - base->n_submits,
    };
    const struct recording *r = &s->pass.single[0];
    for (uint32_t i = 0; i <= r->n_streams; i++) {
        const struct commands *c = i < r->n_streams ? &r->streams[i] : &r->outputs[OUTPUT_TOP];
        stats->n_dispatches += c->n_dispatches;
        stats->n_barriers += c->n_barriers;
    }
}

void sc_session_reset_stats(struct sc_session *s)
{
    s->pass.pace.longest = 0;
    s->pass.seen = 0;
    s->base = counters(s);
}
