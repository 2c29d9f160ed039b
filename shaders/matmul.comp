#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * y[i] = W x[i / x_div] (+ y[i]) for many i: quantized weights times fp32. Workgroup (column tile, row tile): 128
 * threads make a tile of 64 rows by 32 of the i, ROW_QUADS and COLUMN_QUADS times as many, 4 x 4 of them a thread. They step
 * through 2 parts of 16 weights of each row, or through one, in shared memory: a thread expands one part, and fetches quads of x in
 * the parts' order (a sum does not care). Each weight is read once for a tile. Threads whose columns a tile lacks
 * compute nothing. Bound by shared memory: 2 quads read for 16 multiply-adds, 3 for 32 where a thread has 8 rows.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "quant.glsl"

layout(local_size_x = 128) in;
layout(push_constant) uniform Args { matmul_args a; };
#include "tile.glsl"

#ifndef ROW_QUADS
#define ROW_QUADS 1
#endif
#ifndef COLUMN_QUADS
#define COLUMN_QUADS 1
#endif

const uint THREADS = 128, ROWS4 = 16 * ROW_QUADS, COLUMNS4 = 8 * COLUMN_QUADS; /* quads of the tile */
const uint TILE_ROWS = 4 * ROWS4, TILE_COLUMNS = 4 * COLUMNS4;
const uint STEP_PARTS = THREADS / TILE_ROWS, STEP = 16 * STEP_PARTS;
const uint X_STEP = THREADS / TILE_COLUMNS, X_QUADS = STEP / 4 / X_STEP; /* a thread fetches every X_STEP'th quad */

shared vec4 w_tile[STEP * ROWS4];    /* (STEP, TILE_ROWS) */
shared vec4 x_tile[STEP * COLUMNS4]; /* (STEP, TILE_COLUMNS) */
shared uint column_i[TILE_COLUMNS];  /* which i each column is */

void main()
{
    const uint tid = gl_LocalInvocationID.x;
    const Tile tile = tile_of(TILE_COLUMNS);
    if (address_is_null(tile.w))
        return;
    if (tid < TILE_COLUMNS)
        column_i[tid] = tile_column(tile, tid);
    barrier();

    /* what this thread fetches: a part of a row, and quads of a column */
    const uint w_row = tid % TILE_ROWS, w_part = tid / TILE_ROWS;
    Row row = row_of(tile.w, min(row_tile() * TILE_ROWS + w_row, a.rows - 1), a.rows, a.cols);
    const uint x_column = tid % TILE_COLUMNS, x_quad = tid / TILE_COLUMNS;
    Quads x = Quads(address_add(a.x, column_i[x_column] / a.x_div * a.cols * 4));

    /* what it computes: quads row4, row4 + 16 of rows by quads of columns that follow each other */
    const uint row4 = tid % 16, column4 = tid / 16 * COLUMN_QUADS;
    vec4 sums[COLUMN_QUADS][4][ROW_QUADS]; /* of a column over a quad of rows */
    [[unroll]] for (uint c = 0; c < COLUMN_QUADS; c++)
        [[unroll]] for (uint i = 0; i < 4; i++)
            [[unroll]] for (uint r = 0; r < ROW_QUADS; r++)
                sums[c][i][r] = vec4(0);

    const uint parts = a.cols / 16;
    for (uint p = 0; p < parts; p += STEP_PARTS) {
        const mat4 values = p + w_part < parts ? part(row, p + w_part) : mat4(0);
        [[unroll]] for (uint j = 0; j < 4; j++)
            [[unroll]] for (uint k = 0; k < 4; k++)
                w_tile[(w_part * 16 + j * 4 + k) * ROWS4 + w_row / 4][w_row % 4] = values[j][k];
        [[unroll]] for (uint i = 0; i < X_QUADS; i++) {
            const uint x_part = i / COLUMN_QUADS, j = x_quad + i % COLUMN_QUADS * X_STEP;
            const uint from = part_first(min(p + x_part, parts - 1)) + QUADS[j];
            const vec4 v = p + x_part < parts ? x.at[from / 4] : vec4(0);
            [[unroll]] for (uint k = 0; k < 4; k++)
                x_tile[(x_part * 16 + j * 4 + k) * COLUMNS4 + x_column / 4][x_column % 4] = v[k];
        }
        barrier();
        if (column4 * 4 < tile.n)
            [[unroll]] for (uint k = 0; k < STEP; k++) {
                vec4 ws[ROW_QUADS];
                [[unroll]] for (uint r = 0; r < ROW_QUADS; r++)
                    ws[r] = w_tile[k * ROWS4 + r * 16 + row4];
                [[unroll]] for (uint c = 0; c < COLUMN_QUADS; c++) {
                    const vec4 xs = x_tile[k * COLUMNS4 + column4 + c];
                    [[unroll]] for (uint i = 0; i < 4; i++)
                        [[unroll]] for (uint r = 0; r < ROW_QUADS; r++)
                            sums[c][i][r] += ws[r] * xs[i];
                }
            }
        barrier();
    }

    FloatsOut y = FloatsOut(a.y);
    [[unroll]] for (uint c = 0; c < COLUMN_QUADS; c++)
        [[unroll]] for (uint i = 0; i < 4; i++) {
            const uint column = (column4 + c) * 4 + i;
            if (column >= tile.n)
                break;
            [[unroll]] for (uint r = 0; r < 4 * ROW_QUADS; r++) {
                const uint out_row = row_tile() * TILE_ROWS + (r / 4 * 16 + row4) * 4 + r % 4;
                const uint at = column_i[column] * a.rows + out_row;
                if (out_row < a.rows)
                    y.at[at] = sums[c][i][r / 4][r % 4] + (a.accumulate != 0 ? y.at[at] : 0);
            }
        }
}
