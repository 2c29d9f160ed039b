#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What attention computes, for prompts on matrix units (VK_KHR_cooperative_matrix; Dao et al. 2022): q, k, v and the weights
 * exp(score - maximum) are rounded to halves, products are exact, sums are fp32. Workgroup (tile of 32 rows, KV head): 128 threads
 * take 32 positions at a time, of which k and then v pass through shared memory 64 dimensions at a time. A subgroup makes
 * SCORES of the SIZE x SIZE pieces of the scores; 4 threads a row make the softmax; a subgroup sums FRAGMENTS pieces of y for every
 * 64 dimensions, which shrink by a matrix that has a row's factor all along the row. Values beyond 65504 are cut to it.
 * What no row of the tile sees is never read. Bound by what feeds the matrix units: shared memory.
 */
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#pragma use_vulkan_memory_model
#include "common.glsl"
#include "halves.glsl"

layout(local_size_x = 128) in;
layout(constant_id = CONSTANT_FRAGMENTS) const uint FRAGMENTS = 2;
layout(constant_id = CONSTANT_HEAD_DIM) const uint HEAD_DIM = 256;
layout(push_constant) uniform Args { attention_args a; };

#include "attention.glsl"

const uint ROWS = 32, KEYS = 32, PART = 64, SCORES = FRAGMENTS * KEYS / PART;
const uint QUADS = HEAD_DIM / 4, PARTS = (HEAD_DIM + PART - 1) / PART; /* of a head */

/* Distances of rows in shared memory, which begin at 16 bytes and in different banks; of the first two in quads. */
const uint Q_STRIDE = 256 / 4 + 2, STRIDE = PART / 4 + 2, SCORE_STRIDE = KEYS + 4, WEIGHT_STRIDE = KEYS + 8, KEEP_STRIDE = SIZE + 4;

shared f16vec4 q_tile[ROWS * Q_STRIDE];        /* (rows, dimensions) */
shared f16vec4 part[KEYS * STRIDE];            /* (positions, PART) of k or v */
shared float scores[ROWS * SCORE_STRIDE];      /* (rows, positions); in the end (subgroups, SIZE, SIZE) of y */
shared float16_t weights[ROWS * WEIGHT_STRIDE]; /* (rows, positions) */
shared float keep[ROWS * KEEP_STRIDE];         /* (rows, SIZE) what earlier sums shrink by; in the end the threads' sums of weights */

/* The cache's positions from `base` to `end` - 1, 0 behind them. */
void fetch(uvec2 cache, uint base, uint end, uint number)
{
    const uint quad = gl_LocalInvocationID.x % (PART / 4), from = number * (PART / 4);
    [[unroll]] for (uint i = 0; i < KEYS * PART / 4 / 128; i++) {
        const uint j = gl_LocalInvocationID.x / (PART / 4) + i * (128 / (PART / 4));
        const bool inside = base + j < end && from + quad < QUADS;
        part[j * STRIDE + quad] =
            inside ? halves(kv_quad(kv_row(cache, base + j), kv_head() * QUADS + from + quad)) : f16vec4(0);
    }
}

void main()
{
    const uint tid = gl_LocalInvocationID.x;
    const step s = Step(a.step).s;
    const Tile own = tile_of(ROWS, s);

    for (uint i = tid; i < ROWS * PARTS * PART / 4; i += 128) {
        const uint r = i / (PARTS * PART / 4), quad = i % (PARTS * PART / 4);
        const uint head = head_of(own.first_row + min(r, own.n_rows - 1));
        q_tile[r * Q_STRIDE + quad] = quad < QUADS ? halves(Quads(a.q).at[head * QUADS + quad]) : f16vec4(0);
    }

    /* the row whose softmax this thread makes with 3 others, and what it sees */
    const uint my_row = tid / 4;
    const Range seen = seen_by(own.first_row + my_row, s.n_past);
    float row_max = LOWEST, my_sum = 0;

    const uint first_score = gl_SubgroupID * SCORES, first_fragment = gl_SubgroupID * FRAGMENTS;
    coopmat<float, gl_ScopeSubgroup, SIZE, SIZE, gl_MatrixUseAccumulator> sums[PARTS * FRAGMENTS];
    for (uint f = 0; f < PARTS * FRAGMENTS; f++)
        sums[f] = coopmat<float, gl_ScopeSubgroup, SIZE, SIZE, gl_MatrixUseAccumulator>(0.0);

    for (uint base = own.seen.first; base < own.seen.end; base += KEYS) {
        coopmat<float, gl_ScopeSubgroup, SIZE, SIZE, gl_MatrixUseAccumulator> score[SCORES];
        for (uint f = 0; f < SCORES; f++)
            score[f] = coopmat<float, gl_ScopeSubgroup, SIZE, SIZE, gl_MatrixUseAccumulator>(0.0);
        for (uint p = 0; p < PARTS; p++) {
            fetch(a.k_cache, base, own.seen.end, p);
            barrier();
            for (uint k = 0; k < PART; k += SIZE)
                for (uint f = 0; f < SCORES; f++) {
                    const uint row = (first_score + f) / (KEYS / SIZE) * SIZE, key = (first_score + f) % (KEYS / SIZE) * SIZE;
                    coopmat<float16_t, gl_ScopeSubgroup, SIZE, SIZE, gl_MatrixUseA> q;
                    coopmat<float16_t, gl_ScopeSubgroup, SIZE, SIZE, gl_MatrixUseB> k_piece;
                    coopMatLoad(q, q_tile, row * Q_STRIDE + (p * PART + k) / 4, Q_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
                    coopMatLoad(k_piece, part, key * STRIDE + k / 4, STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
                    score[f] = coopMatMulAdd(q, k_piece, score[f]);
                }
            barrier();
        }
        for (uint f = 0; f < SCORES; f++) {
            const uint row = (first_score + f) / (KEYS / SIZE) * SIZE, key = (first_score + f) % (KEYS / SIZE) * SIZE;
            coopMatStore(score[f], scores, row * SCORE_STRIDE + key, SCORE_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
        }
        barrier();

        const uint from = max(seen.first, base) - base, to = max(min(seen.end, own.seen.end), base) - base;
        float m = row_max;
        for (uint j = from; j < min(to, KEYS); j++)
            m = max(m, scores[my_row * SCORE_STRIDE + j] * a.scale);
        const float shrink = exp(row_max - m);
        row_max = m;
        my_sum *= shrink;
        [[unroll]] for (uint j = tid % 4; j < KEYS; j += 4) {
            const bool is_seen = j >= from && j < to;
            const float16_t weight = float16_t(is_seen ? exp(scores[my_row * SCORE_STRIDE + j] * a.scale - m) : 0);
            weights[my_row * WEIGHT_STRIDE + j] = weight;
            my_sum += float(weight);
        }
        [[unroll]] for (uint j = tid % 4; j < SIZE; j += 4)
            keep[my_row * KEEP_STRIDE + j] = shrink;

        for (uint p = 0; p < PARTS; p++) {
            fetch(a.v_cache, base, own.seen.end, p);
            barrier();
            for (uint f = 0; f < FRAGMENTS; f++) {
                const uint row = (first_fragment + f) / (PART / SIZE) * SIZE, dim = (first_fragment + f) % (PART / SIZE) * SIZE;
                coopmat<float, gl_ScopeSubgroup, SIZE, SIZE, gl_MatrixUseAccumulator> factors;
                coopMatLoad(factors, keep, row * KEEP_STRIDE, KEEP_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
                sums[p * FRAGMENTS + f] *= factors;
                for (uint k = 0; k < KEYS; k += SIZE) {
                    coopmat<float16_t, gl_ScopeSubgroup, SIZE, SIZE, gl_MatrixUseA> weight;
                    coopmat<float16_t, gl_ScopeSubgroup, SIZE, SIZE, gl_MatrixUseB> v;
                    coopMatLoad(weight, weights, row * WEIGHT_STRIDE + k, WEIGHT_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
                    coopMatLoad(v, part, k * STRIDE + dim / 4, STRIDE, gl_CooperativeMatrixLayoutRowMajor);
                    sums[p * FRAGMENTS + f] = coopMatMulAdd(weight, v, sums[p * FRAGMENTS + f]);
                }
            }
            barrier();
        }
    }

    keep[my_row * KEEP_STRIDE + tid % 4] = my_sum;
    barrier();
    const uint patch_ = gl_SubgroupID * SIZE * SIZE;
    for (uint p = 0; p < PARTS; p++)
        for (uint f = 0; f < FRAGMENTS; f++) {
            coopMatStore(sums[p * FRAGMENTS + f], scores, patch_, SIZE, gl_CooperativeMatrixLayoutRowMajor);
            barrier();
            for (uint i = gl_SubgroupInvocationID; i < SIZE * SIZE; i += gl_SubgroupSize) {
                const uint row = (first_fragment + f) / (PART / SIZE) * SIZE + i / SIZE;
                const uint dim = p * PART + (first_fragment + f) % (PART / SIZE) * SIZE + i % SIZE, at = row * KEEP_STRIDE;
                if (row < own.n_rows && dim < HEAD_DIM)
                    FloatsOut(a.y).at[head_of(own.first_row + row) * HEAD_DIM + dim] =
                        scores[patch_ + i] / (keep[at] + keep[at + 1] + keep[at + 2] + keep[at + 3]);
            }
            barrier();
        }
}
