/* SPDX-License-Identifier: Apache-2.0 */
#include "pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "host_experts.h"
#include "routing_trace.h"

enum { MIN_STEP = 128 };

static bool init_tables(struct pass *p, struct sc_error *e)
{
    const struct config *c = &p->engine->config;
    p->n_streams = 2 * c->n_layers + 2;
    p->frequencies = calloc(c->n_rot / 2 + 1, sizeof(*p->frequencies));
    p->list = calloc(p->n_streams, sizeof(struct commands *));
    p->submissions = calloc(p->n_streams, sizeof(*p->submissions));
    p->computed = calloc(c->n_layers, sizeof(*p->computed));
    if (!p->frequencies || !p->list || !p->submissions || !p->computed)
        return sc_fail_memory(e, "the session");
    for (uint32_t i = 0; i < c->n_rot / 2; i++)
        p->frequencies[i] = (double)c->rope_freq_scale * pow((double)c->rope_base, -2.0 * i / c->n_rot) /
                            (c->rope_factors ? (double)c->rope_factors[i] : 1);
    return true;
}

static bool init_recording(struct pass *p, struct recording *r, struct sc_error *e)
{
    r->streams = calloc(p->n_streams, sizeof(*r->streams));
    if (!r->streams)
        return sc_fail_memory(e, "the session");
    for (uint32_t i = 0; i < p->n_streams; i++)
        if (!commands_init(&r->streams[i], p->engine->gpu, e))
            return false;
    return true;
}

static void finish_recording(struct pass *p, struct recording *r)
{
    for (uint32_t i = 0; r->streams && i < p->n_streams; i++)
        commands_finish(&r->streams[i]);
    free(r->streams);
}

void pass_finish(struct pass *p)
{
    if (!p->engine)
        return;
    p->engine->gpu->vk.vkDeviceWaitIdle(p->engine->gpu->device);
    finish_recording(p, &p->single);
    finish_recording(p, &p->batch);
    commands_finish(&p->output);
    session_memory_finish(&p->memory);
    free(p->frequencies);
    free(p->list);
    free(p->submissions);
    free(p->computed);
    memset(p, 0, sizeof(*p));
}

static struct kv_cache first_rows(struct kv_cache kv, uint32_t n)
{
    return (struct kv_cache){.k = tensor_rows(kv.k, n), .v = tensor_rows(kv.v, n)};
}

static void record_stream(struct pass *p, struct commands *c, uint32_t index, uint32_t n, uint32_t n_seen)
{
    const struct model *m = &p->engine->model;
    const struct session_memory *memory = &p->memory;
    const struct activations *a = &memory->a;
    const uint32_t n_layers = m->config->n_layers, l = index / 2;
    if (index == 2 * n_layers + 1) {
        forward_output(c, m, a, 0, 1);
    } else if (index % 2 == 1) {
        forward_experts(c, m, a, l, n);
    } else {
        if (l > 0) {
            if (!a->is_merged)
                commands_see_host(c);
            forward_combine(c, m, a, l - 1, n);
        } else {
            const uint64_t bytes = memory->angles_offset + (uint64_t)n * m->config->n_rot * sizeof(float);
            commands_copy(c, &memory->inputs, 0, &memory->device_inputs, 0, bytes);
            forward_embed(c, m, a, n);
        }
        if (l < n_layers)
            forward_attention(c, m, a, first_rows(memory->kv[l], n_seen), l, n);
    }
}

/*
 * Positions of the cache that a pass is recorded for: attention is cut by them, so prompts are recorded anew as these
 * grow, by a quarter or so. What a single token does is never cut.
 */
static uint32_t recorded_positions(const struct pass *p, uint32_t n, uint32_t n_past)
{
    const uint32_t n_ctx = p->engine->params.n_ctx;
    uint32_t step = MIN_STEP;
    while (step < n_past / 8)
        step *= 2;
    const uint64_t positions = ((uint64_t)n_past + step - 1) / step * step + n;
    return n > 1 && positions < n_ctx ? (uint32_t)positions : n_ctx;
}

static bool record(struct pass *p, struct recording *r, uint32_t n, uint32_t n_past, bool is_merged, struct sc_error *e)
{
    const uint32_t n_seen = recorded_positions(p, n, n_past);
    /* cut anew only where the device turns out to be much slower or faster */
    const double piece_work = p->engine->gpu->piece_work;
    if (r->n == n && r->n_seen == n_seen && r->is_merged == is_merged &&
        (n == 1 || (piece_work > r->piece_work / 2 && piece_work < r->piece_work * 8)))
        return true;
    r->n = 0;
    r->n_seen = n_seen;
    r->piece_work = piece_work;
    r->is_merged = p->memory.a.is_merged = is_merged;
    const uint32_t n_streams = n == 1 ? p->n_streams : p->n_streams - 1;
    for (uint32_t i = 0; i < n_streams; i++) {
        struct commands *c = &r->streams[i];
        if (i == 0)
            commands_begin(c, true);
        else
            commands_continue(c, c - 1);
        record_stream(p, c, i, n, n_seen);
        if (!commands_end(c, e))
            return false;
    }
    r->n = n;
    return true;
}

/* Whether the host has no part in the experts of n tokens, nor anything to upload. */
static bool is_resident(const struct pass *p, uint32_t n)
{
    const struct sc_engine *engine = p->engine;
    return !engine->config.n_experts ||
           (experts_are_resident(&engine->model.experts) && (engine->path != PATH_HOST || n > p->memory.a.n_host));
}

static bool record_output(struct pass *p, uint32_t first, uint32_t n, struct sc_error *e)
{
    commands_begin(&p->output, false);
    forward_output(&p->output, &p->engine->model, &p->memory.a, first, n);
    return commands_end(&p->output, e);
}

/* Records every kind of pass once, so that kernels compile now and not in the middle of an answer. */
static bool compile(struct pass *p, struct sc_error *e)
{
    const struct sc_engine_params *params = &p->engine->params;
    const uint32_t n_parts = params->n_batch > 1 ? 3 : 1, rows = p->memory.n_logit_rows;
    for (uint32_t part = 0; part < n_parts; part++) {
        const bool ok = part == 0   ? record(p, &p->single, 1, 0, is_resident(p, 1), e)
                        : part == 1 ? record(p, &p->batch, params->n_batch, 0, false, e)
                                    : record_output(p, 0, rows, e);
        if (!ok)
            return false;
        if (params->progress && !params->progress(params->user, SC_PHASE_COMPILE, part + 1, n_parts))
            return sc_fail(e, SC_CANCELLED, "compiling the kernels was cancelled");
    }
    return true;
}

bool pass_init(struct pass *p, struct sc_engine *engine, struct sc_error *e)
{
    const struct sc_engine_params *params = &engine->params;
    memset(p, 0, sizeof(*p));
    p->engine = engine;
    if (!session_memory_init(&p->memory, engine->gpu, &engine->config, params->n_ctx, params->n_batch, params->kv_type,
                             e) ||
        !init_tables(p, e) || !init_recording(p, &p->single, e) || !init_recording(p, &p->batch, e) ||
        !commands_init(&p->output, engine->gpu, e))
        return false;
    p->memory.a.n_host = engine->n_host_tokens;
    p->pace = (struct pace){.gpu = engine->gpu, .progress = params->progress, .user = params->user};
    return compile(p, e);
}

static void fill_inputs(struct pass *p, const sc_token *tokens, uint32_t n, uint32_t n_past)
{
    const uint32_t pairs = p->engine->config.n_rot / 2;
    *p->memory.step = (struct step){.n_past = n_past, .n_tokens = n};
    for (uint32_t t = 0; t < n; t++) {
        p->memory.tokens[t] = (uint32_t)tokens[t];
        float *angles = p->memory.angles + 2 * (size_t)t * pairs;
        for (uint32_t i = 0; i < pairs; i++) {
            const double angle = (n_past + t) * p->frequencies[i];
            angles[2 * i] = (float)cos(angle);
            angles[2 * i + 1] = (float)sin(angle);
        }
    }
}

/* Streams `from` to `to` - 1. */
static bool submit(struct pass *p, uint32_t from, uint32_t to, struct sc_error *e)
{
    return p->pace.n > 1 ? pace_submit(&p->pace, p->list + from, to - from, &p->submitted, e)
                         : gpu_submit(p->engine->gpu, p->list + from, to - from, &p->submitted, e);
}

/* What the layer's router chose for n tokens, once the device has written it. */
static bool take_choice(struct pass *p, uint32_t layer, uint32_t n, struct sc_error *e)
{
    const struct config *c = &p->engine->config;
    const uint32_t *choice = session_choice(&p->memory, layer);
    for (uint32_t i = 0; i < n * c->n_experts_used; i++)
        if (choice[i] >= c->n_experts)
            return sc_fail(e, SC_DEVICE_LOST, "%s chose an expert that does not exist", p->engine->gpu->info.name);
    experts_count(&p->engine->model.experts, layer, choice, n, c->n_experts_used);
    if (p->engine->trace)
        routing_trace_layer(p->engine->trace, layer, choice);
    return true;
}

bool pass_wait(struct pass *p, struct sc_error *e)
{
    const uint32_t n = p->n_unread;
    p->n_unread = 0;
    if (!gpu_wait(p->engine->gpu, p->submitted, e))
        return false;
    for (uint32_t l = 0; n && l < p->engine->config.n_layers; l++)
        if (!take_choice(p, l, n, e))
            return false;
    return true;
}

/* The distinct experts that the pass's n tokens chose in this layer, into ids, ascending. */
static uint32_t chosen_experts(const struct pass *p, uint32_t layer, uint32_t n, uint32_t ids[SC_MAX_EXPERTS])
{
    const struct config *c = &p->engine->config;
    const uint32_t *choice = session_choice(&p->memory, layer);
    bool chosen[SC_MAX_EXPERTS] = {false};
    for (uint32_t i = 0; i < n * c->n_experts_used; i++)
        chosen[choice[i]] = true;
    uint32_t n_ids = 0;
    for (uint32_t id = 0; id < c->n_experts; id++)
        if (chosen[id])
            ids[n_ids++] = id;
    return n_ids;
}

/* After a failure: what was on its way to the slots may not have arrived. */
static bool lose_uploads(struct pass *p)
{
    experts_forget(&p->engine->model.experts);
    return false;
}

/* Layers whose slots later layers may take once the device has computed them, oldest first. */
struct in_flight {
    uint32_t first, end;
};

/* Makes room for experts of this layer by giving up those of layers in flight. Returns how many can be had at once. */
static uint32_t make_room(struct pass *p, struct in_flight *f, uint32_t layer, uint32_t *ids, uint32_t n_ids)
{
    struct sc_engine *engine = p->engine;
    struct experts *x = &engine->model.experts;
    uint32_t n = experts_wave(x, layer, ids, n_ids);
    for (; n < n_ids && f->first < f->end; n = experts_wave(x, layer, ids, n_ids)) {
        upload_after(&engine->upload, p->computed[f->first]);
        experts_release(x, f->first++);
    }
    return n;
}

/* Uploads experts of the layer and runs them: in waves if they are more than the slots for them. */
static bool fetch_experts(struct pass *p, struct in_flight *f, uint32_t layer, uint32_t *ids, uint32_t n_ids,
                          struct sc_error *e)
{
    struct sc_engine *engine = p->engine;
    struct experts *x = &engine->model.experts;
    experts_want(x, layer, ids, n_ids);
    for (uint32_t first = 0, n_wave; first < n_ids; first += n_wave) {
        const double start = clock_seconds();
        n_wave = make_room(p, f, layer, ids + first, n_ids - first);
        if (!experts_require(x, &engine->upload, layer, ids + first, n_wave, n_wave < n_ids, e) ||
            !upload_flush(&engine->upload, e))
            return lose_uploads(p);
        p->wait_seconds += clock_seconds() - start;
        if (!submit(p, 2 * layer + 1, 2 * layer + 2, e))
            return false;
        if (first + n_wave < n_ids) {
            if (!pass_wait(p, e))
                return false;
            experts_release(x, layer);
        }
    }
    p->computed[layer] = p->submitted;
    f->end = layer + 1;
    return true;
}

/*
 * Each layer's experts are uploaded before they run: of a long prompt all of them, a layer while the ones before
 * compute; else those that the router chose, for which the host waits.
 */
static bool run_uploading(struct pass *p, uint32_t n, uint32_t n_streams, struct sc_error *e)
{
    const struct config *c = &p->engine->config;
    const bool ahead = expert_cost_upload_ahead(c, n);
    struct in_flight f = {0};
    for (uint32_t l = 0; l < c->n_layers; l++) {
        uint32_t ids[SC_MAX_EXPERTS], n_ids = c->n_experts;
        for (uint32_t i = 0; i < n_ids; i++)
            ids[i] = i;
        if (!submit(p, 2 * l, 2 * l + 1, e))
            return false;
        if (!ahead) {
            if (!pass_wait(p, e) || !take_choice(p, l, n, e))
                return false;
            while (f.first < f.end) /* the device is done with them too: their slots are no better than others */
                experts_release(&p->engine->model.experts, f.first++);
            n_ids = chosen_experts(p, l, n, ids);
        }
        if (!fetch_experts(p, &f, l, ids, n_ids, e))
            return false;
    }
    if (!submit(p, 2 * c->n_layers, n_streams, e))
        return false;
    p->n_unread = ahead ? n : 0;
    return true;
}

/*
 * A single token or a few: everything is submitted at once, and each layer's combine waits for the host, which computes
 * the experts that no slot holds while the GPU runs the others.
 */
static bool run_with_host(struct pass *p, uint32_t n, uint32_t n_streams, struct sc_error *e)
{
    struct sc_engine *engine = p->engine;
    struct gpu *gpu = engine->gpu;
    const uint32_t n_layers = engine->config.n_layers;
    const uint64_t signalled = gpu->host_signalled;
    struct experts *x = &engine->model.experts;
    if (!(engine->path == PATH_HOST ? experts_hide(x, &engine->upload, e) : experts_promote(x, &engine->upload, e)) ||
        !upload_flush(&engine->upload, e))
        return lose_uploads(p);
    const uint32_t device_experts = engine->path == PATH_HOST ? 0 : 1;
    for (uint32_t i = 0; i <= 2 * n_layers; i++)
        p->submissions[i] = (struct submission){.streams = p->list + i,
                                                .n_streams = i == 2 * n_layers ? n_streams - i
                                                             : i % 2 == 1      ? device_experts
                                                                               : 1,
                                                .wait_host = i % 2 == 0 && i > 0 ? signalled + i / 2 : 0};
    if (!gpu_submit_chain(gpu, p->submissions, 2 * n_layers + 1, e))
        return false;
    p->submitted = p->submissions[2 * n_layers].value;

    /* on a queue that they share, copies stand behind the layers that wait for the host */
    const bool beside = gpu->transfer.handle != gpu->compute.handle;
    bool ok = true;
    for (uint32_t l = 0; l < n_layers && ok; l++) {
        ok = gpu_wait(gpu, p->submissions[2 * l].value, e) && take_choice(p, l, n, e);
        ok = ok && host_experts_run(engine->host_experts, l, n, &p->memory, e);
        ok = ok && gpu_signal(gpu, signalled + l + 1, e);
        ok = ok && (!beside || experts_send(x, &engine->upload, e) || lose_uploads(p));
        ok = ok && pace_report(&p->pace, (double)(l + 1) / n_layers, e);
    }
    while (ok && !experts_are_sent(x))
        ok = experts_send(x, &engine->upload, e) || lose_uploads(p);
    if (!ok) { /* let go what still waits for the host, step by step: the validation layer loses count otherwise */
        struct sc_error ignored = {0};
        for (uint32_t l = 0; l < n_layers; l++) {
            const bool waited = gpu_wait(gpu, 0, &ignored), signal = gpu_signal(gpu, signalled + l + 1, &ignored);
            (void)waited, (void)signal; /* the last signal alone would do */
        }
    }
    return ok;
}

/* No host in between. */
static bool run_resident(struct pass *p, uint32_t n, uint32_t n_streams, struct sc_error *e)
{
    if (n <= p->memory.a.n_host)
        memset(p->memory.on_host, 0, (size_t)n * p->engine->config.n_experts_used * sizeof(*p->memory.on_host));
    if (!submit(p, 0, n_streams, e))
        return false;
    p->n_unread = p->engine->trace ? n : 0;
    return true;
}

bool pass_run(struct pass *p, const sc_token *tokens, uint32_t n, uint32_t n_past, bool with_logits, struct sc_error *e)
{
    const struct sc_engine *engine = p->engine;
    struct recording *r = n == 1 ? &p->single : &p->batch;
    struct upload *upload = &p->engine->upload;
    struct experts *x = &p->engine->model.experts;
    if (!pass_wait(p, e))
        return false;
    if (engine->config.n_experts)
        experts_begin(x, n); /* which may empty slots of a pass that failed */
    const bool resident = is_resident(p, n);
    if (!record(p, r, n, n_past, resident && n == 1, e))
        return false;
    fill_inputs(p, tokens, n, n_past);
    for (uint32_t i = 0; i < p->n_streams; i++)
        p->list[i] = &r->streams[i];
    const uint32_t n_streams = p->n_streams - (n == 1 && with_logits ? 0 : 1);
    pace_begin(&p->pace, p->list, n_streams, n);
    if (engine->trace)
        routing_trace_begin(engine->trace, tokens, n);
    if (resident)
        return (!engine->config.n_experts || (experts_show(x, upload, e) && upload_flush(upload, e)) ||
                lose_uploads(p)) &&
               run_resident(p, n, n_streams, e);
    if (n <= p->memory.a.n_host)
        return run_with_host(p, n, n_streams, e);
    return run_uploading(p, n, n_streams, e);
}

bool pass_logits(struct pass *p, uint32_t n_pass, uint32_t first, uint32_t n, float *logits, struct sc_error *e)
{
    const uint32_t n_vocab = p->engine->config.n_vocab;
    struct commands *output = &p->output;
    for (uint32_t done = 0; done < n;) {
        const uint32_t left = n - done, rows = left < p->memory.n_logit_rows ? left : p->memory.n_logit_rows;
        if (n_pass > 1 &&
            (!record_output(p, first + done, rows, e) || !gpu_submit(p->engine->gpu, &output, 1, &p->submitted, e)))
            return false;
        if (!pass_wait(p, e))
            return false;
        memcpy(logits + (size_t)done * n_vocab, p->memory.logits, (size_t)rows * n_vocab * sizeof(float));
        done += rows;
    }
    return true;
}
