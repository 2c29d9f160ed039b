/* SPDX-License-Identifier: Apache-2.0 */
/* Weights times activations: dense, and by expert. */
#include "dispatch.h"

enum { MIN_TILE_COLUMNS = 8, GRID_BYTES = 16 };

enum family op_expert_family(uint32_t n_pairs, uint32_t n_experts)
{
    const enum family family = family_for(groups(n_pairs, n_experts));
    return family < FAMILY_MATMUL_FEW ? FAMILY_MATMUL_FEW : family;
}

static const struct variant *expert_variant(const struct commands *c, const struct expert_tensor *w, uint32_t n_pairs)
{
    return variant_of(c->gpu, op_expert_family(n_pairs, w->n_experts), w->type, w->rows, w->cols);
}

/* Kernels find a row of x and an element of y by 32 bits. */
static bool is_addressable(struct tensor x, struct tensor y)
{
    return tensor_size_bytes(&x) <= UINT32_MAX && tensor_size_bytes(&y) / sizeof(float) <= UINT32_MAX;
}

/* One column, or one for each row of y. ids without an address: dense. */
static void matvec(struct commands *c, struct matvec_args *args, enum sc_type type, struct tensor y, struct tensor x,
                   struct tensor ids)
{
    const struct variant *v = variant_of(c->gpu, FAMILY_MATVEC, type, args->rows, args->cols);
    const struct access in = input_of(c, v, x, NULL);
    args->x = in.address;
    args->y = y.address;
    const uint32_t n = groups(args->rows, v->tile_rows);
    DISPATCH_PROGRAM(c, variant_program(v, type), args, spread_x(n), y.rows, spread_z(n), in, reads(ids), writes(y));
}

/* Many columns, in slices of rows. grid: of tiles of columns, by as many tiles of rows as a slice has; NULL: dense. */
static void matmul(struct commands *c, struct matmul_args *args, const struct variant *v, enum sc_type type,
                   double work, const struct access *accesses, uint32_t n_accesses, struct grid *grid)
{
    const uint32_t n_tiles = groups(args->rows, v->tile_rows), n_slice = op_slice(c, work, n_tiles);
    const struct program program = variant_program(v, type);
    for (; args->first_row_tile < n_tiles; args->first_row_tile += n_slice, n_accesses = 0) {
        const uint32_t left = n_tiles - args->first_row_tile, n = left < n_slice ? left : n_slice;
        if (grid) {
            grid->max_y = n_slice;
            commands_dispatch_indirect(c, program, args, accesses, n_accesses, *grid);
        } else {
            commands_dispatch(c, program, args, accesses, n_accesses, groups(args->n, v->tile_columns), n, 1);
        }
        commands_work(c, work * n / n_tiles);
    }
}

static void linear(struct commands *c, struct tensor y, struct tensor w, struct tensor x, enum family family,
                   bool accumulate)
{
    const bool fit =
        y.rows == x.rows && y.cols == w.rows && x.cols == w.cols && w.cols % 16 == 0 && is_addressable(x, y);
    if (!shapes_fit(c, fit, "op_linear"))
        return;
    if (family == FAMILY_MATVEC) {
        struct matvec_args args = {
            .w = w.address, .rows = w.rows, .cols = w.cols, .x_div = 1, .accumulate = accumulate};
        matvec(c, &args, w.type, y, x, (struct tensor){0});
    } else {
        const struct variant *v = variant_of(c->gpu, family, w.type, w.rows, w.cols);
        const struct access accesses[] = {input_of(c, v, x, NULL), writes(y)};
        struct matmul_args args = {.w = w.address,
                                   .x = accesses[0].address,
                                   .y = y.address,
                                   .rows = w.rows,
                                   .cols = w.cols,
                                   .n = x.rows,
                                   .x_div = 1,
                                   .accumulate = accumulate};
        matmul(c, &args, v, w.type, (double)w.rows * w.cols * x.rows, accesses, 2, NULL);
    }
}

void op_linear(struct commands *c, struct tensor y, struct tensor w, struct tensor x)
{
    linear(c, y, w, x, family_for(x.rows), false);
}

void op_linear_exact(struct commands *c, struct tensor y, struct tensor w, struct tensor x)
{
    linear(c, y, w, x, FAMILY_MATMUL_EXACT, false);
}

void op_linear_add(struct commands *c, struct tensor y, struct tensor w, struct tensor x)
{
    linear(c, y, w, x, family_for(x.rows), true);
}

uint32_t op_max_tiles(uint32_t n_pairs, uint32_t n_experts)
{
    return n_pairs / MIN_TILE_COLUMNS + n_experts;
}

void op_group(struct commands *c, struct routing r, const struct expert_tensor matrices[3])
{
    const uint32_t n_pairs = r.ids.rows * r.ids.cols, n_experts = matrices->n_experts;
    const bool fit = r.first.cols == n_experts + 1 && r.pairs.cols >= n_pairs && n_experts <= SC_MAX_EXPERTS &&
                     r.tiles.rows >= 3 * op_max_tiles(n_pairs, n_experts) && r.grids.rows == 3;
    if (!shapes_fit(c, fit, "op_group"))
        return;
    struct schedule_args schedule = {.ids = r.ids.address,
                                     .first = r.first.address,
                                     .tiles = r.tiles.address,
                                     .grids = r.grids.address,
                                     .n_pairs = n_pairs,
                                     .n_experts = n_experts,
                                     .max_tiles = r.tiles.rows / 3};
    for (uint32_t i = 0; i < 3; i++) {
        const struct expert_tensor *w = &matrices[i];
        const struct variant *v = expert_variant(c, w, n_pairs);
        schedule.tile_columns[i] = v->tile_columns;
        schedule.row_tiles[i] = op_slice(c, (double)w->rows * w->cols * n_pairs, groups(w->rows, v->tile_rows));
    }
    struct access grids = writes(r.grids);
    grids.is_grid = true;
    DISPATCH(c, KERNEL_SCHEDULE, &schedule, 1, 1, 1, reads(r.ids), writes(r.first), writes(r.tiles), grids);
    struct group_args group = {
        .ids = r.ids.address, .first = r.first.address, .pairs = r.pairs.address, .n_pairs = n_pairs};
    DISPATCH(c, KERNEL_GROUP, &group, n_experts, 1, 1, reads(r.ids), reads(r.first), writes(r.pairs));
}

void op_expert_linear(struct commands *c, struct tensor y, struct expert_tensor w, struct tensor x, struct routing r)
{
    const uint32_t n = r.ids.rows, n_used = r.ids.cols, n_pairs = n * n_used;
    const bool fit = y.rows == n_pairs && y.cols == w.rows && x.cols == w.cols && (x.rows == n || x.rows == n_pairs) &&
                     w.cols % 16 == 0 && is_addressable(x, y);
    if (!shapes_fit(c, fit, "op_expert_linear"))
        return;
    const uint32_t x_div = x.rows == n ? n_used : 1;
    if (n == 1) {
        struct matvec_args args = {.experts = w.slots,
                                   .ids = r.ids.address,
                                   .w_offset = w.offset,
                                   .rows = w.rows,
                                   .cols = w.cols,
                                   .x_div = x_div};
        matvec(c, &args, w.type, y, x, r.ids);
    } else {
        const struct variant *v = expert_variant(c, &w, n_pairs);
        const struct access accesses[] = {input_of(c, v, x, NULL), reads(r.first), reads(r.pairs),
                                          reads(r.tiles),          reads(r.grids), writes(y)};
        struct matmul_args args = {.experts = w.slots,
                                   .first = r.first.address,
                                   .pairs = r.pairs.address,
                                   .tiles = r.tiles.address + w.matrix * tensor_size_bytes(&r.tiles) / 3,
                                   .x = accesses[0].address,
                                   .y = y.address,
                                   .w_offset = w.offset,
                                   .rows = w.rows,
                                   .cols = w.cols,
                                   .x_div = x_div};
        struct grid grid = {.buffer = r.grids_buffer,
                            .offset = r.grids.address - r.grids_buffer->address + w.matrix * GRID_BYTES,
                            .max_x = n_pairs / v->tile_columns + w.n_experts};
        matmul(c, &args, v, w.type, (double)w.rows * w.cols * n_pairs, accesses, sizeof(accesses) / sizeof(accesses[0]),
               &grid);
    }
}
