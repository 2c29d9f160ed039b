/* SPDX-License-Identifier: Apache-2.0 */
#include "ops.h"

#include <math.h>

enum {
    MATMUL_ROWS = 64, /* a workgroup's tile, as in matmul.comp and matmul_rows.comp */
    MATMUL_COLUMNS = 32,
    MATMUL_ROWS_COLUMNS = 8,
    MATVEC_ROWS = 2,      /* rows of a thread of matvec */
    MATVEC_ROWS_ROWS = 8, /* and of matvec_rows */
    ATTENTION_ROWS = 8,
    MAX_HEAD_DIM = 256,
    WORKGROUP = 64,
};

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

static struct access reads(struct tensor t)
{
    return (struct access){.address = t.address, .size_bytes = tensor_size_bytes(&t)};
}

static struct access writes(struct tensor t)
{
    return (struct access){.address = t.address, .size_bytes = tensor_size_bytes(&t), .write = true};
}

static uint32_t groups(uint64_t n, uint32_t size)
{
    return (uint32_t)((n + size - 1) / size);
}

/* One dimension of a dispatch holds at least 65535 workgroups and often no more: spreads n over x and z. */
enum { MAX_GROUPS = 32768 };

static uint32_t spread_x(uint32_t n)
{
    return n < MAX_GROUPS ? n : MAX_GROUPS;
}

static uint32_t spread_z(uint32_t n)
{
    return groups(n, MAX_GROUPS);
}

/* The loader has checked the file's shapes, so a wrong one here is a bug; but asserts may be compiled out. */
static bool shapes_fit(struct commands *c, bool fit, const char *op)
{
    if (!fit)
        sc_fail(&c->error, SC_INVALID_ARGUMENT, "%s was called with shapes that do not fit", op);
    return fit && !c->error.code;
}

#define DISPATCH(c, kernel, args, x, y, z, ...) \
    commands_dispatch(c, kernel, args, (const struct access[]){__VA_ARGS__}, \
                      sizeof((const struct access[]){__VA_ARGS__}) / sizeof(struct access), x, y, z)

/* The variant for a weight type: the kernel table lists the types in order of ggml's ids, from `first` on. */
static enum kernel variant(enum kernel first, enum sc_type type)
{
    size_t n;
    const struct sc_type_info *types = sc_types(&n);
    size_t i = 0;
    while (i + 1 < n && types[i].type != type)
        i++;
    return first + (enum kernel)i;
}

void op_embed(struct commands *c, struct tensor y, struct tensor w, struct tensor tokens)
{
    if (!shapes_fit(c, y.rows == tokens.rows && y.cols == w.cols && tokens.cols == 1 && w.cols % 16 == 0, "op_embed"))
        return;
    struct embed_args args = {.w = w.address, .tokens = tokens.address, .y = y.address, .cols = w.cols};
    DISPATCH(c, variant(KERNEL_EMBED_F32, w.type), &args, groups(w.cols / 16, WORKGROUP), y.rows, 1, reads(tokens),
             writes(y));
}

void op_rms_norm(struct commands *c, struct tensor y, struct tensor x, struct tensor w, float eps)
{
    if (!shapes_fit(c, y.rows == x.rows && y.cols == x.cols && w.cols == x.cols && w.type == SC_F32, "op_rms_norm"))
        return;
    struct rms_norm_args args = {.x = x.address, .w = w.address, .y = y.address, .cols = x.cols, .eps = eps};
    DISPATCH(c, KERNEL_RMS_NORM, &args, x.rows, 1, 1, reads(x), writes(y));
}

/* The variants for processors, whose lanes do best with rows of their own; they broadcast among 8 lanes. */
static bool by_rows(const struct commands *c)
{
    return c->gpu->info.kind == SC_DEVICE_CPU && c->gpu->info.min_subgroup_size >= 8 && c->gpu->info.has_ballot;
}

static enum kernel matvec_variant(const struct commands *c, enum sc_type type)
{
    return variant(by_rows(c) ? KERNEL_MATVEC_ROWS_F32 : KERNEL_MATVEC_F32, type);
}

static uint32_t matvec_groups(const struct commands *c, uint32_t rows)
{
    return groups(rows, WORKGROUP / gpu_lanes_per_row(c->gpu) * (by_rows(c) ? MATVEC_ROWS_ROWS : MATVEC_ROWS));
}

static enum kernel matmul_variant(const struct commands *c, enum sc_type type)
{
    return variant(by_rows(c) ? KERNEL_MATMUL_ROWS_F32 : KERNEL_MATMUL_F32, type);
}

static uint32_t matmul_column_groups(const struct commands *c, uint32_t n)
{
    return groups(n, by_rows(c) ? MATMUL_ROWS_COLUMNS : MATMUL_COLUMNS);
}

static void linear(struct commands *c, struct tensor y, struct tensor w, struct tensor x, bool accumulate)
{
    if (!shapes_fit(c, y.rows == x.rows && y.cols == w.rows && x.cols == w.cols && w.cols % 16 == 0, "op_linear"))
        return;
    if (x.rows == 1) {
        struct matvec_args args = {.w = w.address,
                                   .x = x.address,
                                   .y = y.address,
                                   .rows = w.rows,
                                   .cols = w.cols,
                                   .x_div = 1,
                                   .accumulate = accumulate};
        const uint32_t n = matvec_groups(c, w.rows);
        DISPATCH(c, matvec_variant(c, w.type), &args, spread_x(n), 1, spread_z(n), reads(x), writes(y));
    } else {
        struct matmul_args args = {.w = w.address,
                                   .x = x.address,
                                   .y = y.address,
                                   .rows = w.rows,
                                   .cols = w.cols,
                                   .n = x.rows,
                                   .x_div = 1,
                                   .accumulate = accumulate};
        DISPATCH(c, matmul_variant(c, w.type), &args, groups(w.rows, MATMUL_ROWS), matmul_column_groups(c, x.rows), 1,
                 reads(x), writes(y));
    }
}

void op_linear(struct commands *c, struct tensor y, struct tensor w, struct tensor x)
{
    linear(c, y, w, x, false);
}

void op_linear_add(struct commands *c, struct tensor y, struct tensor w, struct tensor x)
{
    linear(c, y, w, x, true);
}

void op_rope_store(struct commands *c, struct kv_cache kv, struct tensor q, struct tensor k, struct tensor v,
                   struct tensor angles, struct tensor step, struct heads h)
{
    const bool fit = q.cols == h.n * h.dim && k.cols == h.n_kv * h.dim && v.cols == k.cols && q.rows == k.rows &&
                     v.rows == k.rows && angles.cols == h.n_rot && angles.rows >= q.rows && kv.k.cols == k.cols &&
                     h.dim % 4 == 0 && h.n_rot <= h.dim && h.n_rot % 2 == 0;
    if (!shapes_fit(c, fit, "op_rope_store"))
        return;
    struct rope_store_args args = {
        .q = q.address,
        .k = k.address,
        .v = v.address,
        .angles = angles.address,
        .k_cache = kv.k.address,
        .v_cache = kv.v.address,
        .step = step.address,
        .n_heads = h.n,
        .n_kv_heads = h.n_kv,
        .head_dim = h.dim,
        .n_rot = h.n_rot,
    };
    const enum kernel kernel = kv.k.type == SC_F32 ? KERNEL_ROPE_STORE : KERNEL_ROPE_STORE_F16;
    DISPATCH(c, kernel, &args, groups((q.cols + 2 * k.cols) / 2, WORKGROUP), q.rows, 1, reads(k), reads(v),
             reads(angles), reads(step), writes(q), writes(kv.k), writes(kv.v));
}

void op_attention(struct commands *c, struct tensor y, struct tensor q, struct kv_cache kv, struct tensor partial,
                  uint32_t n_splits, struct tensor step, struct heads h)
{
    const bool fit =
        y.rows == q.rows && y.cols == q.cols && q.cols == h.n * h.dim && kv.k.cols == h.n_kv * h.dim &&
        h.dim % 4 == 0 && h.dim <= MAX_HEAD_DIM && h.n % h.n_kv == 0 && n_splits > 0 &&
        (n_splits == 1 || ((uint64_t)q.rows * h.n * n_splits <= partial.rows && partial.cols == h.dim + 2));
    if (!shapes_fit(c, fit, "op_attention"))
        return;
    struct attention_args args = {
        .q = q.address,
        .k_cache = kv.k.address,
        .v_cache = kv.v.address,
        .y = y.address,
        .partial = partial.address,
        .step = step.address,
        .n_heads = h.n,
        .n_kv_heads = h.n_kv,
        .head_dim = h.dim,
        .n_splits = n_splits,
        .scale = 1 / sqrtf((float)h.dim),
    };
    const enum kernel kernel = kv.k.type == SC_F32 ? KERNEL_ATTENTION : KERNEL_ATTENTION_F16;
    const uint32_t tiles = groups((uint64_t)q.rows * (h.n / h.n_kv), ATTENTION_ROWS);
    if (n_splits == 1) {
        DISPATCH(c, kernel, &args, tiles, h.n_kv, 1, reads(q), reads(kv.k), reads(kv.v), reads(step), writes(y));
        return;
    }
    DISPATCH(c, kernel, &args, tiles, h.n_kv, n_splits, reads(q), reads(kv.k), reads(kv.v), reads(step),
             writes(partial));
    struct attention_reduce_args reduce = {
        .partial = partial.address, .y = y.address, .head_dim = h.dim, .n_splits = n_splits};
    DISPATCH(c, KERNEL_ATTENTION_REDUCE, &reduce, q.rows * h.n, 1, 1, reads(partial), writes(y));
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

void op_group(struct commands *c, struct routing r, uint32_t n_experts)
{
    const uint32_t n_pairs = r.ids.rows * r.ids.cols;
    if (!shapes_fit(c, r.first.cols == n_experts + 1 && r.pairs.cols >= n_pairs && n_experts <= SC_MAX_EXPERTS,
                    "op_group"))
        return;
    struct group_args args = {.ids = r.ids.address,
                              .first = r.first.address,
                              .pairs = r.pairs.address,
                              .n_pairs = n_pairs,
                              .n_experts = n_experts};
    DISPATCH(c, KERNEL_GROUP, &args, 1, 1, 1, reads(r.ids), writes(r.first), writes(r.pairs));
}

void op_expert_linear(struct commands *c, struct tensor y, struct expert_tensor w, struct tensor x, struct routing r)
{
    const uint32_t n = r.ids.rows, n_used = r.ids.cols, n_pairs = n * n_used;
    const bool fit = y.rows == n_pairs && y.cols == w.rows && x.cols == w.cols && (x.rows == n || x.rows == n_pairs) &&
                     w.cols % 16 == 0;
    if (!shapes_fit(c, fit, "op_expert_linear"))
        return;
    const uint32_t x_div = x.rows == n ? n_used : 1;
    if (n == 1) {
        struct matvec_args args = {.experts = w.slots,
                                   .ids = r.ids.address,
                                   .x = x.address,
                                   .y = y.address,
                                   .w_offset = w.offset,
                                   .rows = w.rows,
                                   .cols = w.cols,
                                   .x_div = x_div};
        const uint32_t n_groups = matvec_groups(c, w.rows);
        DISPATCH(c, matvec_variant(c, w.type), &args, spread_x(n_groups), n_pairs, spread_z(n_groups), reads(x),
                 reads(r.ids), writes(y));
    } else {
        struct matmul_args args = {.experts = w.slots,
                                   .first = r.first.address,
                                   .pairs = r.pairs.address,
                                   .x = x.address,
                                   .y = y.address,
                                   .w_offset = w.offset,
                                   .rows = w.rows,
                                   .cols = w.cols,
                                   .x_div = x_div};
        DISPATCH(c, matmul_variant(c, w.type), &args, groups(w.rows, MATMUL_ROWS), matmul_column_groups(c, n),
                 w.n_experts, reads(x), reads(r.first), reads(r.pairs), writes(y));
    }
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
