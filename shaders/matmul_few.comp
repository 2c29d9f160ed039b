#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What matmul computes, for few columns, as matvec does it: workgroup (column tile, block of rows) of 64 threads, LANES of
 * them share a row, a thread works on ROWS rows by up to COLUMNS of the i; lane l takes steps l, l + LANES, ... of
 * products.glsl. Each weight is read once for all columns of the tile, and columns that it lacks cost nothing. The lanes'
 * sums are added in order. Bound by the bytes of W while the columns are few, then by the loads of x.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "products.glsl"

layout(local_size_x = 64) in;
layout(constant_id = CONSTANT_LANES) const uint LANES = 32;
layout(push_constant) uniform Args { matmul_args a; };
#include "tile.glsl"

const uint ROWS = 2, COLUMNS = 8;
shared float partial[ROWS * COLUMNS * 64];

/* sums += the rows' step p * x; fp32 takes a quad of x at a time, which needs fewer registers than x_of(). */
void add_products(inout float sums[ROWS], W ws[ROWS], uvec2 x, uint p)
{
#ifdef ROUNDED
    const X xs = x_of(x, p, a.cols);
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        sums[r] += dot(products(ws[r], xs), vec4(1));
#else
    [[unroll]] for (uint j = 0; j < 4; j++) {
        const vec4 xs = Quads(x).at[(part_first(p) + QUADS[j]) / 4];
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            sums[r] += dot(ws[r][j], xs);
    }
#endif
}

void main()
{
    const uint tid = gl_LocalInvocationID.x, lane = tid % LANES;
    const Tile tile = tile_of(COLUMNS);
    if (address_is_null(tile.w))
        return;

    /* rows beyond the last one read the last one again and are not written */
    const uint group_row = row_tile() * (64 / LANES) * ROWS, first_row = group_row + tid / LANES * ROWS;
    Row rows[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        rows[r] = row_of(tile.w, min(first_row + r, a.rows - 1), a.rows, a.cols);
    uvec2 x[COLUMNS]; /* no references: SwiftShader crashes on arrays of them where control flow diverges */
    [[unroll]] for (uint c = 0; c < COLUMNS; c++)
        x[c] = address_add(a.x, tile_column(tile, c) / a.x_div * X_ROW_BYTES(a.cols));

    float sums[COLUMNS][ROWS];
    [[unroll]] for (uint c = 0; c < COLUMNS; c++)
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            sums[c][r] = 0;
    for (uint p = lane; p < a.cols / STEP; p += LANES) {
        W ws[ROWS];
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            ws[r] = weights_of(rows[r], p);
        [[unroll]] for (uint c = 0; c < COLUMNS; c++)
            if (c < tile.n)
                add_products(sums[c], ws, x[c], p);
    }

    [[unroll]] for (uint c = 0; c < COLUMNS; c++)
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            partial[(c * ROWS + r) * 64 + tid] = sums[c][r];
    barrier();
    /* a thread for each row of each column */
    const uint group_rows = 64 / LANES * ROWS;
    FloatsOut y = FloatsOut(a.y);
    for (uint k = tid; k < group_rows * tile.n; k += 64) {
        const uint c = k / group_rows, in_group = k % group_rows, out_row = group_row + in_group;
        const uint from = (c * ROWS + in_group % ROWS) * 64 + in_group / ROWS * LANES;
        float total = partial[from];
        for (uint l = 1; l < LANES; l++)
            total += partial[from + l];
        if (out_row < a.rows) {
            const uint at = tile_column(tile, c) * a.rows + out_row;
            y.at[at] = total + (a.accumulate != 0 ? y.at[at] : 0);
        }
    }
}
