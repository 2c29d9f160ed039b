#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Causal grouped-query attention with a running softmax (Dao et al. 2022; Milakov and Gimelshein 2018).
 * Workgroup (tile of ROWS rows, KV head, split): 64 threads walk the split's positions 64 at a time; a thread scores one
 * position against all rows, then PER_ROW threads a row make the softmax, then a thread sums 4 dimensions of v over the positions,
 * which it shares with as many threads as are left over. The tile's last split to be done merges all: y = sum of
 * e^(m_s - m) sums_s / sum of e^(m_s - m) l_s, m the greatest m_s, s in order. Bound by the bytes of the cache in decode, if a token's heads on a KV
 * head fill the tile: empty rows are computed like others.
 *
 * With LANES, 4, so many threads score as many positions, each every fourth quad of them, and their parts are added up: loads take
 * pieces of 32 bytes or more of a key instead of 8, and a quad of q is loaded once for four of keys.
 *
 * With BROADCAST, for processors (matmul_rows.comp says why): each lane of a subgroup loads one value of q or one weight, which all of
 * them need, and broadcasts it; threads share no dimensions, since what a subgroup does not do costs nothing there.
 */
#extension GL_GOOGLE_include_directive : require
#ifdef BROADCAST
#extension GL_KHR_shader_subgroup_ballot : require
#define QUAD_OF(v, lane) \
    vec4(subgroupBroadcast(v, lane), subgroupBroadcast(v, lane + 1), subgroupBroadcast(v, lane + 2), subgroupBroadcast(v, lane + 3))
#endif
#include "common.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { attention_args a; };
layout(buffer_reference, std430, buffer_reference_align = 16) coherent buffer Partial { vec4 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) coherent buffer Done { uint at[]; };

#include "attention.glsl"

#ifndef ROWS
#define ROWS 8
#endif
const uint PER_ROW = 64 / ROWS, MAX_QUADS = 64, STEP = 64;
const uint MIN_SPLIT = 128; /* positions: fewer are not worth a merge */

shared vec4 tile[ROWS * MAX_QUADS]; /* q; in the end (row, thread) the threads' sums, then (row, split) what is merged */
shared float weight[ROWS * STEP];   /* (row, position or split): score, then its exponential */
#ifdef LANES
shared vec4 parts[ROWS * STEP]; /* (row, position): of a score, by lane */
#endif
shared float part_max[64], part_sum[64], keep[ROWS];
shared bool is_last;

/*
 * Of the row that PER_ROW threads share, the scores from `from` to `to` - 1 become exponentials, all others 0. Earlier sums are
 * to shrink by keep[row].
 */
void softmax(uint from, uint to, inout float row_max, inout float row_sum)
{
    const uint tid = gl_LocalInvocationID.x, row = tid / PER_ROW;
    float m = LOWEST;
    for (uint j = tid % PER_ROW; j < STEP; j += PER_ROW)
        if (j >= from && j < to)
            m = max(m, weight[row * STEP + j]);
    part_max[tid] = m;
    barrier();
    m = row_max;
    [[unroll]] for (uint j = 0; j < PER_ROW; j++)
        m = max(m, part_max[row * PER_ROW + j]);
    float sum = 0;
    for (uint j = tid % PER_ROW; j < STEP; j += PER_ROW) {
        const float e = j >= from && j < to ? exp(weight[row * STEP + j] - m) : 0;
        weight[row * STEP + j] = e;
        sum += e;
    }
    part_sum[tid] = sum;
    const float shrink = exp(row_max - m);
    if (tid % PER_ROW == 0)
        keep[row] = shrink;
    barrier();
    row_max = m;
    row_sum *= shrink;
    [[unroll]] for (uint j = 0; j < PER_ROW; j++)
        row_sum += part_sum[row * PER_ROW + j];
}

/* weight = the scores q_r k of each row r of the tile and n positions from `base` on. */
#ifdef LANES
void score(uint base, uint n, uint quads)
{
    const uint tid = gl_LocalInvocationID.x, lane = tid % LANES, position = tid / LANES;
    uvec2 keys[LANES];
    float scores[LANES][ROWS];
    [[unroll]] for (uint i = 0; i < LANES; i++) {
        keys[i] = kv_row(a.k_cache, base + min(position + i * STEP / LANES, n - 1));
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            scores[i][r] = 0;
    }
    for (uint d = lane; d < quads; d += LANES) {
        vec4 q[ROWS];
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            q[r] = tile[r * quads + d];
        [[unroll]] for (uint i = 0; i < LANES; i++) {
            const vec4 k = kv_quad(keys[i], kv_head() * quads + d);
            [[unroll]] for (uint r = 0; r < ROWS; r++)
                scores[i][r] += dot(q[r], k);
        }
    }
    [[unroll]] for (uint i = 0; i < LANES; i++)
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            parts[r * STEP + position + i * STEP / LANES][lane] = scores[i][r];
    barrier();
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        weight[r * STEP + tid] = dot(parts[r * STEP + tid], vec4(a.scale));
}
#else
void score(uint base, uint n, uint quads)
{
    const uint tid = gl_LocalInvocationID.x, first_quad = kv_head() * quads;
    const uvec2 key = kv_row(a.k_cache, base + min(tid, n - 1));
    float scores[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        scores[r] = 0;
#ifdef BROADCAST
    for (uint d = 0; d < quads; d += 2) {
        const bool is_last = d + 1 == quads;
        const uint lane = gl_SubgroupInvocationID % (is_last ? 4 : 8);
        const vec4 k0 = kv_quad(key, first_quad + d), k1 = is_last ? vec4(0) : kv_quad(key, first_quad + d + 1);
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            const float q = tile[r * quads + d + lane / 4][lane % 4];
            scores[r] += dot(k0, QUAD_OF(q, 0)) + dot(k1, QUAD_OF(q, 4));
        }
    }
#else
    for (uint d = 0; d < quads; d++) {
        const vec4 k = kv_quad(key, first_quad + d);
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            scores[r] += dot(tile[r * quads + d], k);
    }
#endif
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        weight[r * STEP + tid] = scores[r] * a.scale;
}
#endif

/* sums_r += the weighted values of every n_sharers-th of n positions, from `share` on: 4 dimensions of them. */
void add_values(inout vec4 sums[ROWS], uvec2 values, uint n, uint quad, uint share, uint n_sharers)
{
#ifdef BROADCAST
    for (uint j = 0; j < n; j += 8) {
        float w[ROWS];
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            w[r] = weight[r * STEP + j + gl_SubgroupInvocationID % 8];
        [[unroll]] for (uint i = 0; i < 8; i++) { /* weights beyond n are 0 */
            const vec4 v = kv_quad(address_add(values, min(j + i, n - 1) * a.kv_row_bytes), quad);
            [[unroll]] for (uint r = 0; r < ROWS; r++)
                sums[r] += subgroupBroadcast(w[r], i) * v;
        }
    }
#else
    for (uint j = share; j < n; j += n_sharers) {
        const vec4 v = kv_quad(address_add(values, j * a.kv_row_bytes), quad);
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            sums[r] += weight[r * STEP + j] * v;
    }
#endif
}

void main()
{
    const uint tid = gl_LocalInvocationID.x, split = gl_WorkGroupID.z, quads = a.head_dim / 4;
    const step s = Step(a.step).s;
    const Tile own = tile_of(ROWS, s);

    /* the split's share of what the tile sees */
    const uint n_seen = own.seen.end - own.seen.first;
    const uint per_split = max(((n_seen + a.n_splits - 1) / a.n_splits + STEP - 1) / STEP * STEP, MIN_SPLIT);
    const uint n_splits = a.n_splits == 1 ? 1 : (n_seen + per_split - 1) / per_split;
    if (split >= n_splits)
        return;
    const uint begin = own.seen.first + split * per_split, end = n_splits == 1 ? own.seen.end : min(begin + per_split, own.seen.end);

    for (uint i = tid; i < ROWS * quads; i += 64)
        tile[i] = Quads(a.q).at[head_of(own.first_row + min(i / quads, own.n_rows - 1)) * quads + i % quads];
    barrier();

    const Range mine = seen_by(own.first_row + tid / PER_ROW, s.n_past); /* by the row whose softmax this thread makes */
#ifdef BROADCAST
    const uint n_sharers = 1, share = tid - gl_SubgroupInvocationID < quads ? 0 : 1, quad = min(tid, quads - 1);
#else
    const uint n_sharers = 64 / quads, share = tid / quads, quad = tid % quads;
#endif
    float row_max = LOWEST, row_sum = 0;
    vec4 sums[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        sums[r] = vec4(0);

    for (uint base = begin; base < end; base += STEP) {
        const uint n = min(STEP, end - base);

        score(base, n, quads);
        barrier();

        softmax(max(mine.first, base) - base, min(n, max(mine.end, base) - base), row_max, row_sum);

        [[unroll]] for (uint r = 0; r < ROWS; r++)
            sums[r] *= keep[r];
        if (share < n_sharers)
            add_values(sums, kv_row(a.v_cache, base), n, kv_head() * quads + quad, share, n_sharers);
        barrier();
    }

    [[unroll]] for (uint r = 0; r < ROWS; r++)
        tile[r * 64 + tid] = sums[r];
    if (tid % PER_ROW == 0) {
        part_max[tid / PER_ROW] = row_max;
        part_sum[tid / PER_ROW] = row_sum;
    }
    barrier();
    for (uint i = tid; i < own.n_rows * quads; i += 64) {
        const uint r = i / quads, head = head_of(own.first_row + r);
        vec4 sum = tile[r * 64 + i % quads];
        for (uint j = 1; j < n_sharers; j++)
            sum += tile[r * 64 + j * quads + i % quads];
        if (n_splits == 1) {
            QuadsOut(a.y).at[head * quads + i % quads] = sum / part_sum[r];
        } else {
            const uint first = (head * a.n_splits + split) * (quads + 1);
            Partial(a.partial).at[first + i % quads] = sum;
            if (i % quads == 0)
                Partial(a.partial).at[first + quads] = vec4(part_max[r], part_sum[r], 0, 0);
        }
    }
    if (n_splits == 1)
        return;

    memoryBarrierBuffer();
    barrier();
    if (tid == 0) {
        Done done = Done(a.done);
        const uint at = tile_index() * a.n_kv_heads + kv_head();
        is_last = atomicAdd(done.at[at], 1) == n_splits - 1;
        if (is_last)
            done.at[at] = 0;
    }
    barrier();
    if (!is_last)
        return;
    memoryBarrierBuffer();

    for (uint i = tid; i < ROWS * n_splits; i += 64) {
        const uint head = head_of(own.first_row + min(i / n_splits, own.n_rows - 1));
        const vec4 max_sum = Partial(a.partial).at[(head * a.n_splits + i % n_splits) * (quads + 1) + quads];
        weight[i / n_splits * STEP + i % n_splits] = max_sum.x;
        tile[i / n_splits * STEP + i % n_splits] = max_sum;
    }
    barrier();
    row_max = LOWEST;
    softmax(0, n_splits, row_max, row_sum);
    for (uint i = tid; i < own.n_rows * quads; i += 64) {
        const uint r = i / quads, head = head_of(own.first_row + r);
        vec4 sum = vec4(0);
        float total = 0;
        for (uint j = 0; j < n_splits; j++) {
            const float w = weight[r * STEP + j];
            sum += w * Partial(a.partial).at[(head * a.n_splits + j) * (quads + 1) + i % quads];
            total += w * tile[r * STEP + j].y;
        }
        QuadsOut(a.y).at[head * quads + i % quads] = sum / total;
    }
}
