#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The step's n_top highest of n logits, best first, the lowest id of equals; NaN and infinities are left out. Logits h, h +
 * 1024, ... make a column; the best of each, its head, is found by 4 threads of one of the 64 workgroups. The workgroup that
 * finishes last, by a counter, takes the best of the heads again and again, each time putting in its place the best that is
 * left of its column. Bound by the latency of these rounds; one alone reads the logits once.
 */
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "common.glsl"

const uint THREADS = 64, N_COLUMNS = TOP_K_HEADS;
const uint COLUMNS_OF_WORKGROUP = N_COLUMNS / TOP_K_WORKGROUPS, COLUMNS_OF_THREAD = N_COLUMNS / THREADS;
layout(local_size_x = 64) in;
layout(push_constant) uniform Args { top_k_args a; };

/* What workgroups tell each other. */
layout(buffer_reference, std430, buffer_reference_align = 8) coherent buffer SharedPairs { uvec2 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) coherent buffer SharedWords { uint at[]; };

/* A logit as its key, which orders as the logits do and is 0 for what is no number, and its id. */
const uvec2 NOTHING = uvec2(0), BEFORE_ALL = uvec2(0xffffffffu, 0);

uint key_of(uint bits)
{
    if ((bits & 0x7f800000u) == 0x7f800000u) /* in bits, since a driver may drop isnan() */
        return 0;
    if (bits == 0x80000000u) /* -0 equals 0 */
        bits = 0;
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

uvec2 better_of(uvec2 x, uvec2 y) { return y.x > x.x || (y.x == x.x && y.y < x.y) ? y : x; }

/* The best that comes behind `last` of a column's rows first, first + stride, ... */
uvec2 best_behind(uvec2 last, uint column, uint first, uint stride)
{
    uvec2 best = NOTHING;
    for (uint id = column + first * N_COLUMNS; id < a.n; id += stride * N_COLUMNS) {
        const uvec2 one = uvec2(key_of(Words(a.logits).at[id]), id);
        if (one != last && better_of(one, last) == last)
            best = better_of(best, one);
    }
    return best;
}

/* The best of the subgroup's, for all of it. */
uvec2 subgroup_best(uvec2 mine)
{
    const uint key = subgroupMax(mine.x);
    return uvec2(key, subgroupMin(mine.x == key ? mine.y : 0xffffffffu));
}

shared uvec2 of_threads[THREADS], of_subgroups[2][THREADS / 4];
shared bool is_last;

/* The best of all threads', for all of them. Calls alternate between `place` 0 and 1: a barrier lies between two uses of one. */
uvec2 workgroup_best(uvec2 mine, uint place)
{
    uvec2 best = subgroup_best(mine);
    if (subgroupElect())
        of_subgroups[place][gl_SubgroupID] = best;
    barrier();
    for (uint i = gl_SubgroupInvocationID; i < gl_NumSubgroups; i += gl_SubgroupSize)
        best = better_of(best, of_subgroups[place][i]);
    return subgroup_best(best);
}

/* Leaves the heads of the workgroup's columns, and is true for the workgroup that is the last to do so. */
bool leave_heads()
{
    const uint tid = gl_LocalInvocationID.x, column = gl_WorkGroupID.x * COLUMNS_OF_WORKGROUP + tid % COLUMNS_OF_WORKGROUP;
    of_threads[tid] =
        best_behind(BEFORE_ALL, column, tid / COLUMNS_OF_WORKGROUP, THREADS / COLUMNS_OF_WORKGROUP);
    barrier();
    if (tid < COLUMNS_OF_WORKGROUP) {
        uvec2 best = of_threads[tid];
        for (uint i = tid + COLUMNS_OF_WORKGROUP; i < THREADS; i += COLUMNS_OF_WORKGROUP)
            best = better_of(best, of_threads[i]);
        SharedPairs(a.heads).at[column] = best;
    }
    memoryBarrierBuffer();
    barrier();
    if (tid == 0)
        is_last = atomicAdd(SharedWords(a.counter).at[0], 1) == TOP_K_WORKGROUPS - 1;
    barrier();
    memoryBarrierBuffer();
    return is_last;
}

void main()
{
    const uint tid = gl_LocalInvocationID.x;
    if (!leave_heads())
        return;
    uvec2 heads[COLUMNS_OF_THREAD];
    [[unroll]] for (uint j = 0; j < COLUMNS_OF_THREAD; j++)
        heads[j] = SharedPairs(a.heads).at[j * THREADS + tid];
    const uint n_top = Step(a.step).s.n_top;
    if (tid == 0) {
        SharedWords(a.counter).at[0] = 0; /* for the next to use it */
        WordsOut(a.best).at[0] = 0;
    }
    for (uint k = 0; k < n_top; k++) {
        uvec2 best = heads[0];
        [[unroll]] for (uint j = 1; j < COLUMNS_OF_THREAD; j++)
            best = better_of(best, heads[j]);
        const uvec2 taken = workgroup_best(best, 0);
        const bool is_end = taken.x == 0 || taken.y >= a.n; /* the latter if subgroups are wrong */
        if (tid == 0) {
            Vec2WordsOut(a.top).at[k] = is_end ? uvec2(0, NO_TOKEN) : uvec2(Words(a.logits).at[taken.y], taken.y);
            if (k == 0 && !is_end)
                WordsOut(a.best).at[0] = taken.y;
        }
        if (is_end || k + 1 == n_top)
            break;
        const uint column = taken.y % N_COLUMNS;
        const uvec2 next = workgroup_best(best_behind(taken, column, tid, THREADS), 1);
        [[unroll]] for (uint j = 0; j < COLUMNS_OF_THREAD; j++)
            if (column == j * THREADS + tid)
                heads[j] = next;
    }
}
