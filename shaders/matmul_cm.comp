#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What matmul computes, on matrix units (VK_KHR_cooperative_matrix): weights and x are rounded to halves, products are exact,
 * sums are fp32. Workgroup (column tile, row tile): 128 threads make 64 rows by 64 of the i, in steps of 2 parts of 16 weights:
 * a thread expands a part of a row and fetches a part of a column into shared memory; then each subgroup multiplies FRAGMENTS of
 * the tile's SIZE x SIZE pieces, SIZE being a shape that the driver has; pieces of columns that the tile lacks are left out. Values
 * beyond 65504 are cut to it. Bound by what feeds the matrix units: shared memory.
 */
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#pragma use_vulkan_memory_model
#include "common.glsl"
#include "halves.glsl"
#include "quant.glsl"

layout(local_size_x = 128) in;
layout(constant_id = CONSTANT_FRAGMENTS) const uint FRAGMENTS = 4;
layout(push_constant) uniform Args { matmul_args a; };
#include "tile.glsl"

const uint TILE = 64, STEP = 32, STRIDE = STEP + 8; /* rows begin in different banks, and at 16 bytes */

shared float16_t w_tile[TILE * STRIDE]; /* (rows, STEP) */
shared float16_t x_tile[TILE * STRIDE]; /* (columns, STEP) */
shared float patches[1024];             /* (subgroups, SIZE columns, SIZE rows) */
shared uint column_i[TILE];             /* which i each column is */

void main()
{
    const uint tid = gl_LocalInvocationID.x;
    const Tile tile = tile_of(TILE);
    if (address_is_null(tile.w))
        return;
    if (tid < TILE)
        column_i[tid] = tile_column(tile, tid);
    barrier();

    /* what this thread fetches: part `own_part` of every two, of a row and of a column */
    const uint own = tid % TILE, own_part = tid / TILE;
    Row row = row_of(tile.w, min(row_tile() * TILE + own, a.rows - 1), a.rows, a.cols);
    Quads x = Quads(address_add(a.x, column_i[own] / a.x_div * a.cols * 4));

    const uint pieces = TILE / SIZE, first_fragment = gl_SubgroupID * FRAGMENTS;
    coopmat<float, gl_ScopeSubgroup, SIZE, SIZE, gl_MatrixUseAccumulator> sums[FRAGMENTS];
    for (uint f = 0; f < FRAGMENTS; f++)
        sums[f] = coopmat<float, gl_ScopeSubgroup, SIZE, SIZE, gl_MatrixUseAccumulator>(0.0);

    const uint parts = a.cols / 16;
    for (uint p = 0; p < parts; p += 2) {
        const bool inside = p + own_part < parts;
        const uint p_own = min(p + own_part, parts - 1), at = own * STRIDE + own_part * 16;
        const mat4 ws = part(row, p_own);
        [[unroll]] for (uint j = 0; j < 4; j++) {
            const f16vec4 w4 = inside ? halves(ws[j]) : f16vec4(0);
            const f16vec4 x4 = inside ? halves(x.at[(part_first(p_own) + QUADS[j]) / 4]) : f16vec4(0);
            [[unroll]] for (uint k = 0; k < 4; k++) {
                w_tile[at + j * 4 + k] = w4[k];
                x_tile[at + j * 4 + k] = x4[k];
            }
        }
        barrier();
        for (uint k = 0; k < STEP; k += SIZE)
            for (uint f = 0; f < FRAGMENTS; f++) {
                const uint from_row = (first_fragment + f) / pieces * SIZE, from_column = (first_fragment + f) % pieces * SIZE;
                if (from_column >= tile.n)
                    continue;
                coopmat<float16_t, gl_ScopeSubgroup, SIZE, SIZE, gl_MatrixUseA> w_piece;
                coopmat<float16_t, gl_ScopeSubgroup, SIZE, SIZE, gl_MatrixUseB> x_piece;
                coopMatLoad(w_piece, w_tile, from_row * STRIDE + k, STRIDE, gl_CooperativeMatrixLayoutRowMajor);
                coopMatLoad(x_piece, x_tile, from_column * STRIDE + k, STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
                sums[f] = coopMatMulAdd(w_piece, x_piece, sums[f]);
            }
        barrier();
    }

    FloatsOut y = FloatsOut(a.y);
    const uint patch_ = gl_SubgroupID * SIZE * SIZE;
    for (uint f = 0; f < FRAGMENTS; f++) {
        coopMatStore(sums[f], patches, patch_, SIZE, gl_CooperativeMatrixLayoutColumnMajor);
        barrier();
        const uint from_row = (first_fragment + f) / pieces * SIZE, from_column = (first_fragment + f) % pieces * SIZE;
        for (uint i = gl_SubgroupInvocationID; i < SIZE * SIZE; i += gl_SubgroupSize) {
            const uint out_row = row_tile() * TILE + from_row + i % SIZE, column = from_column + i / SIZE;
            const uint at = column_i[column] * a.rows + out_row;
            if (out_row < a.rows && column < tile.n)
                y.at[at] = patches[patch_ + i] + (a.accumulate != 0 ? y.at[at] : 0);
        }
        barrier();
    }
}
