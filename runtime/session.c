/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session evaluates tokens in steps: one step is one pass of up to n_batch tokens through all layers. Its commands
 * are a stream per layer boundary, because the host may have to fetch experts there:
 *
 *     streams[0]: inputs, embed, attention 0 | [1]: experts 0, attention 1 | ... | [L]: experts L - 1 | [L + 1]: logits
 *
 * With every expert in a slot the host never comes in between and the streams follow each other at once. The streams of
 * single tokens are recorded once and replayed for ever; those of a batch are replayed as long as its size stays.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "engine.h"
#include "session_memory.h"

/* The recorded step of n tokens. */
struct recording {
    uint32_t n;               /* 0: nothing is recorded */
    struct commands *streams; /* (n_layers + 2), the last one the logits of a single token */
};

struct sc_session {
    struct sc_engine *engine;
    struct session_memory memory;
    double *frequencies; /* (n_rot / 2) what a pair turns by per position, in radians */
    struct recording single, batch;
    struct commands **list; /* (n_layers + 2) scratch */
    struct commands output; /* logits of some tokens of a batch, recorded when asked for */
    struct commands wave;   /* a layer's experts, when a batch chose more than there are slots */
    uint64_t submitted;     /* the last submit, to wait for */
    uint32_t n_past;
    struct sc_stats stats; /* counters that the engine keeps are here as they stood when the statistics began */
};

static bool init_tables(struct sc_session *s, struct sc_error *e)
{
    const struct config *c = &s->engine->config;
    s->frequencies = calloc(c->n_rot / 2 + 1, sizeof(*s->frequencies));
    s->list = calloc(c->n_layers + 2, sizeof(struct commands *));
    if (!s->frequencies || !s->list)
        return sc_fail_memory(e, "the session");
    for (uint32_t i = 0; i < c->n_rot / 2; i++)
        s->frequencies[i] = (double)c->rope_freq_scale * pow((double)c->rope_base, -2.0 * i / c->n_rot) /
                            (c->rope_factors ? (double)c->rope_factors[i] : 1);
    return true;
}

static bool init_recording(struct sc_session *s, struct recording *r, struct sc_error *e)
{
    const uint32_t n = s->engine->config.n_layers + 2;
    r->streams = calloc(n, sizeof(*r->streams));
    if (!r->streams)
        return sc_fail_memory(e, "the session");
    for (uint32_t i = 0; i < n; i++)
        if (!commands_init(&r->streams[i], s->engine->gpu, e))
            return false;
    return true;
}

static void finish_recording(struct sc_session *s, struct recording *r)
{
    for (uint32_t i = 0; r->streams && i < s->engine->config.n_layers + 2; i++)
        commands_finish(&r->streams[i]);
    free(r->streams);
}

void sc_session_destroy(struct sc_session *s)
{
    if (!s)
        return;
    s->engine->gpu->vk.vkDeviceWaitIdle(s->engine->gpu->device);
    finish_recording(s, &s->single);
    finish_recording(s, &s->batch);
    commands_finish(&s->output);
    commands_finish(&s->wave);
    session_memory_finish(&s->memory);
    free(s->frequencies);
    free(s->list);
    free(s);
}

static bool submit(struct sc_session *s, struct commands *const *streams, uint32_t n, struct sc_error *e)
{
    return gpu_submit(s->engine->gpu, streams, n, &s->submitted, e);
}

static bool wait(struct sc_session *s, struct sc_error *e)
{
    return gpu_wait(s->engine->gpu, s->submitted, e);
}

static bool record(struct sc_session *s, struct recording *r, uint32_t n, struct sc_error *e)
{
    const struct model *m = &s->engine->model;
    const struct session_memory *memory = &s->memory;
    const struct activations *a = &memory->a;
    const uint32_t n_layers = m->config->n_layers;
    if (r->n == n)
        return true;
    r->n = 0;
    for (uint32_t l = 0; l <= n_layers; l++) {
        struct commands *c = &r->streams[l];
        commands_begin(c, true);
        if (l == 0) {
            const uint64_t bytes = memory->angles_offset + (uint64_t)n * m->config->n_rot * sizeof(float);
            commands_copy(c, &memory->inputs, 0, &memory->device_inputs, 0, bytes);
            forward_embed(c, m, a, n);
        } else {
            forward_experts(c, m, a, l - 1, n);
            forward_combine(c, m, a, l - 1, n);
        }
        if (l < n_layers)
            forward_attention(c, m, a, memory->kv[l], l, n);
        if (!commands_end(c, e))
            return false;
    }
    if (n == 1) {
        struct commands *c = &r->streams[n_layers + 1];
        commands_begin(c, true);
        forward_output(c, m, a, 0, 1);
        if (!commands_end(c, e))
            return false;
    }
    r->n = n;
    return true;
}

/* Records every kind of step once, so that kernels compile now and not in the middle of an answer. */
static bool compile(struct sc_session *s, struct sc_error *e)
{
    const struct sc_engine_params *p = &s->engine->params;
    const uint32_t rows = s->memory.n_logit_rows;
    for (uint32_t part = 0; part < 3; part++) {
        if (part == 0 && !record(s, &s->single, 1, e))
            return false;
        if (part == 1 && p->n_batch > 1 && !record(s, &s->batch, p->n_batch, e))
            return false;
        if (part == 2 && rows > 1) {
            commands_begin(&s->output, false);
            forward_output(&s->output, &s->engine->model, &s->memory.a, 0, rows);
            if (!commands_end(&s->output, e))
                return false;
        }
        if (p->progress && !p->progress(p->user, SC_PHASE_COMPILE, part + 1, 3))
            return sc_fail(e, SC_CANCELLED, "compiling the kernels was cancelled");
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
    const struct sc_engine_params *p = &engine->params;
    if (!session_memory_init(&s->memory, engine->gpu, &engine->config, p->n_ctx, p->n_batch, p->kv_type, e) ||
        !init_tables(s, e) || !init_recording(s, &s->single, e) || !init_recording(s, &s->batch, e) ||
        !commands_init(&s->output, engine->gpu, e) || !commands_init(&s->wave, engine->gpu, e) || !compile(s, e)) {
        sc_session_destroy(s);
        return NULL;
    }
    sc_session_reset_stats(s);
    return s;
}

static void fill_inputs(struct sc_session *s, const sc_token *tokens, uint32_t n)
{
    const uint32_t pairs = s->engine->config.n_rot / 2;
    *s->memory.step = (struct step){.n_past = s->n_past, .n_tokens = n};
    for (uint32_t t = 0; t < n; t++) {
        s->memory.tokens[t] = (uint32_t)tokens[t];
        float *angles = s->memory.angles + 2 * (size_t)t * pairs;
        for (uint32_t i = 0; i < pairs; i++) {
            const double angle = (s->n_past + t) * s->frequencies[i];
            angles[2 * i] = (float)cos(angle);
            angles[2 * i + 1] = (float)sin(angle);
        }
    }
}

/* The distinct experts that the step's n tokens chose, into ids, ascending; 0: the device's answer makes no sense. */
static uint32_t chosen_experts(const struct sc_session *s, uint32_t n, uint32_t ids[SC_MAX_EXPERTS])
{
    const struct config *c = &s->engine->config;
    bool chosen[SC_MAX_EXPERTS] = {false};
    for (uint32_t i = 0; i < n * c->n_experts_used; i++) {
        if (s->memory.host_ids[i] >= c->n_experts)
            return 0;
        chosen[s->memory.host_ids[i]] = true;
    }
    uint32_t n_ids = 0;
    for (uint32_t id = 0; id < c->n_experts; id++)
        if (chosen[id])
            ids[n_ids++] = id;
    return n_ids;
}

/* Runs all but the last of the waves into which the layer's experts fall, and has the last one's experts uploaded. */
static bool fetch_experts(struct sc_session *s, uint32_t layer, uint32_t n, struct sc_error *e)
{
    struct sc_engine *engine = s->engine;
    struct experts *x = &engine->model.experts;
    uint32_t ids[SC_MAX_EXPERTS];
    const uint32_t n_ids = chosen_experts(s, n, ids);
    if (n_ids == 0)
        return sc_fail(e, SC_DEVICE_LOST, "%s chose an expert that does not exist", engine->gpu->info.name);
    const bool only = n_ids > x->n_slots;
    for (uint32_t first = 0; first < n_ids; first += x->n_slots) {
        const uint32_t left = n_ids - first, n_wave = left < x->n_slots ? left : x->n_slots;
        if (!experts_require(x, &engine->upload, layer, ids + first, n_wave, only, e) ||
            !upload_flush(&engine->upload, e)) {
            experts_forget(x);
            return false;
        }
        if (n_wave == left)
            break;
        struct commands *wave = &s->wave;
        commands_begin(wave, false);
        forward_experts(wave, &engine->model, &s->memory.a, layer, n);
        if (!commands_end(wave, e) || !submit(s, &wave, 1, e) || !wait(s, e))
            return false;
    }
    return true;
}

/* The streams one by one, the host fetching the experts that each layer chose. */
static bool run_staged(struct sc_session *s, const struct recording *r, uint32_t n_streams, struct sc_error *e)
{
    for (uint32_t i = 0; i < n_streams; i++) {
        if (!submit(s, &s->list[i], 1, e))
            return false;
        if (i >= s->engine->config.n_layers)
            continue;
        const double start = clock_seconds();
        if (!wait(s, e))
            return false;
        s->stats.wait_seconds += clock_seconds() - start;
        if (!fetch_experts(s, i, r->n, e))
            return false;
    }
    return true;
}

/* The streams without the host: a single token's in one submit, a batch's one by one so that no submit runs for long.
 */
static bool run_resident(struct sc_session *s, const struct recording *r, uint32_t n_streams, struct sc_error *e)
{
    if (r->n == 1)
        return submit(s, s->list, n_streams, e);
    for (uint32_t i = 0; i < n_streams; i++)
        if (!submit(s, &s->list[i], 1, e))
            return false;
    return true;
}

/*
 * Computes n tokens at n_past, and with_logits of a single one its logits too. The device may still be at it when this
 * returns.
 */
static bool step(struct sc_session *s, const sc_token *tokens, uint32_t n, bool with_logits, struct sc_error *e)
{
    struct recording *r = n == 1 ? &s->single : &s->batch;
    const struct sc_engine *engine = s->engine;
    if (!wait(s, e) || !record(s, r, n, e))
        return false;
    fill_inputs(s, tokens, n);
    const uint32_t n_streams = engine->config.n_layers + 1 + (n == 1 && with_logits ? 1 : 0);
    for (uint32_t i = 0; i < n_streams; i++)
        s->list[i] = &r->streams[i];
    const bool staged = engine->config.n_experts && !experts_are_resident(&engine->model.experts);
    return (staged ? run_staged : run_resident)(s, r, n_streams, e);
}

/* Waits for the logits of the step's n tokens from `first` on; those of a batch are computed now. */
static bool read_logits(struct sc_session *s, uint32_t n_step, uint32_t first, uint32_t n, float *logits,
                        struct sc_error *e)
{
    const uint32_t n_vocab = s->engine->config.n_vocab;
    for (uint32_t done = 0; done < n;) {
        const uint32_t left = n - done, rows = left < s->memory.n_logit_rows ? left : s->memory.n_logit_rows;
        if (n_step > 1) {
            struct commands *c = &s->output;
            commands_begin(c, false);
            forward_output(c, &s->engine->model, &s->memory.a, first + done, rows);
            if (!commands_end(c, e) || !submit(s, &c, 1, e))
                return false;
        }
        if (!wait(s, e))
            return false;
        memcpy(logits + (size_t)done * n_vocab, s->memory.logits, (size_t)rows * n_vocab * sizeof(float));
        done += rows;
    }
    return true;
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

static bool eval(struct sc_session *s, const sc_token *tokens, size_t n_tokens, float *logits, size_t n_logits,
                 struct sc_error *e)
{
    const struct sc_engine_params *p = &s->engine->params;
    const size_t first_logit = n_tokens - n_logits; /* the first token whose logits are wanted */
    for (size_t done = 0; done < n_tokens;) {
        const size_t left = n_tokens - done;
        const uint32_t n = left < p->n_batch ? (uint32_t)left : p->n_batch;
        const bool wants_logits = done + n > first_logit;
        if (!step(s, tokens + done, n, wants_logits, e))
            return false;
        if (wants_logits) {
            const size_t from = done > first_logit ? done : first_logit;
            if (!read_logits(s, n, (uint32_t)(from - done), (uint32_t)(done + n - from),
                             logits + (from - first_logit) * s->engine->config.n_vocab, e))
                return false;
        }
        s->n_past += n;
        done += n;
        if (n_tokens > 1 && p->progress && !p->progress(p->user, SC_PHASE_PREFILL, done, n_tokens))
            return sc_fail(e, SC_CANCELLED, "the prompt was cancelled");
    }
    return n_tokens == 0 || n_logits > 0 || wait(s, e);
}

bool sc_session_eval(struct sc_session *s, const sc_token *tokens, size_t n_tokens, float *logits, size_t n_logits,
                     struct sc_error *e)
{
    if (n_logits > n_tokens)
        return sc_fail(e, SC_INVALID_ARGUMENT, "%zu logits were asked of %zu tokens", n_logits, n_tokens);
    if (!check_tokens(s, tokens, n_tokens, e))
        return false;
    const uint32_t n_past = s->n_past;
    const double start = clock_seconds();
    if (!eval(s, tokens, n_tokens, logits, n_logits, e)) {
        s->n_past = n_past;
        /* what was submitted before the failure may still run in buffers that the next step fills */
        s->engine->gpu->vk.vkDeviceWaitIdle(s->engine->gpu->device);
        return false;
    }
    if (n_tokens == 1) {
        s->stats.n_decode_tokens++;
        s->stats.decode_seconds += clock_seconds() - start;
    } else {
        s->stats.n_prefill_tokens += n_tokens;
        s->stats.prefill_seconds += clock_seconds() - start;
    }
    return true;
}

uint32_t sc_session_n_past(const struct sc_session *s)
{
    return s->n_past;
}

void sc_session_truncate(struct sc_session *s, uint32_t n_past)
{
    if (n_past < s->n_past)
        s->n_past = n_past;
}

void sc_session_stats(const struct sc_session *s, struct sc_stats *stats)
{
    const struct experts *x = &s->engine->model.experts;
    *stats = s->stats;
    stats->expert_hits = x->n_hits - s->stats.expert_hits;
    stats->expert_misses = x->n_misses - s->stats.expert_misses;
    stats->uploaded_bytes = x->uploaded_bytes - s->stats.uploaded_bytes;
    stats->wait_seconds = s->stats.wait_seconds + s->engine->upload.wait_seconds;
    stats->n_submits = s->engine->gpu->n_submits - s->stats.n_submits;
    stats->n_dispatches = stats->n_barriers = 0;
    for (uint32_t l = 0; s->single.n && l < s->engine->config.n_layers + 2; l++) {
        stats->n_dispatches += s->single.streams[l].n_dispatches;
        stats->n_barriers += s->single.streams[l].n_barriers;
    }
}

void sc_session_reset_stats(struct sc_session *s)
{
    /* the counters of the engine go on: remember where they stand, with the sign turned for the clock */
    const struct experts *x = &s->engine->model.experts;
    s->stats = (struct sc_stats){
        .expert_hits = x->n_hits,
        .expert_misses = x->n_misses,
        .uploaded_bytes = x->uploaded_bytes,
        .wait_seconds = -s->engine->upload.wait_seconds,
        .n_submits = s->engine->gpu->n_submits,
    };
}
