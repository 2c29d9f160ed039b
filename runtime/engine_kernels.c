/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "autotune.h"
#include "engine.h"
#include "findings.h"
#include "self_test.h"
#include "session_memory.h"

static const double TUNING_SECONDS = 1.5;
enum { USUAL_BATCH = 512 };

static uint32_t n_batch(const struct sc_engine *engine)
{
    return engine->params.n_batch ? engine->params.n_batch : USUAL_BATCH;
}

static uint32_t bit(const struct weight *w)
{
    return w->size_bytes ? UINT32_C(1) << w->type : 0;
}

/* Which types of weights, or of the cache, each family will meet. */
static void find_types(uint32_t types[N_FAMILIES], const struct sc_engine *engine)
{
    const struct weights *w = &engine->weights;
    uint32_t qkv = 0, gate_up = 0, down = 0, router = 0, others = bit(&w->output);
    for (uint32_t l = 0; l < engine->config.n_layers; l++) {
        const struct layer_weights *x = &w->layers[l];
        const struct expert_weights *any = &x->experts[0];
        qkv |= bit(&x->attn_q) | bit(&x->attn_k) | bit(&x->attn_v);
        gate_up |= bit(&any->gate) | bit(&any->up);
        down |= bit(&any->down);
        router |= bit(&x->router);
        others |= bit(&x->attn_output);
    }
    memset(types, 0, N_FAMILIES * sizeof(types[0]));
    types[FAMILY_MATVEC] = types[FAMILY_MATMUL_FEW] = types[FAMILY_MATMUL] = qkv | gate_up | down | others;
    types[FAMILY_QKV] = qkv;
    types[FAMILY_GATE_UP] = gate_up;
    types[FAMILY_DOWN] = engine->config.n_experts ? down : 0;
    types[FAMILY_ROUTER] = types[FAMILY_MATMUL_EXACT] = router;
    types[FAMILY_ATTENTION] = types[FAMILY_ATTENTION_MANY] = UINT32_C(1) << session_kv_type(engine->params.kv_type);
    types[FAMILY_ROWS] = UINT32_C(1) << SC_F32;
}

struct matrices {
    struct matrix_shape list[AUTOTUNE_MAX_MATRICES];
    uint32_t n;
};

static void add(struct matrices *m, const struct weight *w, uint32_t n_columns)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (m->list[i].type == w->type && m->list[i].rows == w->rows && m->list[i].cols == w->cols)
            return;
    if (w->size_bytes && m->n < AUTOTUNE_MAX_MATRICES)
        m->list[m->n++] = (struct matrix_shape){w->type, w->rows, w->cols, n_columns};
}

/* The experts first: most of a token's bytes are theirs. */
static void find_matrices(struct matrices *m, const struct sc_engine *engine)
{
    const struct weights *w = &engine->weights;
    const struct config *c = &engine->config;
    const uint32_t n = n_batch(engine);
    const uint32_t n_of_expert = c->n_experts ? (n * c->n_experts_used + c->n_experts - 1) / c->n_experts : n;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        add(m, &w->layers[l].experts[0].gate, n_of_expert);
        add(m, &w->layers[l].experts[0].up, n_of_expert);
        add(m, &w->layers[l].experts[0].down, n_of_expert);
    }
    add(m, &w->output, n);
    for (uint32_t l = 0; l < engine->config.n_layers; l++) {
        const struct layer_weights *x = &w->layers[l];
        add(m, &x->attn_q, n);
        add(m, &x->attn_k, n);
        add(m, &x->attn_v, n);
        add(m, &x->attn_output, n);
    }
}

/* On processors that drive Vulkan the table's order is known to be right, and tests want the same kernels every time.
 */
static bool tune(struct sc_engine *engine, struct sc_error *e)
{
    const struct sc_engine_params *p = &engine->params;
    if (p->no_autotune || engine->gpu->info.kind == SC_DEVICE_CPU)
        return true;
    const struct config *c = &engine->config;
    struct matrices matrices = {.n = 0};
    find_matrices(&matrices, engine);
    const struct autotune a = {.matrices = matrices.list,
                               .n_matrices = matrices.n,
                               .heads = {.n = c->n_heads, .n_kv = c->n_kv_heads, .dim = c->head_dim},
                               .cache_type = session_kv_type(p->kv_type),
                               .n_batch = n_batch(engine),
                               .n_seen = c->window && c->window < p->n_ctx ? c->window : p->n_ctx,
                               .max_bytes = engine_budget(engine) / 2,
                               .seconds = TUNING_SECONDS,
                               .progress = p->progress,
                               .user = p->user,
                               .listener = {p->log, p->user}};
    return autotune(engine->gpu, &a, e);
}

bool engine_choose_kernels(struct sc_engine *engine, struct sc_error *e)
{
    const struct sc_engine_params *p = &engine->params;
    uint32_t types[N_FAMILIES];
    find_types(types, engine);
    engine->gpu->choices.may_round = p->activations == SC_ACTIVATIONS_AUTO && engine->gpu->info.kind != SC_DEVICE_CPU;
    engine->gpu->choices.ignores_tuned = p->no_autotune;
    findings_load(engine->gpu, p->cache_dir);
    const bool ok = tune(engine, e) && self_test(engine->gpu, types, (struct listener){p->log, p->user}, e);
    findings_save(engine->gpu, p->cache_dir);
    return ok;
}
