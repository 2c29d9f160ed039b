#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What matmul computes, for devices whose lanes are those of a processor's vectors: there a load is 8 loads, a load from
 * shared memory is worse, and a broadcast is one instruction. Workgroup (columns, rows): a thread makes one row of
 * W times COLUMNS of the i. It expands 16 weights into registers; of x each lane of a subgroup loads one element, and
 * broadcasts give all of them to every lane; needs subgroups of 8 or more. Bound by the multiply-adds. With FEW, columns
 * that a tile lacks cost nothing, and full tiles a tenth more.
 */
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_ballot : require
#include "common.glsl"
#include "quant.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { matmul_args a; };
#include "tile.glsl"

const uint COLUMNS = 8;

#define QUAD_OF(v, lane) \
    vec4(subgroupBroadcast(v, lane), subgroupBroadcast(v, lane + 1), subgroupBroadcast(v, lane + 2), subgroupBroadcast(v, lane + 3))

void main()
{
    const Tile tile = tile_of(COLUMNS);
    if (address_is_null(tile.w))
        return;

    uint column_i[COLUMNS];
    Floats x[COLUMNS];
    float sums[COLUMNS];
    [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
        column_i[c] = tile_column(tile, c);
        x[c] = Floats(address_add(a.x, column_i[c] / a.x_div * a.cols * 4));
        sums[c] = 0;
    }

    /* rows beyond the last one repeat it: every lane has to take part in the broadcasts */
    const uint out_row = row_tile() * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    Row row = row_of(tile.w, min(out_row, a.rows - 1), a.rows, a.cols);
    const uint in_quad = gl_SubgroupInvocationID % 4, next_quad = gl_SubgroupInvocationID / 4 % 2;
    for (uint p = 0; p < a.cols / 16; p++) {
        const mat4 ws = part(row, p);
        const uint from = part_first(p) + in_quad;
        [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
#ifdef FEW
            if (c >= tile.n)
                break;
#endif
            const float v0 = x[c].at[from + QUADS[next_quad]], v2 = x[c].at[from + QUADS[2 + next_quad]];
            sums[c] += dot(ws[0], QUAD_OF(v0, 0)) + dot(ws[1], QUAD_OF(v0, 4));
            sums[c] += dot(ws[2], QUAD_OF(v2, 0)) + dot(ws[3], QUAD_OF(v2, 4));
        }
    }

    if (out_row >= a.rows)
        return;
    FloatsOut y = FloatsOut(a.y);
    [[unroll]] for (uint c = 0; c < COLUMNS; c++)
        if (c < tile.n) {
            const uint at = column_i[c] * a.rows + out_row;
            y.at[at] = sums[c] + (a.accumulate != 0 ? y.at[at] : 0);
        }
}
