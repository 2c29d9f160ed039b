/* SPDX-License-Identifier: Apache-2.0 */
#include "pass.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "pass_staged.h"
#include "routing_trace.h"

static bool init_tables(struct pass *p, struct sc_error *e)
{
    const struct config *c = &p->engine->config;
    const uint32_t n_streams = 2 * c->n_layers + 2;
    p->frequencies = calloc(c->n_rot / 2 + 1, sizeof(*p->frequencies));
    p->list = calloc(n_streams, sizeof(struct commands *));
    p->submissions = calloc(n_streams, sizeof(*p->submissions));
    p->computed = calloc(c->n_layers, sizeof(*p->computed));
    if (!p->frequencies || !p->list || !p->submissions || !p->computed)
        return sc_fail_memory(e, "the session");
    for (uint32_t i = 0; i < c->n_rot / 2; i++)
        p->frequencies[i] = (double)c->rope_freq_scale * pow((double)c->rope_base, -2.0 * i / c->n_rot) /
                            (c->rope_factors ? (double)c->rope_factors[i] : 1);
    return true;
}

static bool init_recordings(struct pass *p, struct sc_error *e)
{
    for (uint32_t i = 0; i < N_EXCHANGES; i++) {
        struct recording *r = i < EXCHANGE_BATCH ? &p->single[i] : &p->batch;
        if (!recording_init(r, p->engine->gpu, &p->engine->model, &p->memory, &p->memory.exchanges[i], e))
            return false;
    }
    return true;
}

void pass_finish(struct pass *p)
{
    if (!p->engine)
        return;
    p->engine->gpu->vk.vkDeviceWaitIdle(p->engine->gpu->device);
    for (uint32_t i = 0; i < EXCHANGE_BATCH; i++)
        recording_finish(&p->single[i]);
    recording_finish(&p->batch);
    session_memory_finish(&p->memory);
    free(p->frequencies);
    free(p->list);
    free(p->submissions);
    free(p->computed);
    memset(p, 0, sizeof(*p));
}

/* Whether the host has no part in the experts of n tokens, nor anything to upload. */
static bool is_resident(const struct pass *p, uint32_t n)
{
    const struct sc_engine *engine = p->engine;
    return !engine->config.n_experts ||
           (experts_are_resident(&engine->model.experts) && (engine->path != PATH_HOST || n > p->memory.a.n_host));
}

/* Records every kind of pass once, so that kernels compile now and not in the middle of an answer. */
static bool compile(struct pass *p, struct sc_error *e)
{
    const struct sc_engine_params *params = &p->engine->params;
    const uint32_t n_parts = params->n_batch > 1 ? 3 : 1, rows = p->memory.n_logit_rows;
    const bool resident = is_resident(p, 1);
    for (uint32_t part = 0; part < n_parts; part++) {
        const bool ok = part == 0 ? recording_make(&p->single[0], 1, 0, resident, e) &&
                                        recording_make(&p->single[1], 1, 0, resident, e)
                        : part == 1 ? recording_make(&p->batch, params->n_batch, 0, false, e)
                                    : recording_output(&p->batch, OUTPUT_LOGITS, 0, rows, e);
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
        !init_tables(p, e) || !init_recordings(p, e))
        return false;
    p->memory.a.n_host = engine->n_host_tokens;
    p->best = -1;
    p->is_followed = true;
    p->pace = (struct pace){.gpu = engine->gpu, .progress = params->progress, .user = params->user};
    return compile(p, e);
}

/* A token of -1 is the best of the pass before, which the device knows. */
static void fill_inputs(const struct pass *p, const struct exchange *x, const sc_token *tokens, uint32_t n,
                        uint32_t n_past, uint32_t n_top)
{
    static_assert((uint32_t)-1 == NO_TOKEN, "for op_embed");
    const uint32_t pairs = p->engine->config.n_rot / 2;
    *x->step = (struct step){.n_past = n_past, .n_tokens = n, .n_top = n_top};
    for (uint32_t t = 0; t < n; t++) {
        x->tokens[t] = (uint32_t)tokens[t];
        float *angles = x->angles + 2 * (size_t)t * pairs;
        for (uint32_t i = 0; i < pairs; i++) {
            const double angle = (n_past + t) * p->frequencies[i];
            angles[2 * i] = (float)cos(angle);
            angles[2 * i + 1] = (float)sin(angle);
        }
    }
}

bool pass_submit(struct pass *p, uint32_t from, uint32_t to, struct sc_error *e)
{
    return p->pace.n > 1 ? pace_submit(&p->pace, p->list + from, to - from, &p->submitted, e)
                         : gpu_submit(p->engine->gpu, p->list + from, to - from, &p->submitted, e);
}

/* Of a single token without the host: counts the time for which the device has had nothing to do. */
static bool submit_single(struct pass *p, struct commands *const *streams, uint32_t n_streams, uint64_t *value,
                          struct sc_error *e)
{
    struct gpu *gpu = p->engine->gpu;
    bool is_idle;
    if (!gpu_poll(gpu, &gpu->compute, gpu->compute.submitted, &is_idle, e) ||
        !gpu_submit(gpu, streams, n_streams, value, e))
        return false;
    if (p->seen && is_idle)
        p->idle_seconds += clock_seconds() - p->seen;
    return true;
}

bool pass_take_choice(struct pass *p, uint32_t layer, uint32_t n, struct sc_error *e)
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

static bool wait_for(struct pass *p, uint64_t value, struct sc_error *e)
{
    if (value <= p->waited)
        return true;
    if (!gpu_wait(p->engine->gpu, value, e))
        return false;
    p->waited = value;
    return true;
}

bool pass_wait(struct pass *p, struct sc_error *e)
{
    const uint32_t n = p->n_unread;
    const bool is_new = p->submitted > p->waited;
    p->n_unread = 0;
    if (!pace_wait(&p->pace, e) || !wait_for(p, p->submitted, e))
        return false;
    if (is_new && p->recording->n == 1)
        p->seen = clock_seconds();
    for (uint32_t l = 0; n && l < p->engine->config.n_layers; l++)
        if (!pass_take_choice(p, l, n, e))
            return false;
    return true;
}

/* No host in between. */
static bool run_resident(struct pass *p, uint32_t n, uint32_t n_streams, struct sc_error *e)
{
    if (n <= p->memory.a.n_host)
        memset(p->memory.on_host, 0, (size_t)n * p->engine->config.n_experts_used * sizeof(*p->memory.on_host));
    if (!(n == 1 ? submit_single(p, p->list, n_streams, &p->submitted, e) : pass_submit(p, 0, n_streams, e)))
        return false;
    p->n_unread = p->engine->trace ? n : 0;
    return true;
}

/* Whether the pass is under way already; then it is the one that all that follows is about. */
static bool is_under_way(struct pass *p, sc_token token, uint32_t n_past, enum output output, uint32_t n_top)
{
    if (p->ahead == 0 || p->ahead != n_past || token != p->best || (output == OUTPUT_TOP && n_top != 1))
        return false;
    p->recording = &p->single[p->turn];
    p->turn = !p->turn;
    p->output = OUTPUT_TOP;
    p->submitted = p->recording->submitted;
    return true;
}

bool pass_run(struct pass *p, const sc_token *tokens, uint32_t n, uint32_t n_past, enum output output, uint32_t n_top,
              struct sc_error *e)
{
    const struct sc_engine *engine = p->engine;
    struct upload *upload = &p->engine->upload;
    struct experts *x = &p->engine->model.experts;
    if (!pass_wait(p, e))
        return false;
    if (engine->config.n_experts)
        experts_begin(x, n); /* which may empty slots of a pass that failed */
    if (n == 1 && p->best >= 0)
        p->is_followed = tokens[0] == p->best;
    const bool under_way = n == 1 && is_under_way(p, tokens[0], n_past, output, n_top);
    const bool is_in_vain = p->ahead && !under_way;
    p->end = n_past + n;
    p->ahead = 0;
    p->best = -1;
    if (under_way)
        return true;

    struct recording *r = n == 1 ? &p->single[p->turn] : &p->batch;
    const bool resident = is_resident(p, n);
    if (is_in_vain && n > 1 && !wait_for(p, p->single[p->turn].submitted, e)) /* or it counts as the prompt's work */
        return false;
    if (!wait_for(p, r->submitted, e) || !recording_make(r, n, n_past, resident && n == 1, e))
        return false;
    p->turn = n == 1 ? !p->turn : p->turn;
    p->recording = r;
    p->output = n == 1 ? output : OUTPUT_NONE;
    p->seen = n == 1 ? p->seen : 0;
    fill_inputs(p, r->exchange, tokens, n, n_past, n_top);
    uint32_t n_streams = r->n_streams;
    for (uint32_t i = 0; i < n_streams; i++)
        p->list[i] = &r->streams[i];
    if (p->output != OUTPUT_NONE)
        p->list[n_streams++] = &r->outputs[output];
    pace_begin(&p->pace, p->list, n_streams, n);
    if (engine->trace)
        routing_trace_begin(engine->trace, tokens, n);
    const bool ok = resident ? (!engine->config.n_experts || (experts_show(x, upload, e) && upload_flush(upload, e)) ||
                                pass_lose_uploads(p)) &&
                                   run_resident(p, n, n_streams, e)
                    : n <= p->memory.a.n_host ? pass_run_with_host(p, n, n_streams, e)
                                              : pass_run_uploading(p, n, n_streams, e);
    r->submitted = p->submitted;
    return ok;
}

/* The pass's output, unless it was submitted with the pass. */
static bool submit_output(struct pass *p, enum output output, uint32_t first, uint32_t n, struct sc_error *e)
{
    struct recording *r = p->recording;
    struct commands *stream = &r->outputs[output];
    if (p->output == output)
        return true;
    if (r->n > 1 && !recording_output(r, output, first, n, e))
        return false;
    if (!gpu_submit(p->engine->gpu, &stream, 1, &p->submitted, e))
        return false;
    r->submitted = p->submitted;
    return true;
}

bool pass_logits(struct pass *p, uint32_t first, uint32_t n, float *logits, struct sc_error *e)
{
    const uint32_t n_vocab = p->engine->config.n_vocab;
    for (uint32_t done = 0; done < n;) {
        const uint32_t left = n - done, rows = left < p->memory.n_logit_rows ? left : p->memory.n_logit_rows;
        if (!submit_output(p, OUTPUT_LOGITS, first + done, rows, e) || !pass_wait(p, e))
            return false;
        memcpy(logits + (size_t)done * n_vocab, p->memory.logits, (size_t)rows * n_vocab * sizeof(float));
        done += rows;
    }
    return true;
}

/*
 * Begins the pass that will be asked for next if the best token is gone on with. Whatever goes wrong here will go wrong
 * again, and be told, when it is asked for.
 */
static void look_ahead(struct pass *p)
{
    const struct sc_engine *engine = p->engine;
    struct recording *r = &p->single[p->turn];
    struct commands *const streams[] = {&r->streams[0], &r->outputs[OUTPUT_TOP]};
    struct sc_error ignored = {0};
    const sc_token best = -1;
    /* a trace tells what the pass before chose, which this one would overwrite */
    if (!p->is_followed || p->end >= engine->params.n_ctx || !is_resident(p, 1) || engine->trace ||
        !wait_for(p, r->submitted, &ignored) || !recording_make(r, 1, p->end, true, &ignored))
        return;
    fill_inputs(p, r->exchange, &best, 1, p->end, 1);
    if (submit_single(p, streams, 2, &r->submitted, &ignored))
        p->ahead = p->end;
}

bool pass_top(struct pass *p, struct sc_candidate *top, size_t *n, struct sc_error *e)
{
    const uint32_t *list = p->recording->exchange->top, n_vocab = p->engine->config.n_vocab;
    const size_t n_wanted = *n;
    if (!submit_output(p, OUTPUT_TOP, p->recording->n - 1, 1, e))
        return false;
    if (n_wanted == 1)
        look_ahead(p);
    if (!pass_wait(p, e))
        return false;
    for (*n = 0; *n < n_wanted && list[2 * *n + 1] != NO_TOKEN; ++*n) {
        struct sc_candidate *one = &top[*n];
        if (list[2 * *n + 1] >= n_vocab)
            return sc_fail(e, SC_DEVICE_LOST, "%s chose a token that does not exist", p->engine->gpu->info.name);
        memcpy(&one->logit, &list[2 * *n], sizeof(one->logit));
        one->token = (sc_token)list[2 * *n + 1];
    }
    p->best = *n ? top[0].token : -1;
    return true;
}

void pass_abandon(struct pass *p)
{
    p->engine->gpu->vk.vkDeviceWaitIdle(p->engine->gpu->device);
    pace_abandon(&p->pace);
    p->n_unread = 0;
    p->ahead = 0;
    p->seen = 0;
}
