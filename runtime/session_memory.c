/* SPDX-License-Identifier: Apache-2.0 */
#include "session_memory.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_LOGIT_ROWS = 32,
    MAX_HOST_TOKENS = 64,
    CPU_WORKGROUPS = 16, /* attention's, where the device is a CPU: so many keep its cores busy */
    MAX_TENSORS = 24,
    ALIGNMENT = 256,
};

static struct tensor f32(uint32_t rows, uint32_t cols)
{
    return (struct tensor){.type = SC_F32, .rows = rows, .cols = cols};
}

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Attention counts the pieces of each of its workgroups: they are most when the most tokens have two. */
static uint32_t done_counters(const struct config *c)
{
    const struct heads h = {.n = c->n_heads, .n_kv = c->n_kv_heads};
    return attention_tiles(ATTENTION_MAX_PIECES / 2, h) * c->n_kv_heads;
}

/* For the largest input of a product. */
static uint32_t scratch_words(const struct config *c, uint32_t n_batch)
{
    const struct {
        uint32_t rows, cols;
    } inputs[] = {{n_batch, c->n_embd},
                  {n_batch, c->n_heads * c->head_dim},
                  {n_batch * (c->n_experts ? c->n_experts_used : 1), c->n_ff}};
    uint64_t most = 0;
    for (uint32_t i = 0; i < sizeof(inputs) / sizeof(inputs[0]); i++) {
        const uint64_t bytes = op_scratch_bytes(inputs[i].rows, inputs[i].cols);
        most = bytes > most ? bytes : most;
    }
    return (uint32_t)(most / sizeof(uint32_t));
}

/* The shapes of the activations for n_batch tokens, still without addresses. */
static struct activations shapes(const struct config *c, uint32_t n_batch)
{
    const uint32_t n_used = c->n_experts ? c->n_experts_used : 1;
    struct activations a = {
        .n_batch = n_batch,
        .x = f32(n_batch, c->n_embd),
        .normed = f32(n_batch, c->n_embd),
        .q = f32(n_batch, c->n_heads * c->head_dim),
        .k = f32(n_batch, c->n_kv_heads * c->head_dim),
        .v = f32(n_batch, c->n_kv_heads * c->head_dim),
        .att = f32(n_batch, c->n_heads * c->head_dim),
        .partial = f32(c->n_heads * ATTENTION_MAX_PIECES, c->head_dim + 4),
        .done = f32(1, done_counters(c)),
        .gate = f32(n_batch * n_used, c->n_ff),
        .up = f32(n_batch * n_used, c->n_ff),
        .scratch = f32(1, scratch_words(c, n_batch)),
        .tokens = f32(n_batch, 1),
        .angles = f32(n_batch, c->n_rot),
        .step = f32(1, sizeof(struct step) / sizeof(uint32_t)),
        .logits = f32(1, c->n_vocab),
        .top = {.list = f32(SC_MAX_CANDIDATES, 2), .best = f32(1, 1), .heads = f32(TOP_K_HEADS, 2)},
    };
    if (c->n_experts) {
        a.down = f32(n_batch * n_used, c->n_embd);
        a.router_logits = f32(n_batch, c->n_experts);
        a.routing.ids = f32(n_batch, n_used);
        a.routing.probs = f32(n_batch, n_used);
        a.routing.first = f32(1, c->n_experts + 1);
        a.routing.pairs = f32(1, n_batch * n_used);
        a.routing.tiles = f32(3 * op_max_tiles(n_batch * n_used, c->n_experts), 2);
        a.routing.grids = f32(3, 4);
    }
    return a;
}

/* The tensors that lie in the activation slabs; returns how many. */
static uint32_t slab_tensors(struct activations *a, struct tensor **list)
{
    struct tensor *all[] = {&a->x,
                            &a->normed,
                            &a->q,
                            &a->k,
                            &a->v,
                            &a->att,
                            &a->partial,
                            &a->gate,
                            &a->up,
                            &a->scratch,
                            &a->down,
                            &a->router_logits,
                            &a->routing.ids,
                            &a->routing.probs,
                            &a->routing.first,
                            &a->routing.pairs,
                            &a->routing.tiles,
                            &a->routing.grids,
                            &a->logits,
                            &a->top.best,
                            &a->top.heads};
    static_assert(sizeof(all) / sizeof(all[0]) <= MAX_TENSORS, "the callers' lists hold them");
    uint32_t n = 0;
    for (uint32_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (all[i]->rows)
            list[n++] = all[i];
    return n;
}

static bool place_activations(struct slabs *slabs, struct activations *a, struct place *places, struct sc_error *e)
{
    struct tensor *list[MAX_TENSORS];
    const uint32_t n = slab_tensors(a, list);
    for (uint32_t i = 0; i < n; i++)
        if (!slabs_place(slabs, tensor_size_bytes(list[i]), &places[i], e))
            return false;
    return true;
}

enum sc_type session_kv_type(enum sc_kv_type kv_type)
{
    static const enum sc_type types[] = {[SC_KV_F16] = SC_F16, [SC_KV_F32] = SC_F32, [SC_KV_Q8_0] = SC_Q8_0};
    return types[kv_type];
}

static struct tensor kv_shape(const struct config *c, uint32_t n_ctx, enum sc_kv_type kv_type)
{
    const enum sc_type type = session_kv_type(kv_type);
    return (struct tensor){.type = type, .rows = n_ctx, .cols = kv_cols(type, c->n_kv_heads * c->head_dim)};
}

/* A place for the keys and one for the values of each layer; places may be NULL. */
static bool place_kv(struct slabs *slabs, const struct config *c, uint32_t n_ctx, enum sc_kv_type kv_type,
                     struct place *places, struct sc_error *e)
{
    const struct tensor t = kv_shape(c, n_ctx, kv_type);
    struct place unused;
    for (uint32_t i = 0; i < 2 * c->n_layers; i++)
        if (!slabs_place(slabs, tensor_size_bytes(&t), places ? &places[i] : &unused, e))
            return false;
    return true;
}

/* Where in the inputs of n tokens each part begins, behind struct step. */
struct input_layout {
    uint64_t done, tokens, angles, size_bytes;
};

static struct input_layout input_layout(const struct config *c, uint32_t n)
{
    struct input_layout i = {.done = aligned(sizeof(struct step))};
    i.tokens = i.done + aligned(done_counters(c) * sizeof(uint32_t));
    i.angles = i.tokens + aligned(n * sizeof(uint32_t));
    i.size_bytes = i.angles + aligned((uint64_t)n * c->n_rot * sizeof(float));
    return i;
}

/* Of all exchanges. */
static uint64_t input_bytes(const struct config *c, uint32_t n_batch)
{
    return EXCHANGE_BATCH * input_layout(c, 1).size_bytes + input_layout(c, n_batch).size_bytes;
}

static uint32_t logit_rows(uint32_t n_batch)
{
    return n_batch < MAX_LOGIT_ROWS ? n_batch : MAX_LOGIT_ROWS;
}

static uint64_t logit_bytes(const struct config *c, uint32_t n_batch)
{
    return aligned((uint64_t)logit_rows(n_batch) * c->n_vocab * sizeof(float));
}

uint32_t session_host_tokens(uint32_t n_batch)
{
    return n_batch < MAX_HOST_TOKENS ? n_batch : MAX_HOST_TOKENS;
}

const uint32_t *session_choice(const struct session_memory *s, uint32_t layer)
{
    return s->choices + (size_t)layer * s->n_choices;
}

/* Where in the results each part begins. */
struct result_layout {
    uint64_t ids, host_x, host_y, on_host, top, size_bytes;
};

static const uint64_t TOP_BYTES = SC_MAX_CANDIDATES * 2 * sizeof(uint32_t);

static struct result_layout result_layout(const struct config *c, uint32_t n_batch)
{
    const uint64_t rows = session_host_tokens(n_batch), pairs = rows * c->n_experts_used;
    struct result_layout r = {.ids = logit_bytes(c, n_batch)};
    r.host_x = r.ids + aligned((uint64_t)c->n_layers * n_batch * c->n_experts_used * sizeof(uint32_t));
    r.host_y = r.host_x + aligned(rows * c->n_embd * sizeof(float));
    r.on_host = r.host_y + aligned(pairs * c->n_embd * sizeof(float));
    r.top = r.on_host + aligned((pairs + 1) * sizeof(uint32_t));
    r.size_bytes = r.top + N_EXCHANGES * aligned(TOP_BYTES);
    return r;
}

bool session_measure(struct session_footprint *f, const struct config *c, uint32_t n_ctx, uint32_t n_batch,
                     enum sc_kv_type kv_type, struct sc_error *e)
{
    struct activations a = shapes(c, n_batch);
    struct slabs slabs = {0}, kv_slabs = {0};
    struct place places[MAX_TENSORS];
    const bool ok = place_activations(&slabs, &a, places, e) && place_kv(&kv_slabs, c, n_ctx, kv_type, NULL, e);
    f->activation_bytes = slabs_footprint(&slabs) + buffer_footprint(input_layout(c, n_batch).size_bytes);
    f->kv_bytes = slabs_footprint(&kv_slabs);
    f->host_bytes = buffer_footprint(input_bytes(c, n_batch)) + buffer_footprint(result_layout(c, n_batch).size_bytes);
    slabs_finish(&slabs, NULL);
    slabs_finish(&kv_slabs, NULL);
    return ok;
}

static bool init_activations(struct session_memory *s, const struct config *c, uint32_t n_batch, struct sc_error *e)
{
    struct place places[MAX_TENSORS];
    struct tensor *list[MAX_TENSORS];
    s->a = shapes(c, n_batch);
    if (!place_activations(&s->activation_slabs, &s->a, places, e) ||
        !slabs_allocate(&s->activation_slabs, s->gpu, "the activations", e))
        return false;
    const uint32_t n = slab_tensors(&s->a, list);
    for (uint32_t i = 0; i < n; i++)
        list[i]->address = slabs_address(&s->activation_slabs, places[i]);
    if (c->n_experts)
        s->a.routing.grids_buffer = slabs_buffer(&s->activation_slabs, s->a.routing.grids.address);
    const uint32_t cpu_pieces = (CPU_WORKGROUPS + c->n_kv_heads - 1) / c->n_kv_heads;
    if (s->gpu->info.kind == SC_DEVICE_CPU)
        s->a.partial.rows = c->n_heads * cpu_pieces;
    return true;
}

static bool init_kv(struct session_memory *s, const struct config *c, uint32_t n_ctx, enum sc_kv_type kv_type,
                    struct sc_error *e)
{
    struct place *places = calloc(2 * (size_t)c->n_layers, sizeof(*places));
    s->kv = calloc(c->n_layers, sizeof(*s->kv));
    char what[48];
    snprintf(what, sizeof(what), "the KV cache of %u tokens", n_ctx);
    bool ok = (places && s->kv) || sc_fail_memory(e, what);
    ok = ok && place_kv(&s->kv_slabs, c, n_ctx, kv_type, places, e) && slabs_allocate(&s->kv_slabs, s->gpu, what, e);
    for (uint32_t l = 0; l < c->n_layers && ok; l++) {
        s->kv[l].k = s->kv[l].v = kv_shape(c, n_ctx, kv_type);
        s->kv[l].k.address = slabs_address(&s->kv_slabs, places[2 * l]);
        s->kv[l].v.address = slabs_address(&s->kv_slabs, places[2 * l + 1]);
    }
    free(places);
    return ok;
}

static void init_exchanges(struct session_memory *s, const struct config *c, uint32_t n_batch)
{
    uint64_t offset = 0, top = result_layout(c, n_batch).top;
    for (uint32_t i = 0; i < N_EXCHANGES; i++) {
        const struct input_layout in = input_layout(c, i < EXCHANGE_BATCH ? 1 : n_batch);
        uint8_t *inputs = (uint8_t *)s->inputs.mapped + offset, *results = s->results.mapped;
        memset(inputs, 0, in.tokens);
        s->exchanges[i] = (struct exchange){
            .step = (struct step *)(void *)inputs,
            .tokens = (uint32_t *)(void *)(inputs + in.tokens),
            .angles = (float *)(void *)(inputs + in.angles),
            .offset = offset,
            .angles_from = offset + in.angles,
            .top = (const uint32_t *)(void *)(results + top),
            .top_address = s->results.address + top,
        };
        offset += in.size_bytes;
        top += aligned(TOP_BYTES);
    }
}

static bool init_host(struct session_memory *s, const struct config *c, uint32_t n_batch, struct sc_error *e)
{
    const struct input_layout in = input_layout(c, n_batch);
    const struct result_layout layout = result_layout(c, n_batch);
    if (!buffer_init(s->gpu, &s->inputs, MEMORY_UPLOAD, input_bytes(c, n_batch), "a step's inputs", e) ||
        !buffer_init(s->gpu, &s->device_inputs, MEMORY_DEVICE, in.size_bytes, "a step's inputs", e) ||
        !buffer_init(s->gpu, &s->results, MEMORY_READBACK, layout.size_bytes, "a step's results", e))
        return false;
    init_exchanges(s, c, n_batch);
    uint8_t *results = s->results.mapped;
    s->tokens_to = in.tokens;
    s->angles_to = in.angles;
    s->a.step.address = s->device_inputs.address;
    s->a.done.address = s->device_inputs.address + in.done;
    s->a.routing.counter = s->a.top.counter = s->a.step.address + offsetof(struct step, counter);
    s->a.tokens.address = s->device_inputs.address + in.tokens;
    s->a.angles.address = s->device_inputs.address + in.angles;
    s->n_logit_rows = logit_rows(n_batch);
    s->a.host_logits = f32(s->n_logit_rows, c->n_vocab);
    s->a.host_logits.address = s->results.address;
    s->logits = (const float *)(void *)results;
    s->a.routing.host_ids = s->results.address + layout.ids;
    s->choices = (const uint32_t *)(void *)(results + layout.ids);
    s->n_choices = n_batch * c->n_experts_used;
    const uint32_t n_host = session_host_tokens(n_batch), n_pairs = n_host * c->n_experts_used;
    s->a.n_host = n_host;
    s->a.host_x = f32(n_host, c->n_embd);
    s->a.host_x.address = s->results.address + layout.host_x;
    s->host_x = (const float *)(void *)(results + layout.host_x);
    s->a.routing.host_y = f32(n_pairs, c->n_embd);
    s->a.routing.host_y.address = s->results.address + layout.host_y;
    s->host_y = (float *)(void *)(results + layout.host_y);
    s->a.routing.on_host = s->results.address + layout.on_host;
    s->on_host = (uint32_t *)(void *)(results + layout.on_host);
    memset(s->on_host, 0, n_pairs * sizeof(uint32_t));
    return true;
}

bool session_memory_init(struct session_memory *s, struct gpu *gpu, const struct config *c, uint32_t n_ctx,
                         uint32_t n_batch, enum sc_kv_type kv_type, struct sc_error *e)
{
    memset(s, 0, sizeof(*s));
    s->gpu = gpu;
    return init_activations(s, c, n_batch, e) && init_kv(s, c, n_ctx, kv_type, e) && init_host(s, c, n_batch, e);
}

void session_memory_finish(struct session_memory *s)
{
    if (!s->gpu)
        return;
    slabs_finish(&s->activation_slabs, s->gpu);
    slabs_finish(&s->kv_slabs, s->gpu);
    buffer_finish(s->gpu, &s->inputs);
    buffer_finish(s->gpu, &s->device_inputs);
    buffer_finish(s->gpu, &s->results);
    free(s->kv);
    memset(s, 0, sizeof(*s));
}
