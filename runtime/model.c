/* SPDX-License-Identifier: Apache-2.0 */
#include "model.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DENSE_OF_LAYER = 10 };

/* One dense weight: where it comes from, and the tensor it becomes. */
struct item {
    const struct weight *from;
    struct tensor *to;
};

/* The dense weights of layer l. The tensors may be those of a layer that is only measured. */
static uint32_t layer_items(struct item *items, const struct layer_weights *w, struct layer *layer, bool has_experts)
{
    uint32_t n = 0;
    items[n++] = (struct item){&w->attn_norm, &layer->attn_norm};
    items[n++] = (struct item){&w->attn_q, &layer->attn_q};
    items[n++] = (struct item){&w->attn_k, &layer->attn_k};
    items[n++] = (struct item){&w->attn_v, &layer->attn_v};
    items[n++] = (struct item){&w->attn_output, &layer->attn_output};
    items[n++] = (struct item){&w->ffn_norm, &layer->ffn_norm};
    if (has_experts)
        items[n++] = (struct item){&w->router, &layer->router};
    else {
        items[n++] = (struct item){&w->experts[0].gate, &layer->ffn_gate};
        items[n++] = (struct item){&w->experts[0].up, &layer->ffn_up};
        items[n++] = (struct item){&w->experts[0].down, &layer->ffn_down};
    }
    return n;
}

static bool is_tied(const struct weights *w)
{
    return w->output.data == w->token_embd.data;
}

/* All dense weights in the order of the forward pass, into items[], which holds 3 + MAX_DENSE_OF_LAYER * n_layers. */
static uint32_t all_items(struct item *items, const struct weights *w, const struct config *c, struct model *m)
{
    uint32_t n = 0;
    items[n++] = (struct item){&w->token_embd, &m->token_embd};
    for (uint32_t l = 0; l < c->n_layers; l++)
        n += layer_items(items + n, &w->layers[l], &m->layers[l], c->n_experts != 0);
    items[n++] = (struct item){&w->output_norm, &m->output_norm};
    if (!is_tied(w))
        items[n++] = (struct item){&w->output, &m->output};
    return n;
}

static struct item *items_alloc(const struct config *c, struct sc_error *e)
{
    struct item *items = calloc(3 + (size_t)MAX_DENSE_OF_LAYER * c->n_layers, sizeof(*items));
    if (!items)
        sc_fail_memory(e, "the list of weights");
    return items;
}

bool model_dense_footprint(const struct weights *w, const struct config *c, uint64_t *bytes, struct sc_error *e)
{
    struct model m = {.layers = calloc(c->n_layers, sizeof(*m.layers))};
    struct item *items = items_alloc(c, e);
    bool ok = items && (m.layers || sc_fail_memory(e, "the layers"));
    const uint32_t n = ok ? all_items(items, w, c, &m) : 0;
    struct place place;
    for (uint32_t i = 0; i < n && ok; i++)
        ok = slabs_place(&m.slabs, items[i].from->size_bytes, &place, e);
    *bytes = slabs_footprint(&m.slabs);
    slabs_finish(&m.slabs, NULL);
    free(m.layers);
    free(items);
    return ok;
}

static bool report(const struct sc_engine_params *p, uint64_t done, uint64_t total, struct sc_error *e)
{
    return !p->progress || p->progress(p->user, SC_PHASE_LOAD, done, total) ||
           sc_fail(e, SC_CANCELLED, "loading was cancelled");
}

static bool upload_dense(struct model *m, const struct item *items, uint32_t n, struct upload *u,
                         const struct sc_engine_params *params, uint64_t total, uint64_t *done, struct sc_error *e)
{
    struct place *places = calloc(n, sizeof(*places));
    bool ok = places != NULL || sc_fail_memory(e, "the list of weights");
    for (uint32_t i = 0; i < n && ok; i++)
        ok = slabs_place(&m->slabs, items[i].from->size_bytes, &places[i], e);
    ok = ok && slabs_allocate(&m->slabs, m->gpu, "the dense weights", e);
    for (uint32_t i = 0; i < n && ok; i++) {
        const struct weight *from = items[i].from;
        *items[i].to = (struct tensor){
            .address = slabs_address(&m->slabs, places[i]), .type = from->type, .rows = from->rows, .cols = from->cols};
        ok = upload_weights(u, &m->slabs.buffers[places[i].slab], places[i].offset, from, 0, from->size_bytes, e) &&
             report(params, *done += from->size_bytes, total, e);
    }
    free(places);
    return ok;
}

static bool upload_experts(struct model *m, const bool *chosen, struct upload *u, const struct sc_engine_params *params,
                           uint64_t total, uint64_t *done, struct sc_error *e)
{
    struct experts *x = &m->experts;
    const uint64_t before = *done;
    for (uint32_t l = 0; l < x->n_layers; l++) {
        uint32_t ids[SC_MAX_EXPERTS], n_ids = 0;
        for (uint32_t i = 0; i < x->n_experts; i++)
            if (chosen[l * x->n_experts + i])
                ids[n_ids++] = i;
        experts_want(x, l, ids, n_ids);
        for (uint32_t i = 0; i < n_ids; i++) {
            if (!experts_bring(x, u, l, ids[i], e))
                return false;
            *done = before + x->uploaded_bytes;
            if (!report(params, *done, total, e))
                return false;
        }
        if (!experts_list(x, u, l, ids, n_ids, false, e))
            return false;
    }
    x->n_hits = x->n_misses = x->uploaded_bytes = 0;
    return true;
}

static uint64_t bytes_to_load(const struct weights *w, const struct item *items, uint32_t n, const struct config *c,
                              const bool *chosen)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += items[i].from->size_bytes;
    for (uint32_t i = 0; i < c->n_layers * c->n_experts; i++) {
        const struct expert_weights *x = &w->layers[i / c->n_experts].experts[i % c->n_experts];
        total += chosen[i] ? x->gate.size_bytes + x->up.size_bytes + x->down.size_bytes : 0;
    }
    return total;
}

/* All that goes to the device, in the file's order. */
static bool load(struct model *m, const struct weights *w, const bool *chosen, struct upload *u,
                 const struct sc_engine_params *params, struct sc_error *e)
{
    struct item *items = items_alloc(m->config, e);
    if (!items)
        return false;
    const uint32_t n = all_items(items, w, m->config, m);
    const uint64_t total = bytes_to_load(w, items, n, m->config, chosen);
    uint64_t done = 0;
    bool ok = upload_dense(m, items, n, u, params, total, &done, e);
    free(items);
    if (is_tied(w))
        m->output = m->token_embd;
    return ok && (!m->config->n_experts || upload_experts(m, chosen, u, params, total, &done, e)) && upload_flush(u, e);
}

bool model_init(struct model *m, struct gpu *gpu, const struct weights *w, const struct config *c, uint32_t n_slots,
                struct store *store, const struct hot_set *hot_set, struct upload *u,
                const struct sc_engine_params *params, struct sc_error *e)
{
    memset(m, 0, sizeof(*m));
    m->config = c;
    m->gpu = gpu;
    m->layers = calloc(c->n_layers, sizeof(*m->layers));
    bool *chosen = calloc((size_t)c->n_layers * c->n_experts + 1, sizeof(*chosen));
    if (!m->layers || !chosen) {
        free(chosen);
        return sc_fail_memory(e, "the layers");
    }
    bool ok = true;
    if (c->n_experts) {
        ok = experts_init(&m->experts, gpu, w, c, n_slots, store, e);
        if (ok && !experts_fit(&m->experts))
            m->was_hot = hot_set_restore(hot_set, &m->experts.policy);
        ok = ok && policy_choose(&m->experts.policy, chosen, e);
    }
    ok = ok && load(m, w, chosen, u, params, e);
    free(chosen);
    for (uint32_t l = 0; l < c->n_layers && ok && c->n_experts; l++) {
        m->layers[l].gate = experts_tensor(&m->experts, l, 0);
        m->layers[l].up = experts_tensor(&m->experts, l, 1);
        m->layers[l].down = experts_tensor(&m->experts, l, 2);
    }
    return ok;
}

void model_finish(struct model *m)
{
    if (!m->gpu)
        return;
    experts_finish(&m->experts);
    slabs_finish(&m->slabs, m->gpu);
    free(m->layers);
    memset(m, 0, sizeof(*m));
}
