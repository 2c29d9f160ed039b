/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "dispatch.h"

enum { MAX_SLICES = 16 };

uint32_t op_slice(const struct commands *c, double work, uint32_t n_tiles)
{
    const double slices = work / c->gpu->piece_work;
    const uint32_t n = groups(n_tiles, slices > MAX_SLICES ? MAX_SLICES : slices > 1 ? (uint32_t)ceil(slices) : 1);
    return n < MAX_GROUPS ? n : MAX_GROUPS;
}

uint64_t tensor_size_bytes(const struct tensor *t)
{
    const struct sc_type_info *info = sc_type_info(t->type);
    return (uint64_t)t->rows * (t->cols / info->block_size) * info->block_bytes;
}

struct tensor tensor_rows(struct tensor t, uint32_t rows)
{
    t.rows = rows;
    return t;
}

void op_embed(struct commands *c, struct tensor y, struct tensor w, struct tensor tokens, struct tensor best)
{
    if (!shapes_fit(c, y.rows == tokens.rows && y.cols == w.cols && tokens.cols == 1 && w.cols % 16 == 0, "op_embed"))
        return;
    struct embed_args args = {.w = w.address,
                              .tokens = tokens.address,
                              .best = best.address,
                              .y = y.address,
                              .cols = w.cols,
                              .n_vocab = w.rows};
    DISPATCH(c, kernel_of_type(KERNEL_EMBED_F32, w.type), &args, groups(w.cols / 16, WORKGROUP), y.rows, 1,
             reads(tokens), reads(best), writes(y));
}

void op_rms_norm(struct commands *c, struct tensor y, struct tensor x, struct tensor w, float eps)
{
    if (!shapes_fit(c, y.rows == x.rows && y.cols == x.cols && w.cols == x.cols && w.type == SC_F32, "op_rms_norm"))
        return;
    struct rms_norm_args args = {.x = x.address, .w = w.address, .y = y.address, .cols = x.cols, .eps = eps};
    DISPATCH(c, KERNEL_RMS_NORM, &args, x.rows, 1, 1, reads(x), writes(y));
}

void op_quantize(struct commands *c, struct tensor y, struct tensor x, const struct norm *norm)
{
    const bool fit = y.rows == x.rows && y.cols == ROUNDED_WORDS(x.cols) && x.cols % ROUNDED_BLOCK == 0 &&
                     tensor_size_bytes(&x) <= UINT32_MAX && (!norm || norm->w.cols == x.cols);
    if (!shapes_fit(c, fit, "op_quantize"))
        return;
    struct quantize_args args = {.x = x.address,
                                 .norm = norm ? norm->w.address : 0,
                                 .y = y.address,
                                 .rows = x.rows,
                                 .cols = x.cols,
                                 .eps = norm ? norm->eps : 0};
    DISPATCH(c, KERNEL_QUANTIZE, &args, spread_x(x.rows), groups(x.cols / 4, WORKGROUP), spread_z(x.rows), reads(x),
             writes(y));
}

uint64_t op_scratch_bytes(uint32_t rows, uint32_t cols)
{
    const uint64_t rounded = (uint64_t)rows * ROUNDED_WORDS((uint64_t)cols) * sizeof(uint32_t),
                   normed = (uint64_t)cols * sizeof(float); /* of a single token */
    return rounded > normed ? rounded : normed;
}

static bool is_same(const struct made *a, const struct made *b)
{
    return a->from.address == b->from.address && a->cols == b->cols && a->to.address == b->to.address &&
           a->to.size_bytes == b->to.size_bytes && a->norm == b->norm && a->eps == b->eps;
}

struct access input_of(struct commands *c, const struct variant *v, struct tensor x, const struct norm *norm)
{
    const bool rounds = v->rounding == ROUNDS_TO_Q8;
    struct tensor made = x;
    if (!rounds && !(norm && v->constants[CONSTANT_IS_NORMED]))
        return reads(x);
    made.address = c->scratch.address;
    made.cols = rounds ? ROUNDED_WORDS(x.cols) : x.cols;
    if (!shapes_fit(c, tensor_size_bytes(&made) <= c->scratch.size_bytes, "an operation"))
        return reads(x);
    const struct made wanted = {.from = reads(x),
                                .to = reads(made),
                                .norm = norm ? norm->w.address : 0,
                                .cols = x.cols,
                                .eps = norm ? norm->eps : 0};
    if (is_same(&c->made, &wanted))
        return wanted.to;
    if (rounds)
        op_quantize(c, made, x, norm);
    else
        op_rms_norm(c, made, x, norm->w, norm->eps);
    c->made = wanted;
    return wanted.to;
}

void op_route(struct commands *c, struct routing r, struct tensor logits)
{
    const bool fit = r.ids.rows == logits.rows && r.probs.rows == logits.rows && r.ids.cols == r.probs.cols &&
                     logits.cols <= SC_MAX_EXPERTS && r.ids.cols <= SC_MAX_EXPERTS_USED && r.ids.cols <= logits.cols;
    if (!shapes_fit(c, fit, "op_route"))
        return;
    struct route_args args = {.logits = logits.address,
                              .ids = r.ids.address,
                              .probs = r.probs.address,
                              .host_ids = r.host_ids,
                              .n_experts = logits.cols,
                              .n_used = r.ids.cols};
    const struct access host = {.address = r.host_ids, .size_bytes = tensor_size_bytes(&r.ids), .write = true};
    DISPATCH(c, KERNEL_ROUTE, &args, logits.rows, 1, 1, reads(logits), writes(r.ids), writes(r.probs), host);
}

void op_silu_mul(struct commands *c, struct tensor gate, struct tensor up)
{
    if (!shapes_fit(c, gate.rows == up.rows && gate.cols == up.cols, "op_silu_mul"))
        return;
    struct silu_mul_args args = {.gate = gate.address, .up = up.address, .n = gate.rows * gate.cols};
    const uint32_t n = groups(args.n, WORKGROUP);
    DISPATCH(c, KERNEL_SILU_MUL, &args, spread_x(n), 1, spread_z(n), reads(up), writes(gate));
}

void op_combine(struct commands *c, struct tensor x, struct tensor y, struct routing r)
{
    const bool fit = r.probs.rows == x.rows && y.rows == x.rows * r.probs.cols && y.cols == x.cols &&
                     (!r.on_host || (r.host_y.rows == y.rows && r.host_y.cols == y.cols));
    if (!shapes_fit(c, fit, "op_combine"))
        return;
    struct combine_args args = {.x = x.address,
                                .y = y.address,
                                .probs = r.probs.address,
                                .host_y = r.host_y.address,
                                .on_host = r.on_host,
                                .n_embd = x.cols,
                                .n_used = r.probs.cols};
    DISPATCH(c, KERNEL_COMBINE, &args, groups(x.cols, WORKGROUP), x.rows, 1, reads(y), reads(r.probs), writes(x));
}

void op_top_k(struct commands *c, struct top top, struct tensor logits, struct tensor step)
{
    const bool fit =
        logits.rows == 1 && top.list.cols == 2 && top.heads.rows == TOP_K_HEADS && top.heads.cols == 2 && top.counter;
    if (!shapes_fit(c, fit, "op_top_k"))
        return;
    struct top_k_args args = {.logits = logits.address,
                              .heads = top.heads.address,
                              .top = top.list.address,
                              .best = top.best.address,
                              .step = step.address,
                              .counter = top.counter,
                              .n = logits.cols};
    const struct access counter = {.address = top.counter, .size_bytes = sizeof(uint32_t), .write = true};
    DISPATCH(c, KERNEL_TOP_K, &args, TOP_K_WORKGROUPS, 1, 1, reads(logits), reads(step), writes(top.list),
             writes(top.best), writes(top.heads), counter);
}

void op_copy(struct commands *c, struct tensor to, struct tensor from)
{
    if (!shapes_fit(c, to.rows == from.rows && to.cols == from.cols && to.type == from.type, "op_copy"))
        return;
    struct copy_args args = {.from = from.address, .to = to.address, .n = to.rows * to.cols};
    const uint32_t n = groups(args.n, WORKGROUP);
    DISPATCH(c, KERNEL_COPY, &args, spread_x(n), 1, spread_z(n), reads(from), writes(to));
}

void op_read(struct commands *c, struct tensor to, struct tensor from)
{
    if (!shapes_fit(c, to.cols % WORKGROUP == 0 && tensor_size_bytes(&from) / 16 <= UINT32_MAX / 2, "op_read"))
        return;
    struct read_args args = {
        .from = from.address, .to = to.address, .n = (uint32_t)(tensor_size_bytes(&from) / 16), .n_threads = to.cols};
    const uint32_t n = to.cols / WORKGROUP;
    DISPATCH(c, KERNEL_READ, &args, spread_x(n), 1, spread_z(n), reads(from), writes(to));
}
