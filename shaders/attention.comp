#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Causal grouped-query attention with a running softmax (Dao et al. 2022; Milakov and Gimelshein 2018). A "row" is one query:
 * one head of one token. Rows that share a KV head are packed: row = token * (n_heads / n_kv_heads) + head in its group.
 * Workgroup (tile of 8 rows, KV head, split): 64 threads walk the split's positions 64 at a time; a thread scores one
 * position against all 8 rows, then 8 threads a row make the softmax, then a thread sums two dimensions of v (head_dim of
 * 256: four) over the 64 positions. Every key and value is read once per 8 rows. Bound by the bytes of the cache in decode.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "kv.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { attention_args a; };

const uint ROWS = 8, MAX_DIM = 256;
const float LOWEST = -3.0e38; /* finite, so that LOWEST - LOWEST is 0 */

shared vec4 q_tile[ROWS * MAX_DIM / 4];
shared float weight[ROWS * 64]; /* (row, position): score, then its exponential */
shared float part_max[64], part_sum[64];

void main()
{
    const uint tid = gl_LocalInvocationID.x, kv_head = gl_WorkGroupID.y, split = gl_WorkGroupID.z;
    const uint group = a.n_heads / a.n_kv_heads, quads = a.head_dim / 4, pairs = a.head_dim / 2;
    const step s = Step(a.step).s;
    const uint first_row = gl_WorkGroupID.x * ROWS, n_rows = min(ROWS, s.n_tokens * group - first_row);

    /* the split's positions, as far as the tile's last row sees */
    const uint per_split = ((s.n_past + s.n_tokens + a.n_splits - 1) / a.n_splits + 63) / 64 * 64;
    const uint begin = split * per_split;
    const uint end = min(begin + per_split, s.n_past + (first_row + n_rows - 1) / group + 1);

    for (uint i = tid; i < ROWS * quads; i += 64) {
        const uint r = first_row + min(i / quads, n_rows - 1);
        const uint head = r / group * a.n_heads + kv_head * group + r % group;
        q_tile[i] = Quads(a.q).at[head * quads + i % quads];
    }
    barrier();

    const uint my_row = tid / 8, my_limit = s.n_past + (first_row + my_row) / group + 1; /* for the softmax */
    float row_max = LOWEST, row_sum = 0;
    vec2 sums[2][ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        sums[0][r] = sums[1][r] = vec2(0);

    for (uint base = begin; base < end; base += 64) {
        const uint n = min(64, end - base);

        float scores[ROWS];
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            scores[r] = 0;
        const uint key = ((base + min(tid, n - 1)) * a.n_kv_heads + kv_head) * quads;
        for (uint d = 0; d < quads; d++) {
            const vec4 k = kv_quad(a.k_cache, key + d);
            [[unroll]] for (uint r = 0; r < ROWS; r++)
                scores[r] += dot(q_tile[r * quads + d], k);
        }
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            weight[r * 64 + tid] = scores[r] * a.scale;
        barrier();

        float m = LOWEST;
        for (uint j = tid % 8; j < n; j += 8)
            if (base + j < my_limit)
                m = max(m, weight[my_row * 64 + j]);
        part_max[tid] = m;
        barrier();
        m = row_max;
        [[unroll]] for (uint j = 0; j < 8; j++)
            m = max(m, part_max[my_row * 8 + j]);
        float sum = 0;
        for (uint j = tid % 8; j < 64; j += 8) {
            const float e = j < n && base + j < my_limit ? exp(weight[my_row * 64 + j] - m) : 0;
            weight[my_row * 64 + j] = e;
            sum += e;
        }
        part_sum[tid] = sum;
        const float keep = exp(row_max - m); /* what the earlier positions' sums shrink by */
        barrier();
        part_max[tid] = keep;
        row_max = m;
        row_sum *= keep;
        [[unroll]] for (uint j = 0; j < 8; j++)
            row_sum += part_sum[my_row * 8 + j];
        barrier();

        [[unroll]] for (uint h = 0; h < 2; h++) {
            const uint pair = tid + h * 64;
            if (pair >= pairs)
                break;
            [[unroll]] for (uint r = 0; r < ROWS; r++)
                sums[h][r] *= part_max[r * 8];
            for (uint j = 0; j < n; j++) {
                const vec2 v = kv_pair(a.v_cache, ((base + j) * a.n_kv_heads + kv_head) * pairs + pair);
                [[unroll]] for (uint r = 0; r < ROWS; r++)
                    sums[h][r] += weight[r * 64 + j] * v;
            }
        }
        barrier();
    }

    part_max[tid] = row_max;
    part_sum[tid] = row_sum;
    barrier();
    for (uint r = 0; r < n_rows; r++) {
        const uint row = first_row + r, head = row / group * a.n_heads + kv_head * group + row % group;
        if (a.n_splits == 1) {
            [[unroll]] for (uint h = 0; h < 2; h++)
                if (tid + h * 64 < pairs)
                    Vec2sOut(a.y).at[head * pairs + tid + h * 64] = sums[h][r] / part_sum[r * 8];
        } else {
            Vec2sOut partial = Vec2sOut(a.partial);
            const uint first = (head * a.n_splits + split) * (pairs + 1);
            [[unroll]] for (uint h = 0; h < 2; h++)
                if (tid + h * 64 < pairs)
                    partial.at[first + tid + h * 64] = sums[h][r];
            if (tid == 0)
                partial.at[first + pairs] = vec2(part_max[r * 8], part_sum[r * 8]);
        }
    }
}
