#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What attention starts from, of a single token: q, k, v = W norm(x), then RoPE and the store into the cache, in one pass.
 * A workgroup has rows of one of the matrices; neighbouring rows, which RoPE turns together (Su et al. 2021, pairs as in GGUF's
 * llama), are in one thread. Bound by the bytes of W.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "matvec.glsl"

layout(push_constant) uniform Args { qkv_args a; };

vec2 turn(vec2 v, uint pair)
{
    if (pair * 2 >= a.n_rot)
        return v;
    const vec2 angle = Vec2s(a.angles).at[pair];
    return vec2(v.x * angle.x - v.y * angle.y, v.x * angle.y + v.y * angle.x);
}

void main()
{
    /* which matrix, and where in it */
    const uint q_groups = (a.rows_q + GROUP_ROWS - 1) / GROUP_ROWS, k_groups = (a.rows_k + GROUP_ROWS - 1) / GROUP_ROWS;
    uint group = linear_workgroup();
    const bool is_q = group < q_groups, is_v = group >= q_groups + k_groups;
    const uvec2 w = is_q ? a.w_q : is_v ? a.w_v : a.w_k;
    const uint n_rows = is_q ? a.rows_q : is_v ? a.rows_v : a.rows_k;
    group -= is_q ? 0 : is_v ? q_groups + k_groups : q_groups;
    if (n_rows == 0) /* a workgroup too many, of a grid that is spread over two dimensions */
        return;
    const uint first_row = first_row_of(group);

    Row rows[ROWS];
    find_rows(rows, w, first_row, n_rows, a.cols);
    leave_normed_sums(rows, a.x, a.norm, a.cols);
    barrier();
    if (lane() != 0)
        return;
    const float factor = norm_factor(a.cols, a.eps);

    const uint position = address_is_null(a.step) ? 0 : Step(a.step).s.n_past;
    [[unroll]] for (uint r = 0; r < ROWS; r += 2) {
        const uint row = first_row + r;
        if (row >= n_rows)
            return;
        vec2 v = vec2(sum_of_lanes(r), sum_of_lanes(r + 1)) * factor;
        if (!is_v && !address_is_null(a.angles))
            v = turn(v, row % a.head_dim / 2);
        const uint pair = row / 2 + (is_q ? 0 : position * (n_rows / 2));
        const uvec2 to = is_q ? a.q : is_v ? a.v : a.k;
        if (is_q || a.kv_is_f16 == 0)
            Vec2sOut(to).at[pair] = v;
        else
            WordsOut(to).at[pair] = packHalf2x16(v);
    }
}
