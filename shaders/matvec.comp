#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * y[i] = W x[i / x_div] (+ y[i]): quantized weights times fp32. Workgroup (block, i): 64 threads, LANES of them share a row,
 * a thread works on ROWS rows at once so that what it reads of x serves them all; lane l takes parts l, l + LANES, ... of
 * 16 weights. The lanes' sums are added in order, so equal runs give equal bits. Bound by the bytes of W.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "quant.glsl"

layout(local_size_x = 64) in;
layout(constant_id = CONSTANT_LANES) const uint LANES = 32;
layout(push_constant) uniform Args { matvec_args a; };

#ifndef ROWS
#define ROWS 2
#endif
shared float partial[64 * ROWS];

void main()
{
    const uint tid = gl_LocalInvocationID.x, lane = tid % LANES, i = gl_WorkGroupID.y;
    const uint first_row = (linear_workgroup() * (64 / LANES) + tid / LANES) * ROWS;

    uvec2 w = a.w;
    if (!address_is_null(a.experts)) {
        w = Addresses(a.experts).at[Words(a.ids).at[i]];
        if (address_is_null(w))
            return;
        w = address_add(w, a.w_offset);
    }

    /* rows beyond the last one read the last one again and are not written */
    Row rows[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        rows[r] = row_of(w, min(first_row + r, a.rows - 1), a.cols);
    Quads x = Quads(address_add(a.x, i / a.x_div * a.cols * 4));

    vec4 sums[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        sums[r] = vec4(0);
    for (uint p = lane; p < a.cols / 16; p += LANES) {
        mat4 xs;
        [[unroll]] for (uint j = 0; j < 4; j++)
            xs[j] = x.at[(part_first(p) + QUADS[j]) / 4];
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            const mat4 ws = part(rows[r], p);
            sums[r] += ws[0] * xs[0] + ws[1] * xs[1] + ws[2] * xs[2] + ws[3] * xs[3];
        }
    }

    FloatsOut y = FloatsOut(a.y);
    float totals[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        totals[r] = sums[r].x + sums[r].y + sums[r].z + sums[r].w;
    if (LANES > 1) {
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            partial[r * 64 + tid] = totals[r];
        barrier();
        if (lane != 0)
            return;
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            for (uint l = 1; l < LANES; l++)
                totals[r] += partial[r * 64 + tid + l];
    }
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        if (first_row + r < a.rows) {
            const uint at = i * a.rows + first_row + r;
            y.at[at] = totals[r] + (a.accumulate != 0 ? y.at[at] : 0);
        }
}
