#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What matmul_cm computes, on matrix units that a whole workgroup shares (VK_NV_cooperative_matrix2), in the same precision:
 * the driver lays matrices out over the subgroups and moves them through shared memory. Workgroup (column tile, row
 * tile): 256 threads make 128 rows by COLUMNS of the i, in steps of 2 parts of 16 weights: a thread expands a part of a
 * row, and, while there are columns, fetches a part of one. Pieces of 32 columns that a tile lacks are left out. Bound by the matrix units,
 * or by what expands the weights.
 */
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_NV_cooperative_matrix2 : require
#extension GL_KHR_memory_scope_semantics : require
#pragma use_vulkan_memory_model
#include "common.glsl"
#include "halves.glsl"
#include "quant.glsl"

layout(local_size_x = MATRIX_2_THREADS) in;
layout(constant_id = CONSTANT_COLUMNS) const uint COLUMNS = 64;
layout(push_constant) uniform Args { matmul_args a; };
#include "tile.glsl"

const uint ROWS = MATRIX_2_ROWS, PIECE = MATRIX_2_COLUMNS, STEP = MATRIX_2_STEP, STRIDE = MATRIX_2_STRIDE;

shared float16_t w_tile[ROWS * STRIDE];                 /* (rows, STEP) */
shared float16_t x_tile[MATRIX_2_MAX_COLUMNS * STRIDE]; /* (columns, STEP) */
shared uint column_i[MATRIX_2_MAX_COLUMNS];             /* which i each column is */

/* Of a piece whose first column is `first`. The driver may call both more than once for an element, so the second does not add. */
float sum_before(const in uint row, const in uint column, const in float sum, const in uint first, const in uint n)
{
    const uint out_row = row_tile() * ROWS + row;
    const bool is_added = a.accumulate != 0 && out_row < a.rows && first + column < n;
    return is_added ? FloatsOut(a.y).at[column_i[first + column] * a.rows + out_row] : 0;
}

float store(const in uint row, const in uint column, const in float sum, const in uint first, const in uint n)
{
    const uint out_row = row_tile() * ROWS + row;
    if (out_row < a.rows && first + column < n)
        FloatsOut(a.y).at[column_i[first + column] * a.rows + out_row] = sum;
    return sum;
}

void main()
{
    const uint tid = gl_LocalInvocationID.x;
    const Tile tile = tile_of(COLUMNS);
    if (address_is_null(tile.w))
        return;
    if (tid < COLUMNS)
        column_i[tid] = tile_column(tile, tid);
    barrier();

    /* what this thread fetches: part `own_part` of every two, of a row and, if there is one, of a column */
    const uint own = tid % ROWS, own_part = tid / ROWS, n_pieces = (tile.n + PIECE - 1) / PIECE;
    const bool has_column = own < n_pieces * PIECE;
    Row row = row_of(tile.w, min(row_tile() * ROWS + own, a.rows - 1), a.rows, a.cols);
    Quads x = Quads(address_add(a.x, column_i[has_column ? own : 0] / a.x_div * a.cols * 4));

    coopmat<float, gl_ScopeWorkgroup, ROWS, PIECE, gl_MatrixUseAccumulator> sums[COLUMNS / PIECE];
    [[unroll]] for (uint c = 0; c < COLUMNS / PIECE; c++) {
        sums[c] = coopmat<float, gl_ScopeWorkgroup, ROWS, PIECE, gl_MatrixUseAccumulator>(0.0);
        coopMatPerElementNV(sums[c], sums[c], sum_before, c * PIECE, tile.n);
    }

    const uint parts = a.cols / 16;
    for (uint p = 0; p < parts; p += 2) {
        const bool inside = p + own_part < parts;
        const uint p_own = min(p + own_part, parts - 1), at = own * STRIDE + own_part * 16;
        const mat4 ws = part(row, p_own);
        [[unroll]] for (uint j = 0; j < 4; j++) {
            const f16vec4 w4 = inside ? halves(ws[j]) : f16vec4(0);
            [[unroll]] for (uint k = 0; k < 4; k++)
                w_tile[at + j * 4 + k] = w4[k];
        }
        if (has_column)
            [[unroll]] for (uint j = 0; j < 4; j++) {
                const f16vec4 x4 = inside ? halves(x.at[(part_first(p_own) + QUADS[j]) / 4]) : f16vec4(0);
                [[unroll]] for (uint k = 0; k < 4; k++)
                    x_tile[at + j * 4 + k] = x4[k];
            }
        barrier();
        coopmat<float16_t, gl_ScopeWorkgroup, ROWS, STEP, gl_MatrixUseA> w_matrix;
        coopMatLoad(w_matrix, w_tile, 0, STRIDE, gl_CooperativeMatrixLayoutRowMajor);
        [[unroll]] for (uint c = 0; c < COLUMNS / PIECE; c++)
            if (c < n_pieces) {
                coopmat<float16_t, gl_ScopeWorkgroup, STEP, PIECE, gl_MatrixUseB> x_piece;
                coopMatLoad(x_piece, x_tile, c * PIECE * STRIDE, STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
                sums[c] = coopMatMulAdd(w_matrix, x_piece, sums[c]);
            }
        barrier();
    }
    [[unroll]] for (uint c = 0; c < COLUMNS / PIECE; c++)
        coopMatPerElementNV(sums[c], sums[c], store, c * PIECE, tile.n);
}
