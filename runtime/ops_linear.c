/* SPDX-License-Identifier: Apache-2.0 */
/* Weights times activations: dense, and by expert. */
#include "dispatch.h"
#include "variants.h"

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
        const struct variant *v = variant_of(c->gpu, FAMILY_MATVEC, w.type, w.rows, w.cols);
        const uint32_t n = groups(w.rows, v->tile_rows);
        DISPATCH_PROGRAM(c, variant_program(v, w.type), &args, spread_x(n), 1, spread_z(n), reads(x), writes(y));
    } else {
        struct matmul_args args = {.w = w.address,
                                   .x = x.address,
                                   .y = y.address,
                                   .rows = w.rows,
                                   .cols = w.cols,
                                   .n = x.rows,
                                   .x_div = 1,
                                   .accumulate = accumulate};
        const struct variant *v = variant_of(c->gpu, FAMILY_MATMUL, w.type, w.rows, w.cols);
        DISPATCH_PROGRAM(c, variant_program(v, w.type), &args, groups(w.rows, v->tile_rows),
                         groups(x.rows, v->tile_columns), 1, reads(x), writes(y));
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
        const struct variant *v = variant_of(c->gpu, FAMILY_MATVEC, w.type, w.rows, w.cols);
        const uint32_t n_groups = groups(w.rows, v->tile_rows);
        DISPATCH_PROGRAM(c, variant_program(v, w.type), &args, spread_x(n_groups), n_pairs, spread_z(n_groups),
                         reads(x), reads(r.ids), writes(y));
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
        const struct variant *v = variant_of(c->gpu, FAMILY_MATMUL, w.type, w.rows, w.cols);
        DISPATCH_PROGRAM(c, variant_program(v, w.type), &args, groups(w.rows, v->tile_rows), groups(n, v->tile_columns),
                         w.n_experts, reads(x), reads(r.first), reads(r.pairs), writes(y));
    }
}
