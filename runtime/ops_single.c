/* SPDX-License-Identifier: Apache-2.0 */
/* The fused operations of a single token. */
#include "dispatch.h"

static bool norm_fits(struct tensor x, struct norm norm)
{
    return x.rows == 1 && x.cols % 16 == 0 && norm.w.cols == x.cols && norm.w.type == SC_F32;
}

/* The matrices of one type that op_qkv computes at once, what they read and write. Those of 0 rows are left out. */
struct qkv_run {
    struct qkv_args args;
    struct access accesses[6];
    uint32_t n_accesses;
};

/* w: the run's first matrix, which decides for all of them. */
static void qkv(struct commands *c, struct qkv_run *run, struct tensor w, struct tensor x, struct norm norm)
{
    struct qkv_args *args = &run->args;
    const struct variant *v = variant_of(c->gpu, FAMILY_QKV, w.type, w.rows, w.cols);
    const uint32_t n =
        groups(args->rows_q, v->tile_rows) + groups(args->rows_k, v->tile_rows) + groups(args->rows_v, v->tile_rows);
    const struct access in = input_of(c, v, x, &norm);
    args->x = in.address;
    args->norm = norm.w.address;
    args->cols = x.cols;
    args->eps = norm.eps;
    run->accesses[run->n_accesses++] = in;
    commands_dispatch(c, variant_program(v, w.type), args, run->accesses, run->n_accesses, spread_x(n), 1, spread_z(n));
}

void op_qkv(struct commands *c, struct kv_cache kv, struct tensor q, struct tensor k, struct tensor v,
            const struct tensor w[3], struct tensor x, struct norm norm, struct tensor angles, struct tensor step,
            struct heads h)
{
    const bool is_fused = kv.k.type == SC_F32 || kv.k.type == SC_F16;
    bool fit = norm_fits(x, norm) && q.rows == 1 && q.cols == h.n * h.dim && k.rows == 1 && k.cols == h.n_kv * h.dim &&
               v.rows == 1 && v.cols == k.cols && kv.k.cols == kv_cols(kv.k.type, k.cols) && kv.v.cols == kv.k.cols &&
               (uint64_t)kv.k.rows * k.cols / 2 <= INT32_MAX && angles.cols == h.n_rot && h.dim % 4 == 0 &&
               h.n_rot <= h.dim && h.n_rot % 2 == 0;
    const struct tensor to[3] = {q, is_fused ? kv.k : k, is_fused ? kv.v : v};
    for (uint32_t i = 0; i < 3; i++)
        fit = fit && w[i].rows == to[i].cols && w[i].cols == x.cols;
    if (!shapes_fit(c, fit, "op_qkv"))
        return;
    for (uint32_t first = 0, end; first < 3; first = end) {
        uint32_t rows[3] = {0};
        struct qkv_run run = {.accesses = {reads(angles), reads(step)}, .n_accesses = 2};
        for (end = first; end < 3 && w[end].type == w[first].type; end++) {
            rows[end] = w[end].rows;
            run.accesses[run.n_accesses++] = writes(to[end]);
        }
        run.args = (struct qkv_args){
            .w_q = w[0].address,
            .w_k = w[1].address,
            .w_v = w[2].address,
            .q = to[0].address,
            .k = to[1].address,
            .v = to[2].address,
            .angles = is_fused ? angles.address : 0,
            .step = is_fused ? step.address : 0,
            .rows_q = rows[0],
            .rows_k = rows[1],
            .rows_v = rows[2],
            .head_dim = h.dim,
            .n_rot = h.n_rot,
            .kv_is_f16 = to[1].type == SC_F16,
        };
        qkv(c, &run, w[first], x, norm);
    }
    if (!is_fused)
        op_rope_store(c, kv, q, k, v, angles, step, h);
}

void op_router(struct commands *c, struct routing r, struct tensor logits, struct tensor w, struct tensor x,
               struct norm norm, struct tensor normed)
{
    const bool fit = norm_fits(x, norm) && w.cols == x.cols && w.rows == logits.cols && logits.rows == 1 &&
                     r.ids.rows == 1 && r.probs.rows == 1 && r.ids.cols == r.probs.cols && r.ids.cols <= w.rows &&
                     w.rows <= SC_MAX_EXPERTS && r.ids.cols <= SC_MAX_EXPERTS_USED && r.counter &&
                     (!normed.address || (normed.rows == 1 && normed.cols == x.cols));
    if (!shapes_fit(c, fit, "op_router"))
        return;
    const struct variant *v = variant_of(c->gpu, FAMILY_ROUTER, w.type, w.rows, w.cols);
    const struct access in = input_of(c, v, x, &norm);
    struct router_args args = {.w = w.address,
                               .x = in.address,
                               .norm = norm.w.address,
                               .normed = normed.address,
                               .logits = logits.address,
                               .ids = r.ids.address,
                               .probs = r.probs.address,
                               .host_ids = r.host_ids,
                               .counter = r.counter,
                               .n_experts = w.rows,
                               .cols = w.cols,
                               .n_used = r.ids.cols,
                               .eps = norm.eps};
    const struct access host = {.address = r.host_ids, .size_bytes = tensor_size_bytes(&r.ids), .write = true},
                        counter = {.address = r.counter, .size_bytes = sizeof(uint32_t), .write = true};
    DISPATCH_PROGRAM(c, variant_program(v, w.type), &args, groups(w.rows, v->tile_rows), 1, 1, in, writes(normed),
                     writes(logits), writes(r.ids), writes(r.probs), host, counter);
}

/* The rest of both: ids without an address are no access. */
static void gate_up(struct commands *c, struct gate_up_args *args, enum sc_type type, struct tensor y, struct tensor x,
                    struct norm norm, struct tensor ids)
{
    const struct variant *v = variant_of(c->gpu, FAMILY_GATE_UP, type, args->rows, x.cols);
    const struct access in = input_of(c, v, x, &norm);
    args->ids = ids.address;
    args->x = in.address;
    args->norm = norm.w.address;
    args->y = y.address;
    args->cols = x.cols;
    args->eps = norm.eps;
    const uint32_t n = groups(2 * (uint64_t)args->rows, v->tile_rows); /* half of a thread's rows are gate's */
    DISPATCH_PROGRAM(c, variant_program(v, type), args, spread_x(n), y.rows, spread_z(n), in, reads(ids), writes(y));
}

void op_gate_up(struct commands *c, struct tensor y, struct tensor gate, struct tensor up, struct tensor x,
                struct norm norm)
{
    const bool fit = norm_fits(x, norm) && y.rows == 1 && y.cols == gate.rows && gate.cols == x.cols &&
                     up.rows == gate.rows && up.cols == gate.cols && up.type == gate.type;
    if (!shapes_fit(c, fit, "op_gate_up"))
        return;
    struct gate_up_args args = {.gate = gate.address, .up = up.address, .rows = gate.rows};
    gate_up(c, &args, gate.type, y, x, norm, (struct tensor){0});
}

void op_expert_gate_up(struct commands *c, struct tensor y, struct expert_tensor gate, struct expert_tensor up,
                       struct tensor x, struct norm norm, struct routing r)
{
    const bool fit = norm_fits(x, norm) && r.ids.rows == 1 && y.rows == r.ids.cols && y.cols == gate.rows &&
                     gate.cols == x.cols && up.rows == gate.rows && up.cols == gate.cols && up.type == gate.type &&
                     up.slots == gate.slots;
    if (!shapes_fit(c, fit, "op_expert_gate_up"))
        return;
    struct gate_up_args args = {
        .experts = gate.slots, .gate_offset = gate.offset, .up_offset = up.offset, .rows = gate.rows};
    gate_up(c, &args, gate.type, y, x, norm, r.ids);
}

void op_expert_down(struct commands *c, struct tensor x, struct expert_tensor w, struct tensor y, struct routing r)
{
    const bool fit = x.rows == 1 && x.cols == w.rows && y.cols == w.cols && y.rows == r.ids.cols && r.ids.rows == 1 &&
                     r.probs.rows == 1 && r.probs.cols == r.ids.cols && w.cols % 16 == 0;
    if (!shapes_fit(c, fit, "op_expert_down"))
        return;
    const struct variant *v = variant_of(c->gpu, FAMILY_DOWN, w.type, w.rows, w.cols);
    const struct access in = input_of(c, v, y, NULL);
    struct down_args args = {.experts = w.slots,
                             .ids = r.ids.address,
                             .probs = r.probs.address,
                             .x = in.address,
                             .y = x.address,
                             .w_offset = w.offset,
                             .rows = w.rows,
                             .cols = w.cols,
                             .n_used = r.ids.cols};
    const uint32_t n = groups(w.rows, v->tile_rows);
    DISPATCH_PROGRAM(c, variant_program(v, w.type), &args, spread_x(n), 1, spread_z(n), in, reads(r.ids),
                     reads(r.probs), writes(x));
}
