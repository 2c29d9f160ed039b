/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "dispatch.h"

enum {
    ATTENTION_ROWS = 8, /* queries of a workgroup, as in attention.comp */
    MAX_HEAD_DIM = 256,
};

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
