/* SPDX-License-Identifier: Apache-2.0 */
#include "recording.h"

#include <stdlib.h>
#include <string.h>

enum { MIN_STEP = 128 };

/* All of a session's streams share its scratch memory, as they do its activations. */
static bool init_stream(struct commands *c, struct gpu *gpu, const struct session_memory *memory, struct sc_error *e)
{
    const struct tensor *scratch = &memory->a.scratch;
    if (!commands_init(c, gpu, e))
        return false;
    c->scratch = (struct access){.address = scratch->address, .size_bytes = tensor_size_bytes(scratch)};
    return true;
}

bool recording_init(struct recording *r, struct gpu *gpu, const struct model *m, const struct session_memory *memory,
                    const struct exchange *exchange, struct sc_error *e)
{
    const uint32_t n = 2 * m->config->n_layers + 1;
    memset(r, 0, sizeof(*r));
    r->model = m;
    r->memory = memory;
    r->exchange = exchange;
    r->streams = calloc(n, sizeof(*r->streams));
    if (!r->streams)
        return sc_fail_memory(e, "the session");
    for (uint32_t i = 0; i < n; i++)
        if (!init_stream(&r->streams[i], gpu, memory, e))
            return false;
    for (uint32_t i = 0; i < N_OUTPUTS; i++)
        if (!init_stream(&r->outputs[i], gpu, memory, e))
            return false;
    return true;
}

void recording_finish(struct recording *r)
{
    for (uint32_t i = 0; r->streams && i <= 2 * r->model->config->n_layers; i++)
        commands_finish(&r->streams[i]);
    for (uint32_t i = 0; i < N_OUTPUTS; i++)
        commands_finish(&r->outputs[i]);
    free(r->streams);
    memset(r, 0, sizeof(*r));
}

static void record_inputs(const struct recording *r, struct commands *c, uint32_t n)
{
    const struct session_memory *memory = r->memory;
    const struct exchange *x = r->exchange;
    commands_copy(c, &memory->inputs, x->offset, &memory->device_inputs, 0, memory->tokens_to + n * sizeof(uint32_t));
    commands_copy(c, &memory->inputs, x->angles_from, &memory->device_inputs, memory->angles_to,
                  (uint64_t)n * r->model->config->n_rot * sizeof(float));
}

static struct kv_cache first_rows(struct kv_cache kv, uint32_t n)
{
    return (struct kv_cache){.k = tensor_rows(kv.k, n), .v = tensor_rows(kv.v, n)};
}

/* What stream `index` of the head comment does. */
static void record_part(const struct recording *r, struct commands *c, const struct activations *a, uint32_t index,
                        uint32_t n)
{
    const struct model *m = r->model;
    const uint32_t l = index / 2;
    if (index % 2 == 1) {
        forward_experts(c, m, a, l, n);
        return;
    }
    if (l > 0) {
        if (!a->is_merged)
            commands_see_host(c);
        forward_combine(c, m, a, l - 1, n);
    } else {
        record_inputs(r, c, n);
        forward_embed(c, m, a, n);
    }
    if (l < m->config->n_layers)
        forward_attention(c, m, a, first_rows(r->memory->kv[l], r->n_seen), l, n);
}

static struct activations activations_of(const struct recording *r)
{
    struct activations a = r->memory->a;
    a.is_merged = r->is_merged;
    a.top.list.address = r->exchange->top_address;
    return a;
}

static void record_output(struct recording *r, enum output output, uint32_t first, uint32_t n)
{
    const struct activations a = activations_of(r);
    if (output == OUTPUT_TOP)
        forward_top(&r->outputs[output], r->model, &a, first);
    else
        forward_logits(&r->outputs[output], r->model, &a, first, n);
}

bool recording_output(struct recording *r, enum output output, uint32_t first, uint32_t n, struct sc_error *e)
{
    commands_begin(&r->outputs[output], false);
    record_output(r, output, first, n);
    return commands_end(&r->outputs[output], e);
}

static bool record_streams(struct recording *r, uint32_t n, struct sc_error *e)
{
    const struct activations a = activations_of(r);
    const uint32_t n_parts = 2 * r->model->config->n_layers + 1;
    r->n_streams = r->is_merged ? 1 : n_parts;
    for (uint32_t i = 0, part = 0; i < r->n_streams; i++) {
        struct commands *c = &r->streams[i];
        if (i == 0)
            commands_begin(c, true);
        else
            commands_continue(c, c - 1);
        do
            record_part(r, c, &a, part++, n);
        while (r->is_merged && part < n_parts);
        if (!commands_end(c, e))
            return false;
    }
    return true;
}

/*
 * Positions of the cache that a pass is recorded for: attention is cut by them, so prompts are recorded anew as these
 * grow, by a quarter or so. What a single token does is never cut.
 */
static uint32_t recorded_positions(const struct recording *r, uint32_t n, uint32_t n_past)
{
    const uint32_t n_ctx = r->memory->kv[0].k.rows;
    uint32_t step = MIN_STEP;
    while (step < n_past / 8)
        step *= 2;
    const uint64_t positions = ((uint64_t)n_past + step - 1) / step * step + n;
    return n > 1 && positions < n_ctx ? (uint32_t)positions : n_ctx;
}

bool recording_make(struct recording *r, uint32_t n, uint32_t n_past, bool is_merged, struct sc_error *e)
{
    const uint32_t n_seen = recorded_positions(r, n, n_past);
    /* cut anew only where the device turns out to be much slower or faster */
    const double piece_work = r->memory->gpu->piece_work;
    if (r->n == n && r->n_seen == n_seen && r->is_merged == is_merged &&
        (n == 1 || (piece_work > r->piece_work / 2 && piece_work < r->piece_work * 8)))
        return true;
    r->n = 0;
    r->n_seen = n_seen;
    r->piece_work = piece_work;
    r->is_merged = is_merged;
    if (!record_streams(r, n, e))
        return false;
    for (uint32_t i = 0; i < N_OUTPUTS && n == 1; i++) {
        struct commands *c = &r->outputs[i];
        commands_continue(c, &r->streams[r->n_streams - 1]);
        commands_barrier(c); /* the other output may run between the two */
        record_output(r, (enum output)i, 0, 1);
        if (!commands_end(c, e))
            return false;
    }
    r->n = n;
    return true;
}
