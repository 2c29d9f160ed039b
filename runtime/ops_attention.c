/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "dispatch.h"

enum {
    LEAST_ROWS = 4,    /* queries of a workgroup, among all variants */
    MANY_QUERIES = 32, /* that share a KV head: enough for a tile that large */
    MAX_HEAD_DIM = 256,
};

uint32_t kv_cols(enum sc_type type, uint32_t n)
{
    return type == SC_Q8_0 ? (n + 255) / 256 * 256 : n;
}

static uint32_t row_bytes(struct kv_cache kv)
{
    const struct tensor row = tensor_rows(kv.k, 1);
    return (uint32_t)tensor_size_bytes(&row);
}

static bool kv_fits(struct kv_cache kv, struct heads h)
{
    return (kv.k.type == SC_F32 || kv.k.type == SC_F16 || (kv.k.type == SC_Q8_0 && h.dim % 32 == 0)) &&
           kv.v.type == kv.k.type && kv.k.cols == kv_cols(kv.k.type, h.n_kv * h.dim) && kv.v.cols == kv.k.cols &&
           h.dim % 4 == 0;
}

void op_rope_store(struct commands *c, struct kv_cache kv, struct tensor q, struct tensor k, struct tensor v,
                   struct tensor angles, struct tensor step, struct heads h)
{
    const bool fit = q.cols == h.n * h.dim && k.cols == h.n_kv * h.dim && v.cols == k.cols && q.rows == k.rows &&
                     v.rows == k.rows && angles.cols == h.n_rot && angles.rows >= q.rows && kv_fits(kv, h) &&
                     h.n_rot <= h.dim && h.n_rot % 2 == 0;
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
        .kv_row_bytes = row_bytes(kv),
    };
    const uint32_t n_stores = kv.k.type == SC_Q8_0 ? groups(k.cols, 64) : k.cols / 2; /* of kv_store */
    DISPATCH(c, kernel_of_type(KERNEL_ROPE_STORE_F32, kv.k.type), &args, groups(q.cols / 2 + 2 * n_stores, WORKGROUP),
             q.rows, 1, reads(k), reads(v), reads(angles), reads(step), writes(q), writes(kv.k), writes(kv.v));
}

enum family op_attention_family(uint32_t n, uint32_t n_pieces, struct heads h)
{
    return n_pieces > 1 || n * (h.n / h.n_kv) < MANY_QUERIES ? FAMILY_ATTENTION : FAMILY_ATTENTION_MANY;
}

struct tensor attention_key(enum sc_type cache_type, struct heads h)
{
    return (struct tensor){.type = cache_type, .rows = h.n << 16 | h.n_kv, .cols = h.dim};
}

/*
 * What the first n tokens of a pass behind n_past others take, in multiply-adds of products, of which attention's take
 * about WEIGHT each: it has exponentials between them, and each value that is loaded meets fewer others.
 */
static double work(double n, double n_past, struct heads h)
{
    static const double WEIGHT = 2;
    const double seen = n_past + n / 2;
    return WEIGHT * 2 * n * h.n * h.dim * (h.window && seen > h.window ? h.window : seen);
}

uint32_t attention_tiles(uint32_t n, struct heads h)
{
    return groups((uint64_t)n * (h.n / h.n_kv), LEAST_ROWS);
}

void op_attention(struct commands *c, struct tensor y, struct tensor q, struct kv_cache kv, struct tensor partial,
                  struct tensor done, struct tensor step, struct heads h)
{
    const bool heads_fit = h.dim > 0 && h.dim <= MAX_HEAD_DIM && h.n_kv > 0 && h.n % h.n_kv == 0;
    if (!shapes_fit(c, heads_fit && q.rows > 0 && q.rows <= kv.k.rows && kv_fits(kv, h), "op_attention"))
        return;
    const uint32_t room = partial.rows / (q.rows * h.n);
    const uint32_t n_pieces = room > ATTENTION_MAX_PIECES ? ATTENTION_MAX_PIECES : room > 1 ? room : 1;
    const bool fit = y.rows == q.rows && y.cols == q.cols && q.cols == h.n * h.dim &&
                     (n_pieces == 1 || (partial.cols == h.dim + 4 && done.cols >= attention_tiles(q.rows, h) * h.n_kv));
    if (!shapes_fit(c, fit, "op_attention"))
        return;
    if (n_pieces == 1)
        partial.rows = done.rows = 0;
    struct attention_args args = {
        .q = q.address,
        .k_cache = kv.k.address,
        .v_cache = kv.v.address,
        .y = y.address,
        .partial = partial.address,
        .done = done.address,
        .step = step.address,
        .n_heads = h.n,
        .n_kv_heads = h.n_kv,
        .head_dim = h.dim,
        .kv_row_bytes = row_bytes(kv),
        .n_splits = n_pieces,
        .window = h.window ? h.window : UINT32_MAX,
        .scale = 1 / sqrtf((float)h.dim),
    };
    const struct tensor key = attention_key(kv.k.type, h);
    const struct variant *v =
        variant_of(c->gpu, op_attention_family(q.rows, n_pieces, h), key.type, key.rows, key.cols);
    struct program program = variant_program(v, kv.k.type);
    if (program.constants[CONSTANT_HEAD_DIM])
        program.constants[CONSTANT_HEAD_DIM] = h.dim;
    const uint32_t tiles = groups((uint64_t)q.rows * (h.n / h.n_kv), v->tile_rows);
    const struct access accesses[] = {reads(q),     reads(kv.k),     reads(kv.v), reads(step),
                                      writes(done), writes(partial), writes(y)};
    const double n_past = kv.k.rows - q.rows;
    const uint32_t n_slice = q.rows > 1 ? op_slice(c, work(q.rows, n_past, h), tiles) : tiles;
    for (uint32_t n; args.first_tile < tiles; args.first_tile += n) {
        n = tiles - args.first_tile < n_slice ? tiles - args.first_tile : n_slice;
        commands_dispatch(c, program, &args, accesses, args.first_tile ? 0 : sizeof(accesses) / sizeof(accesses[0]), n,
                          h.n_kv, n_pieces);
        const double rows = (double)q.rows / tiles;
        if (q.rows > 1)
            commands_work(c, work(rows * (args.first_tile + n), n_past, h) - work(rows * args.first_tile, n_past, h));
    }
}
