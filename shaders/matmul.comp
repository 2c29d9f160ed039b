#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * y[i] = W x[i / x_div] (+ y[i]) for many i: quantized weights times fp32. Workgroup (column tile, row tile): 128
 * threads make a tile of 64 rows by 32 of the i, 4 x 4 a thread, stepping through 2 parts of 16 weights of each row at a time
 * in shared memory: a thread expands one part, and fetches 2 quads of x in the parts' order (a sum does not care). Each
 * weight is read once per 32 i. Bound by shared memory: 2 quads read for 16 multiply-adds.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "quant.glsl"

layout(local_size_x = 128) in;
layout(push_constant) uniform Args { matmul_args a; };
#include "tile.glsl"

const uint TILE_ROWS = 64, TILE_COLUMNS = 32, STEP = 32;

shared vec4 w_tile[STEP * TILE_ROWS / 4];    /* (STEP, TILE_ROWS) */
shared vec4 x_tile[STEP * TILE_COLUMNS / 4]; /* (STEP, TILE_COLUMNS) */
shared uint column_i[TILE_COLUMNS];          /* which i each column is */

void main()
{
    const uint tid = gl_LocalInvocationID.x;
    const Tile tile = tile_of(TILE_COLUMNS);
    if (address_is_null(tile.w))
        return;
    if (tid < TILE_COLUMNS)
        column_i[tid] = tile_column(tile, tid);
    barrier();

    /* what this thread fetches: a part of a row, and quads of two columns */
    const uint w_row = tid % TILE_ROWS, w_part = tid / TILE_ROWS;
    Row row = row_of(tile.w, min(row_tile() * TILE_ROWS + w_row, a.rows - 1), a.cols);
    const uint x_column = tid % TILE_COLUMNS, x_quad = tid / TILE_COLUMNS;
    Quads x = Quads(address_add(a.x, column_i[x_column] / a.x_div * a.cols * 4));

    /* what it computes: 4 rows by 4 columns */
    const uint row4 = tid % (TILE_ROWS / 4), column4 = tid / (TILE_ROWS / 4);
    mat4 sum = mat4(0); /* sum[column] over the rows */

    const uint parts = a.cols / 16;
    for (uint p = 0; p < parts; p += 2) {
        const mat4 values = p + w_part < parts ? part(row, p + w_part) : mat4(0);
        [[unroll]] for (uint j = 0; j < 4; j++)
            [[unroll]] for (uint k = 0; k < 4; k++)
                w_tile[(w_part * 16 + j * 4 + k) * (TILE_ROWS / 4) + w_row / 4][w_row % 4] = values[j][k];
        [[unroll]] for (uint q = 0; q < 2; q++) {
            const bool inside = p + q < parts;
            const uint from = part_first(min(p + q, parts - 1)) + QUADS[x_quad];
            const vec4 v = inside ? x.at[from / 4] : vec4(0);
            [[unroll]] for (uint k = 0; k < 4; k++)
                x_tile[(q * 16 + x_quad * 4 + k) * (TILE_COLUMNS / 4) + x_column / 4][x_column % 4] = v[k];
        }
        barrier();
        [[unroll]] for (uint k = 0; k < STEP; k++) {
            const vec4 ws = w_tile[k * (TILE_ROWS / 4) + row4], xs = x_tile[k * (TILE_COLUMNS / 4) + column4];
            sum[0] += ws * xs.x;
            sum[1] += ws * xs.y;
            sum[2] += ws * xs.z;
            sum[3] += ws * xs.w;
        }
        barrier();
    }

    FloatsOut y = FloatsOut(a.y);
    [[unroll]] for (uint c = 0; c < 4; c++) {
        const uint column = column4 * 4 + c;
        if (column >= tile.n)
            break;
        [[unroll]] for (uint r = 0; r < 4; r++) {
            const uint out_row = row_tile() * TILE_ROWS + row4 * 4 + r;
            const uint at = column_i[column] * a.rows + out_row;
            if (out_row < a.rows)
                y.at[at] = sum[c][r] + (a.accumulate != 0 ? y.at[at] : 0);
        }
    }
}
