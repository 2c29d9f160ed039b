#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first half of a single token's feed-forward: y[k] = silu(gate norm(x)) * (up norm(x)), SwiGLU (Shazeer 2020), by its
 * chosen experts k or by the dense matrices. Workgroup (block of rows, k); of a thread's rows half are gate's and half up's,
 * the same ones. Bound by the bytes of the weights.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "matvec.glsl"

layout(push_constant) uniform Args { gate_up_args a; };

const uint HALF = ROWS / 2;

void main()
{
    const uint k = gl_WorkGroupID.y, first_row = first_row_of(linear_workgroup()) / 2;

    uvec2 gate = a.gate, up = a.up;
    if (!address_is_null(a.experts)) {
        const uvec2 slot = Addresses(a.experts).at[Words(a.ids).at[k]];
        if (address_is_null(slot))
            return;
        gate = address_add(slot, a.gate_offset);
        up = address_add(slot, a.up_offset);
    }

    Row rows[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        rows[r] = row_of(r < HALF ? gate : up, min(first_row + r % HALF, a.rows - 1), a.rows, a.cols);
    leave_normed_sums(rows, a.x, a.norm, a.cols);
    barrier();
    if (lane() != 0)
        return;
    const float factor = norm_factor(a.cols, a.eps);
    [[unroll]] for (uint r = 0; r < HALF; r++)
        if (first_row + r < a.rows) {
            const float g = sum_of_lanes(r) * factor, u = sum_of_lanes(HALF + r) * factor;
            FloatsOut(a.y).at[k * a.rows + first_row + r] = g / (1 + exp(-g)) * u;
        }
}
