/* SPDX-License-Identifier: Apache-2.0 */
#include "forward.h"

/* The activations cut to n tokens. */
static struct activations of_tokens(const struct activations *all, const struct model *m, uint32_t n)
{
    const uint32_t n_used = m->config->n_experts ? m->config->n_experts_used : 1;
    struct activations a = *all;
    struct tensor *per_token[] = {&a.x,           &a.normed,        &a.q,      &a.k,     &a.v, &a.att, &a.router_logits,
                                  &a.routing.ids, &a.routing.probs, &a.tokens, &a.angles};
    for (uint32_t i = 0; i < sizeof(per_token) / sizeof(per_token[0]); i++)
        per_token[i]->rows = n;
    a.host_x.rows = n;
    if (n > a.n_host || a.is_merged)
        a.routing.on_host = 0;
    a.gate.rows = a.up.rows = a.down.rows = a.routing.host_y.rows = n * n_used;
    return a;
}

void forward_embed(struct commands *c, const struct model *m, const struct activations *all, uint32_t n)
{
    const struct activations a = of_tokens(all, m, n);
    op_embed(c, a.x, m->token_embd, a.tokens, a.top.best);
}

/* Whether a layer's operations are the fused ones. */
static bool is_fused(const struct model *m, const struct layer *w, uint32_t n)
{
    return n == 1 && (m->config->n_experts ? w->gate.type == w->up.type : w->ffn_gate.type == w->ffn_up.type);
}

static struct routing layer_routing(const struct activations *a, const struct config *c, uint32_t l)
{
    struct routing routing = a->routing; /* the host's copy of the ids has a place for each layer */
    routing.host_ids += (uint64_t)l * a->n_batch * c->n_experts_used * sizeof(uint32_t);
    return routing;
}

/* A single token's: two dispatches and three, or four where its types or its cache's take one more. */
static void attention_of_one(struct commands *c, const struct model *m, const struct activations *a, struct kv_cache kv,
                             uint32_t l, struct heads heads)
{
    const struct layer *w = &m->layers[l];
    const float eps = m->config->norm_eps;
    op_qkv(c, kv, a->q, a->k, a->v, (const struct tensor[]){w->attn_q, w->attn_k, w->attn_v}, a->x,
           (struct norm){.w = w->attn_norm, .eps = eps}, a->angles, a->step, heads);
    op_attention(c, a->att, a->q, kv, a->partial, a->done, a->step, heads);
    op_linear_add(c, a->x, w->attn_output, a->att);
    if (m->config->n_experts) {
        const struct tensor none = {0};
        op_router(c, layer_routing(a, m->config, l), a->router_logits, w->router, a->x,
                  (struct norm){.w = w->ffn_norm, .eps = eps}, a->routing.on_host ? a->host_x : none);
    }
}

void forward_attention(struct commands *c, const struct model *m, const struct activations *all, struct kv_cache kv,
                       uint32_t l, uint32_t n)
{
    const struct activations a = of_tokens(all, m, n);
    const struct config *g = m->config;
    const struct layer *w = &m->layers[l];
    const struct heads heads = {
        .n = g->n_heads, .n_kv = g->n_kv_heads, .dim = g->head_dim, .n_rot = g->n_rot, .window = g->window};
    if (is_fused(m, w, n)) {
        attention_of_one(c, m, &a, kv, l, heads);
        return;
    }

    op_rms_norm(c, a.normed, a.x, w->attn_norm, g->norm_eps);
    op_linear(c, a.q, w->attn_q, a.normed);
    op_linear(c, a.k, w->attn_k, a.normed);
    op_linear(c, a.v, w->attn_v, a.normed);
    op_rope_store(c, kv, a.q, a.k, a.v, a.angles, a.step, heads);
    op_attention(c, a.att, a.q, kv, a.partial, a.done, a.step, heads);
    op_linear_add(c, a.x, w->attn_output, a.att);

    op_rms_norm(c, a.normed, a.x, w->ffn_norm, g->norm_eps);
    if (g->n_experts) {
        op_linear_exact(c, a.router_logits, w->router, a.normed);
        op_route(c, layer_routing(&a, g, l), a.router_logits);
        if (a.routing.on_host)
            op_copy(c, a.host_x, a.normed);
        if (n > 1)
            op_group(c, a.routing, (const struct expert_tensor[]){w->gate, w->up, w->down});
    }
}

void forward_experts(struct commands *c, const struct model *m, const struct activations *all, uint32_t l, uint32_t n)
{
    const struct activations a = of_tokens(all, m, n);
    const struct layer *w = &m->layers[l];
    const struct norm norm = {.w = w->ffn_norm, .eps = m->config->norm_eps};
    if (m->config->n_experts) {
        if (is_fused(m, w, n)) {
            op_expert_gate_up(c, a.gate, w->gate, w->up, a.x, norm, a.routing);
        } else {
            op_expert_linear(c, a.gate, w->gate, a.normed, a.routing);
            op_expert_linear(c, a.up, w->up, a.normed, a.routing);
            op_silu_mul(c, a.gate, a.up);
        }
        if (a.is_merged)
            op_expert_down(c, a.x, w->down, a.gate, a.routing);
        else
            op_expert_linear(c, a.down, w->down, a.gate, a.routing);
    } else if (is_fused(m, w, n)) {
        op_gate_up(c, a.gate, w->ffn_gate, w->ffn_up, a.x, norm);
    } else {
        op_linear(c, a.gate, w->ffn_gate, a.normed);
        op_linear(c, a.up, w->ffn_up, a.normed);
        op_silu_mul(c, a.gate, a.up);
    }
}

void forward_combine(struct commands *c, const struct model *m, const struct activations *all, uint32_t l, uint32_t n)
{
    const struct activations a = of_tokens(all, m, n);
    if (!m->config->n_experts)
        op_linear_add(c, a.x, m->layers[l].ffn_down, a.gate);
    else if (!a.is_merged)
        op_combine(c, a.x, a.down, a.routing);
}

static void output(struct commands *c, const struct model *m, const struct activations *all, struct tensor logits,
                   uint32_t first)
{
    struct activations a = of_tokens(all, m, logits.rows);
    a.x.address += (uint64_t)first * a.x.cols * sizeof(float);
    op_rms_norm(c, a.normed, a.x, m->output_norm, m->config->norm_eps);
    op_linear(c, logits, m->output, a.normed);
}

void forward_logits(struct commands *c, const struct model *m, const struct activations *a, uint32_t first, uint32_t n)
{
    output(c, m, a, tensor_rows(a->host_logits, n), first);
}

void forward_top(struct commands *c, const struct model *m, const struct activations *a, uint32_t first)
{
    output(c, m, a, a->logits, first);
    op_top_k(c, a->top, a->logits, a->step);
}
