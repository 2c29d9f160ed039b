#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What matmul computes, from activations rounded to 8 bits, in whole numbers (rounded.glsl). Workgroup (column tile, row tile):
 * 128 threads make a tile of 64 rows by 64 of the i, 4 x 8 a thread, in steps of 64 weights of each row, as bytes in shared
 * memory. Bound by integer dot products: for 64 weights 16 of them, and a conversion and a multiply-add or two for each scale.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "quant.glsl"
#include "rounded.glsl"

layout(local_size_x = 128) in;
layout(push_constant) uniform Args { matmul_args a; };
#include "tile.glsl"

const uint TILE = 64, ROWS = 4, COLUMNS = 8, STEP_UNITS = 64 / UNIT, STEP_SCALES = STEP_UNITS * SCALES;

shared uvec4 w_runs[4 * TILE], x_runs[4 * TILE]; /* (runs of a step, rows or columns) */
shared vec2 w_scales[STEP_SCALES * TILE];
shared uvec2 x_scales[STEP_SCALES * TILE];
shared uint column_i[TILE];                      /* which i each column is */

void fetch_weights(Row row, uint at, uint unit, uint u, bool is_inside)
{
    WeightUnit w = weight_unit(row, u);
    [[unroll]] for (uint j = 0; j < RUNS; j++)
        w_runs[(unit * RUNS + j) * TILE + at] = w.runs[j];
    [[unroll]] for (uint s = 0; s < SCALES; s++)
        w_scales[(unit * SCALES + s) * TILE + at] = is_inside ? w.scales[s] : vec2(0);
}

void fetch_activations(uvec2 row, uint at, uint unit, uint u)
{
    RoundedUnit x = rounded_unit(row, u, a.cols);
    [[unroll]] for (uint j = 0; j < RUNS; j++)
        x_runs[(unit * RUNS + j) * TILE + at] = x.runs[j];
    [[unroll]] for (uint s = 0; s < SCALES; s++)
        x_scales[(unit * SCALES + s) * TILE + at] = x.scales[s];
}

void main()
{
    const uint tid = gl_LocalInvocationID.x;
    const Tile tile = tile_of(TILE);
    if (address_is_null(tile.w))
        return;
    if (tid < TILE)
        column_i[tid] = tile_column(tile, tid);
    barrier();

    /* what this thread fetches: of a row, of a column, or by turns */
    const uint own = tid % TILE;
    Row row = row_of(tile.w, min(row_tile() * TILE + own, a.rows - 1), a.rows, a.cols);
    const uvec2 x = address_add(a.x, column_i[own] / a.x_div * ROUNDED_WORDS(a.cols) * 4);

    /* what it computes: rows own_row, own_row + 16, ... by columns own_column, own_column + 1, ... */
    const uint own_row = tid % (TILE / ROWS), own_column = tid / (TILE / ROWS) * COLUMNS;
    float sums[COLUMNS][ROWS];
    [[unroll]] for (uint c = 0; c < COLUMNS; c++)
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            sums[c][r] = 0;

    const uint units = a.cols / UNIT;
    for (uint u = 0; u < units; u += STEP_UNITS) {
        [[unroll]] for (uint k = 0; k < STEP_UNITS; k++) {
            const uint task = tid / TILE + 2 * k, unit = task % STEP_UNITS, from = min(u + unit, units - 1);
            if (task < STEP_UNITS)
                fetch_weights(row, own, unit, from, u + unit < units);
            else
                fetch_activations(x, own, unit, from);
        }
        barrier();
        for (uint s = 0; s < STEP_SCALES; s++) {
            uvec4 ws[ROWS][RUNS_OF_SCALE];
            vec2 scales[ROWS];
            [[unroll]] for (uint r = 0; r < ROWS; r++) {
                const uint at = own_row + r * (TILE / ROWS);
                [[unroll]] for (uint k = 0; k < RUNS_OF_SCALE; k++)
                    ws[r][k] = w_runs[(s * RUNS_OF_SCALE + k) * TILE + at];
                scales[r] = w_scales[s * TILE + at];
            }
            [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
                uvec4 xs[RUNS_OF_SCALE];
                [[unroll]] for (uint k = 0; k < RUNS_OF_SCALE; k++)
                    xs[k] = x_runs[(s * RUNS_OF_SCALE + k) * TILE + own_column + c];
                const uvec2 x_scale = x_scales[s * TILE + own_column + c];
                [[unroll]] for (uint r = 0; r < ROWS; r++)
                    sums[c][r] += scaled_product(ws[r], scales[r], xs, x_scale);
            }
        }
        barrier();
    }

    FloatsOut y = FloatsOut(a.y);
    [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
        if (own_column + c >= tile.n)
            break;
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            const uint out_row = row_tile() * TILE + own_row + r * (TILE / ROWS);
            const uint at = column_i[own_column + c] * a.rows + out_row;
            if (out_row < a.rows)
                y.at[at] = sums[c][r] + (a.accumulate != 0 ? y.at[at] : 0);
        }
    }
}
