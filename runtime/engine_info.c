/* SPDX-License-Identifier: Apache-2.0 */
/* What an engine tells of itself and its model. */
#include "engine.h"

const struct sc_gguf *sc_engine_gguf(const struct sc_engine *engine)
{
    return engine->gguf;
}

const struct sc_tokenizer *sc_engine_tokenizer(const struct sc_engine *engine, struct sc_error *e)
{
    if (!engine->tokenizer)
        sc_fail(e, engine->tokenizer_error.code, "%s", engine->tokenizer_error.text);
    return engine->tokenizer;
}

const struct sc_device_info *sc_engine_device(const struct sc_engine *engine)
{
    return &engine->gpu->info;
}

const struct sc_placement *sc_engine_placement(const struct sc_engine *engine)
{
    return &engine->placement;
}

uint32_t sc_engine_n_vocab(const struct sc_engine *engine)
{
    return engine->config.n_vocab;
}

uint32_t sc_engine_n_ctx(const struct sc_engine *engine)
{
    return engine->params.n_ctx;
}

uint32_t sc_engine_n_batch(const struct sc_engine *engine)
{
    return engine->params.n_batch;
}

/* Sums f over the weights, an expert's n_experts times. */
static uint64_t sum_weights(const struct sc_engine *engine, uint32_t n_experts, uint64_t (*f)(const struct weight *))
{
    const struct weights *w = &engine->weights;
    uint64_t sum = f(&w->output_norm) + f(&w->output);
    for (uint32_t l = 0; l < engine->config.n_layers; l++) {
        const struct layer_weights *x = &w->layers[l];
        const struct expert_weights *any = &x->experts[0];
        sum += f(&x->attn_norm) + f(&x->attn_q) + f(&x->attn_k) + f(&x->attn_v) + f(&x->attn_output) + f(&x->ffn_norm) +
               f(&x->router) + n_experts * (f(&any->gate) + f(&any->up) + f(&any->down));
    }
    return sum;
}

static uint64_t bytes_of(const struct weight *w)
{
    return w->size_bytes;
}

static uint64_t parameters_of(const struct weight *w)
{
    return (uint64_t)w->rows * w->cols;
}

uint64_t sc_engine_synthetic_bytes(const struct sc_engine *engine)
{
    return engine->synthetic_bytes;
}

uint64_t sc_engine_token_bytes(const struct sc_engine *engine)
{
    const struct config *c = &engine->config;
    return sum_weights(engine, c->n_experts ? c->n_experts_used : 1, bytes_of);
}

uint64_t sc_engine_n_parameters(const struct sc_engine *engine, bool active_only)
{
    const struct config *c = &engine->config;
    const uint32_t n_experts = !c->n_experts ? 1 : active_only ? c->n_experts_used : c->n_experts;
    const bool tied = engine->weights.output.data == engine->weights.token_embd.data;
    return sum_weights(engine, n_experts, parameters_of) + (tied ? 0 : parameters_of(&engine->weights.token_embd));
}
