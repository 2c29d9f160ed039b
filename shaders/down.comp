#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The second half of a single token's experts, all of which have slots: y += sum over k of probs[k] * W[ids[k]] x[k]. A
 * workgroup goes through the experts in their order, so the sum's order is fixed. Bound by the bytes of the weights.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "matvec.glsl"

layout(push_constant) uniform Args { down_args a; };

void main()
{
    const uint first_row = first_row_of(linear_workgroup());
    vec4 sums[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        sums[r] = vec4(0);
    for (uint k = 0; k < a.n_used; k++) {
        /* min: lavapipe 26 also loads what a turn after the last one would, whose id may be any number */
        const uvec2 slot = Addresses(a.experts).at[Words(a.ids).at[min(k, a.n_used - 1)]];
        if (address_is_null(slot))
            continue;
        Row rows[ROWS];
        find_rows(rows, address_add(slot, a.w_offset), first_row, a.rows, a.cols);
        add_products(sums, rows, address_add(a.x, k * X_ROW_BYTES(a.cols)), Floats(a.probs).at[k], a.cols);
    }
    leave_sums(sums);
    barrier();
    if (lane() != 0)
        return;
    FloatsOut y = FloatsOut(a.y);
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        if (first_row + r < a.rows)
            y.at[first_row + r] += sum_of_lanes(r);
}
