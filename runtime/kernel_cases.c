/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_cases.h"

#include <stdio.h>

enum { VALUE_ALIGNMENT = 256 };

static const struct kernel_shape shapes[] = {
    {"8x7b", 4096, 14336, 32, 8, 128, 8, 2, 32000, 32768}, {"8x22b", 6144, 16384, 48, 8, 128, 8, 2, 32768, 65536},
    {"7b", 4096, 14336, 32, 8, 128, 0, 0, 32000, 32768},   {"30b-a3b", 2048, 768, 32, 4, 128, 128, 8, 151936, 40960},
    {"tiny", 256, 512, 4, 2, 64, 4, 2, 1000, 1024},
};

const struct kernel_shape *kernel_shapes(size_t *n)
{
    *n = sizeof(shapes) / sizeof(shapes[0]);
    return shapes;
}

uint64_t kernel_unit(enum sc_type type)
{
    return (uint64_t)256 * sc_type_info(type)->block_bytes; /* 256: what addresses are aligned to */
}

/* ---- what operations take ---- */

static struct tensor value_of(struct kernel_trial *t, enum sc_type type, uint32_t rows, uint32_t cols)
{
    const struct tensor v = {.address = t->values, .type = type, .rows = rows, .cols = cols};
    const uint64_t bytes = tensor_size_bytes(&v),
                   room = (bytes + VALUE_ALIGNMENT - 1) / VALUE_ALIGNMENT * VALUE_ALIGNMENT;
    t->values += room;
    t->value_bytes += room;
    t->bytes += (double)bytes;
    t->used[t->n_used++] = v;
    return v;
}

static struct tensor value(struct kernel_trial *t, uint32_t rows, uint32_t cols)
{
    return value_of(t, SC_F32, rows, cols);
}

static uint64_t room_of(const struct tensor *w)
{
    const uint64_t unit = kernel_unit(w->type);
    return (tensor_size_bytes(w) + BUFFER_PADDING_BYTES + unit - 1) / unit * unit;
}

static void describe(struct kernel_trial *t, uint32_t rows, uint32_t cols)
{
    snprintf(t->size, sizeof(t->size), "%u x %u", rows, cols);
}

static struct tensor matrix(struct kernel_trial *t, uint32_t rows, uint32_t cols)
{
    const struct tensor w = {.address = t->weights, .type = t->type, .rows = rows, .cols = cols};
    t->weights += room_of(&w);
    t->weight_bytes += room_of(&w);
    t->bytes += (double)tensor_size_bytes(&w);
    t->flop += 2.0 * rows * cols * t->n;
    t->matrix = w;
    t->family = family_for(t->n);
    describe(t, rows, cols);
    return w;
}

enum { GATE, UP, DOWN, N_MATRICES };

/* Slots hold all three matrices, as in a model. */
static struct expert_tensor expert(struct kernel_trial *t, uint32_t which)
{
    const struct kernel_shape *s = t->shape;
    const struct tensor wide = {.type = t->type, .rows = s->n_ff, .cols = s->n_embd};
    const struct tensor narrow = {.type = t->type, .rows = s->n_embd, .cols = s->n_ff};
    const struct tensor *w = which == DOWN ? &narrow : &wide;
    t->weight_bytes = 2 * room_of(&wide) + room_of(&narrow);
    t->bytes += (double)t->n_hit * (double)tensor_size_bytes(w);
    t->flop += 2.0 * w->rows * w->cols * t->n * s->n_used;
    t->matrix = *w;
    t->family = op_expert_family(t->n * s->n_used, s->n_experts);
    snprintf(t->size, sizeof(t->size), "%u of %u, %u x %u", s->n_used, s->n_experts, w->rows, w->cols);
    return (struct expert_tensor){.slots = t->slots,
                                  .matrix = which,
                                  .offset = (uint32_t)(which * room_of(&wide)),
                                  .n_experts = s->n_experts,
                                  .type = w->type,
                                  .rows = w->rows,
                                  .cols = w->cols};
}

static struct routing routing(struct kernel_trial *t)
{
    struct routing r = t->routing;
    r.probs = value(t, t->n, t->shape->n_used);
    return r;
}

static struct heads heads(const struct kernel_shape *s)
{
    return (struct heads){.n = s->n_heads, .n_kv = s->n_kv_heads, .dim = s->head_dim, .n_rot = s->head_dim};
}

static uint32_t cache_cols(const struct kernel_trial *t, enum sc_type type)
{
    return kv_cols(type, t->shape->n_kv_heads * t->shape->head_dim);
}

/* That is written. */
static struct kv_cache cache(struct kernel_trial *t, enum sc_type type, uint32_t n_ctx)
{
    const uint32_t cols = cache_cols(t, type);
    return (struct kv_cache){.k = value_of(t, type, n_ctx, cols), .v = value_of(t, type, n_ctx, cols)};
}

/* That is read, where weights lie: each layer has another one. */
static struct tensor full_cache(struct kernel_trial *t, uint32_t n_ctx)
{
    const struct tensor c = {.address = t->weights, .type = t->type, .rows = n_ctx, .cols = cache_cols(t, t->type)};
    t->weights += room_of(&c);
    t->weight_bytes += room_of(&c);
    t->bytes += (double)tensor_size_bytes(&c);
    return c;
}

/* ---- the operations ---- */

static bool everywhere(const struct kernel_shape *s)
{
    (void)s;
    return true;
}

static bool in_mixtures(const struct kernel_shape *s)
{
    return s->n_experts > 0;
}

static bool in_dense(const struct kernel_shape *s)
{
    return s->n_experts == 0;
}

static void record_embed(struct kernel_trial *t)
{
    const double before = t->bytes;
    const struct tensor w = matrix(t, t->shape->n_vocab, t->shape->n_embd), row = tensor_rows(w, t->n);
    t->flop = 0;
    t->family = N_FAMILIES;
    t->bytes = before + (double)tensor_size_bytes(&row);
    op_embed(t->commands, value(t, t->n, w.cols), w, t->tokens, (struct tensor){0});
}

static void record_norm(struct kernel_trial *t)
{
    const uint32_t cols = t->shape->n_embd;
    op_rms_norm(t->commands, value(t, t->n, cols), value(t, t->n, cols), value(t, 1, cols), 1e-5f);
    describe(t, t->n, cols);
}

static void linear(struct kernel_trial *t, uint32_t rows, uint32_t cols)
{
    op_linear(t->commands, value(t, t->n, rows), matrix(t, rows, cols), value(t, t->n, cols));
}

static struct norm norm_of(struct kernel_trial *t)
{
    return (struct norm){.w = value(t, 1, t->shape->n_embd), .eps = 1e-5f};
}

static void record_qkv(struct kernel_trial *t)
{
    const struct kernel_shape *s = t->shape;
    const struct heads h = heads(s);
    const uint32_t kv_rows = h.n_kv * h.dim;
    const struct tensor none = {.type = SC_F32, .rows = 1, .cols = kv_rows}; /* this cache's type has a fused store */
    const struct tensor w[3] = {matrix(t, h.n * h.dim, s->n_embd), matrix(t, kv_rows, s->n_embd),
                                matrix(t, kv_rows, s->n_embd)};
    const struct tensor q = value(t, 1, h.n * h.dim), x = value(t, 1, s->n_embd), angles = value(t, 1, h.n_rot);
    t->family = FAMILY_QKV;
    op_qkv(t->commands, cache(t, SC_F16, 1), q, none, none, w, x, norm_of(t), angles, t->step, h);
    describe(t, h.n * h.dim + 2 * kv_rows, s->n_embd);
}

static void record_attn_q(struct kernel_trial *t)
{
    linear(t, t->shape->n_heads * t->shape->head_dim, t->shape->n_embd);
}

static void record_attn_k(struct kernel_trial *t)
{
    linear(t, t->shape->n_kv_heads * t->shape->head_dim, t->shape->n_embd);
}

static void record_rope_store(struct kernel_trial *t)
{
    const struct heads h = heads(t->shape);
    const struct tensor q = value(t, t->n, h.n * h.dim), k = value(t, t->n, h.n_kv * h.dim),
                        v = value(t, t->n, h.n_kv * h.dim), angles = value(t, t->n, h.n_rot);
    op_rope_store(t->commands, cache(t, t->type, t->n), q, k, v, angles, t->step, h);
    describe(t, t->n, q.cols);
}

static void record_attention(struct kernel_trial *t)
{
    const struct heads h = heads(t->shape);
    const uint32_t pieces = t->n < ATTENTION_MAX_PIECES ? ATTENTION_MAX_PIECES / t->n : 1;
    const struct tensor y = value(t, t->n, h.n * h.dim), q = value(t, t->n, h.n * h.dim);
    const struct tensor keys = full_cache(t, t->depth + t->n), values = full_cache(t, t->depth + t->n);
    const double bytes = t->bytes; /* what the pieces leave behind could be avoided */
    const struct tensor partial = value(t, t->n * h.n * pieces, h.dim + 4);
    t->bytes = bytes;
    t->flop = 4.0 * t->n * h.n * h.dim * (t->depth + 0.5 * (t->n + 1));
    t->matrix = attention_key(t->type, h);
    t->family = op_attention_family(t->n, pieces, h);
    op_attention(t->commands, y, q, (struct kv_cache){.k = keys, .v = values}, partial, t->done, t->step, h);
    snprintf(t->size, sizeof(t->size), "behind %u", t->depth);
}

static void record_attn_output(struct kernel_trial *t)
{
    const uint32_t rows = t->shape->n_embd, cols = t->shape->n_heads * t->shape->head_dim;
    op_linear_add(t->commands, value(t, t->n, rows), matrix(t, rows, cols), value(t, t->n, cols));
}

static void record_router(struct kernel_trial *t)
{
    linear(t, t->shape->n_experts, t->shape->n_embd);
}

static void record_fused_router(struct kernel_trial *t)
{
    const struct kernel_shape *s = t->shape;
    const struct tensor none = {0}, w = matrix(t, s->n_experts, s->n_embd);
    const struct tensor logits = value(t, 1, s->n_experts), x = value(t, 1, s->n_embd);
    t->family = FAMILY_ROUTER;
    op_router(t->commands, routing(t), logits, w, x, norm_of(t), none);
}

static void record_route(struct kernel_trial *t)
{
    op_route(t->commands, routing(t), value(t, t->n, t->shape->n_experts));
    snprintf(t->size, sizeof(t->size), "%u of %u", t->shape->n_used, t->shape->n_experts);
}

static void record_group(struct kernel_trial *t)
{
    const struct routing *r = &t->routing;
    kernel_group(t);
    t->bytes = (double)(tensor_size_bytes(&r->ids) + tensor_size_bytes(&r->first) + tensor_size_bytes(&r->pairs));
    snprintf(t->size, sizeof(t->size), "%u of %u", t->shape->n_used, t->shape->n_experts);
}

static void record_expert_gate(struct kernel_trial *t)
{
    const struct expert_tensor w = expert(t, GATE);
    op_expert_linear(t->commands, value(t, t->n * t->shape->n_used, w.rows), w, value(t, t->n, w.cols), t->routing);
}

static void record_expert_down(struct kernel_trial *t)
{
    const struct expert_tensor w = expert(t, DOWN);
    const uint32_t n_pairs = t->n * t->shape->n_used;
    op_expert_linear(t->commands, value(t, n_pairs, w.rows), w, value(t, n_pairs, w.cols), t->routing);
}

static void record_expert_gate_up(struct kernel_trial *t)
{
    const struct expert_tensor gate = expert(t, GATE), up = expert(t, UP);
    const struct tensor y = value(t, t->shape->n_used, gate.rows), x = value(t, 1, gate.cols);
    t->family = FAMILY_GATE_UP;
    op_expert_gate_up(t->commands, y, gate, up, x, norm_of(t), t->routing);
}

static void record_merged_down(struct kernel_trial *t)
{
    const struct expert_tensor w = expert(t, DOWN);
    const struct tensor x = value(t, 1, w.rows), y = value(t, t->shape->n_used, w.cols);
    t->family = FAMILY_DOWN;
    op_expert_down(t->commands, x, w, y, routing(t));
}

static void record_gate_up(struct kernel_trial *t)
{
    const uint32_t rows = t->shape->n_ff, cols = t->shape->n_embd;
    const struct tensor gate = matrix(t, rows, cols), up = matrix(t, rows, cols);
    t->family = FAMILY_GATE_UP;
    op_gate_up(t->commands, value(t, 1, rows), gate, up, value(t, 1, cols), norm_of(t));
}

static void record_gate(struct kernel_trial *t)
{
    linear(t, t->shape->n_ff, t->shape->n_embd);
}

static void record_down(struct kernel_trial *t)
{
    const uint32_t rows = t->shape->n_embd, cols = t->shape->n_ff;
    op_linear_add(t->commands, value(t, t->n, rows), matrix(t, rows, cols), value(t, t->n, cols));
}

static void record_silu_mul(struct kernel_trial *t)
{
    const uint32_t rows = t->n * (t->shape->n_used ? t->shape->n_used : 1), cols = t->shape->n_ff;
    op_silu_mul(t->commands, value(t, rows, cols), value(t, rows, cols));
    describe(t, rows, cols);
}

static void record_combine(struct kernel_trial *t)
{
    const uint32_t cols = t->shape->n_embd, n_used = t->shape->n_used;
    op_combine(t->commands, value(t, t->n, cols), value(t, t->n * n_used, cols), routing(t));
    describe(t, n_used, cols);
}

static void record_output(struct kernel_trial *t)
{
    linear(t, t->shape->n_vocab, t->shape->n_embd);
}

/* As a layer's experts, products do not wait for each other: each has its own matrix, input, result and scratch. */
static void record_products(struct kernel_trial *t)
{
    const uint32_t rows = t->shape->n_ff, cols = t->shape->n_embd;
    const struct access scratch = t->commands->scratch;
    struct tensor y = tensor_rows(value(t, t->n * t->n_beside, rows), t->n),
                  x = tensor_rows(value(t, t->n * t->n_beside, cols), t->n);
    for (uint32_t i = 0; i < t->n_beside; i++) {
        op_linear(t->commands, y, matrix(t, rows, cols), x);
        y.address += tensor_size_bytes(&y);
        x.address += tensor_size_bytes(&x);
        t->commands->scratch.address += op_scratch_bytes(t->n, cols);
    }
    t->commands->scratch = scratch;
}

const struct kernel_op kernel_attention = {.name = "attention", .record = record_attention};
const struct kernel_op kernel_products = {.name = "products", .record = record_products};

/* Several tokens, and one token: what forward.c runs of each. */
enum { MANY = KERNEL_MAX_TOKENS };

static const struct kernel_op ops[] = {
    {"embed", WEIGHTS_TYPED, false, 1, MANY, everywhere, record_embed},
    {"rms_norm", WEIGHTS_NONE, false, 1, MANY, everywhere, record_norm},
    {"qkv", WEIGHTS_TYPED, false, 1, 1, everywhere, record_qkv},
    {"attn_q", WEIGHTS_TYPED, false, 2, MANY, everywhere, record_attn_q},
    {"attn_k", WEIGHTS_TYPED, false, 2, MANY, everywhere, record_attn_k},
    {"rope_store", WEIGHTS_CACHE, false, 2, MANY, everywhere, record_rope_store},
    {"attention", WEIGHTS_CACHE, true, 1, MANY, everywhere, record_attention},
    {"attn_output", WEIGHTS_TYPED, false, 1, MANY, everywhere, record_attn_output},
    {"router", WEIGHTS_F32, false, 1, 1, in_mixtures, record_fused_router},
    {"router", WEIGHTS_F32, false, 2, MANY, in_mixtures, record_router},
    {"route", WEIGHTS_NONE, false, 2, MANY, in_mixtures, record_route},
    {"group", WEIGHTS_NONE, false, 2, MANY, in_mixtures, record_group},
    {"experts gate, up", WEIGHTS_TYPED, false, 1, 1, in_mixtures, record_expert_gate_up},
    {"experts gate", WEIGHTS_TYPED, false, 2, MANY, in_mixtures, record_expert_gate},
    {"gate, up", WEIGHTS_TYPED, false, 1, 1, in_dense, record_gate_up},
    {"gate", WEIGHTS_TYPED, false, 2, MANY, in_dense, record_gate},
    {"silu_mul", WEIGHTS_NONE, false, 2, MANY, everywhere, record_silu_mul},
    {"experts down", WEIGHTS_TYPED, false, 1, 1, in_mixtures, record_merged_down},
    {"experts down", WEIGHTS_TYPED, false, 2, MANY, in_mixtures, record_expert_down},
    {"down", WEIGHTS_TYPED, false, 1, MANY, in_dense, record_down},
    {"combine", WEIGHTS_NONE, false, 2, MANY, in_mixtures, record_combine},
    {"output", WEIGHTS_TYPED, false, 1, 1, everywhere, record_output},
};

const struct kernel_op *kernel_ops(size_t *n)
{
    *n = sizeof(ops) / sizeof(ops[0]);
    return ops;
}

void kernel_measure(const struct kernel_op *op, struct kernel_trial *t)
{
    struct commands failed = {.error = {.code = SC_CANCELLED}}, *commands = t->commands; /* takes no dispatches */
    t->commands = &failed;
    op->record(t);
    t->commands = commands;
}

void kernel_group(const struct kernel_trial *t)
{
    struct kernel_trial sums = *t; /* nobody asks for them */
    struct expert_tensor matrices[N_MATRICES];
    for (uint32_t i = 0; i < N_MATRICES; i++)
        matrices[i] = expert(&sums, i);
    op_group(t->commands, t->routing, matrices);
}
