#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What attention computes, for prompts on GPUs (Dao et al. 2022): a tile of 32 rows, packed as there, over 32 positions at a
 * time. Workgroup (tile, KV head) of 128 threads: q and k pass through shared memory 32 dimensions at a time, a thread
 * makes 4 x 2 scores; 4 threads a row make the softmax; then a thread sums 4 dimensions of v for every so many rows.
 * What no row of the tile sees is never read. Bound by the multiply-adds.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 128) in;
layout(push_constant) uniform Args { attention_args a; };

#include "attention.glsl"

const uint ROWS = 32, KEYS = 32;
const uint PART = 8, STRIDE = PART + 1; /* quads of a row that are in shared memory; its distance, off the banks' */
const uint SCORES = KEYS + 1;           /* the distance of the scores' rows */
layout(constant_id = CONSTANT_HEAD_DIM) const uint HEAD_DIM = 256;
const uint QUADS = HEAD_DIM / 4, SHARERS = 128 / QUADS; /* threads that share a quad's rows */
const uint SUMS = (ROWS + SHARERS - 1) / SHARERS;       /* rows of a thread */

shared vec4 q_part[ROWS * STRIDE], k_part[KEYS * STRIDE];
shared float weight[ROWS * SCORES]; /* (row, position): score, then its exponential */
shared float part_max[128], part_sum[128], keep[ROWS];

void main()
{
    const uint tid = gl_LocalInvocationID.x;
    const step s = Step(a.step).s;
    const Tile own = tile_of(ROWS, s);

    /* the row whose softmax this thread makes, and what it sees */
    const uint my_row = tid / 4;
    const Range seen = seen_by(own.first_row + my_row, s.n_past);
    float row_max = LOWEST, row_sum = 0;

    /* the dimensions and the rows, from `mine` on, whose sums are this thread's */
    const uint mine = tid / QUADS, quad = tid % QUADS;
    vec4 sums[SUMS];
    [[unroll]] for (uint i = 0; i < SUMS; i++)
        sums[i] = vec4(0);

    for (uint base = own.seen.first; base < own.seen.end; base += KEYS) {
        float scores[4][2];
        [[unroll]] for (uint i = 0; i < 4; i++)
            scores[i][0] = scores[i][1] = 0;
        for (uint from = 0; from < QUADS; from += PART) {
            [[unroll]] for (uint i = 0; i < ROWS * PART / 128; i++) {
                const uint r = tid / PART + i * (128 / PART), d = from + tid % PART;
                vec4 q = vec4(0), k = vec4(0);
                if (d < QUADS) {
                    q = Quads(a.q).at[head_of(own.first_row + min(r, own.n_rows - 1)) * QUADS + d];
                    k = kv_quad(kv_row(a.k_cache, min(base + r, own.seen.end - 1)), kv_head() * QUADS + d);
                }
                q_part[r * STRIDE + tid % PART] = q;
                k_part[r * STRIDE + tid % PART] = k;
            }
            barrier();
            [[unroll]] for (uint d = 0; d < PART; d++) {
                const vec4 k0 = k_part[tid % 16 * STRIDE + d], k1 = k_part[(tid % 16 + 16) * STRIDE + d];
                [[unroll]] for (uint i = 0; i < 4; i++) {
                    const vec4 q = q_part[(tid / 16 * 4 + i) * STRIDE + d];
                    scores[i][0] += dot(q, k0);
                    scores[i][1] += dot(q, k1);
                }
            }
            barrier();
        }
        [[unroll]] for (uint i = 0; i < 4; i++) {
            weight[(tid / 16 * 4 + i) * SCORES + tid % 16] = scores[i][0] * a.scale;
            weight[(tid / 16 * 4 + i) * SCORES + tid % 16 + 16] = scores[i][1] * a.scale;
        }
        barrier();

        float m = LOWEST;
        [[unroll]] for (uint i = 0; i < KEYS / 4; i++) {
            const uint j = tid % 4 + 4 * i;
            if (base + j >= seen.first && base + j < min(seen.end, own.seen.end))
                m = max(m, weight[my_row * SCORES + j]);
        }
        part_max[tid] = m;
        barrier();
        m = row_max;
        [[unroll]] for (uint i = 0; i < 4; i++)
            m = max(m, part_max[my_row * 4 + i]);
        float sum = 0;
        [[unroll]] for (uint i = 0; i < KEYS / 4; i++) {
            const uint j = tid % 4 + 4 * i;
            const bool is_seen = base + j >= seen.first && base + j < min(seen.end, own.seen.end);
            const float e = is_seen ? exp(weight[my_row * SCORES + j] - m) : 0;
            weight[my_row * SCORES + j] = e;
            sum += e;
        }
        part_sum[tid] = sum;
        const float shrink = exp(row_max - m); /* what the earlier positions' sums shrink by */
        if (tid % 4 == 0)
            keep[my_row] = shrink;
        barrier();
        row_max = m;
        row_sum *= shrink;
        [[unroll]] for (uint i = 0; i < 4; i++)
            row_sum += part_sum[my_row * 4 + i];

        [[unroll]] for (uint i = 0; i < SUMS; i++)
            sums[i] *= keep[min(mine + i * SHARERS, ROWS - 1)];
        const uvec2 values = kv_row(a.v_cache, base);
        const uint n = min(KEYS, own.seen.end - base);
        if (mine < SHARERS)
            for (uint j = 0; j < n; j++) {
                const vec4 v = kv_quad(address_add(values, j * a.kv_row_bytes), kv_head() * QUADS + quad);
                [[unroll]] for (uint i = 0; i < SUMS; i++)
                    sums[i] += weight[min(mine + i * SHARERS, ROWS - 1) * SCORES + j] * v;
            }
        barrier();
    }

    if (tid % 4 == 0)
        part_sum[my_row] = row_sum;
    barrier();
    if (mine < SHARERS)
        [[unroll]] for (uint i = 0; i < SUMS; i++) {
            const uint r = mine + i * SHARERS;
            if (r < own.n_rows)
                QuadsOut(a.y).at[head_of(own.first_row + r) * QUADS + quad] = sums[i] / part_sum[r];
        }
}
