#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * y[i] = W x[i / x_div] (+ y[i]): quantized weights times fp32. Workgroup (block of rows, i), as matvec.glsl says. Bound by
 * the bytes of W.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "matvec.glsl"

layout(push_constant) uniform Args { matvec_args a; };

void main()
{
    const uint i = gl_WorkGroupID.y, first_row = first_row_of(linear_workgroup());

    uvec2 w = a.w;
    if (!address_is_null(a.experts)) {
        w = Addresses(a.experts).at[Words(a.ids).at[i]];
        if (address_is_null(w))
            return;
        w = address_add(w, a.w_offset);
    }

    Row rows[ROWS];
    find_rows(rows, w, first_row, a.rows, a.cols);
    vec4 sums[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        sums[r] = vec4(0);
    add_products(sums, rows, address_add(a.x, i / a.x_div * X_ROW_BYTES(a.cols)), 1, a.cols);
    leave_sums(sums);
    barrier();
    if (lane() != 0)
        return;
    FloatsOut y = FloatsOut(a.y);
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        if (first_row + r < a.rows) {
            const uint at = i * a.rows + first_row + r;
            y.at[at] = sum_of_lanes(r) + (a.accumulate != 0 ? y.at[at] : 0);
        }
}
