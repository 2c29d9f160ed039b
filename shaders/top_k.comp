#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The step's n_top highest of n logits, best first, the lowest id of equals; NaN and infinities are left out. Thread i of
 * all 4096 finds the best of logits i, i + 4096, ..., its head. The workgroup that finishes last, by a counter, then takes
 * the best of the heads again and again, each time putting in its place the best that is left behind it. Bound by the
 * latency of these rounds, a microsecond each; one alone reads the logits once, at the memory's speed.
 */
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "common.glsl"

const uint THREADS = 256, HEADS_OF_THREAD = TOP_K_HEADS / THREADS;
layout(local_size_x = 256) in;
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

bool better(uvec2 x, uvec2 y) { return x.x > y.x || (x.x == y.x && x.y < y.y); }

/* The best of logits first, first + stride, ... that comes behind `last`. */
uvec2 best_behind(uvec2 last, uint first, uint stride)
{
    uvec2 best = NOTHING;
    for (uint id = first; id < a.n; id += stride) {
        const uvec2 one = uvec2(key_of(Words(a.logits).at[id]), id);
        if (better(last, one) && better(one, best))
            best = one;
    }
    return best;
}

shared uvec2 of_subgroups[2][THREADS / 4];
shared bool is_last;

/* The best of all threads', for all of them. Calls alternate between `place` 0 and 1: a barrier lies between two uses of one. */
uvec2 workgroup_best(uvec2 mine, uint place)
{
    const uint key = subgroupMax(mine.x);
    const uint id = subgroupMin(mine.x == key ? mine.y : 0xffffffffu);
    if (subgroupElect())
        of_subgroups[place][gl_SubgroupID] = uvec2(key, id);
    barrier();
    uvec2 best = of_subgroups[place][0];
    for (uint i = 1; i < gl_NumSubgroups; i++)
        if (better(of_subgroups[place][i], best))
            best = of_subgroups[place][i];
    return best;
}

void main()
{
    const uint tid = gl_LocalInvocationID.x;
    SharedPairs heads = SharedPairs(a.heads);
    heads.at[gl_GlobalInvocationID.x] = best_behind(BEFORE_ALL, gl_GlobalInvocationID.x, TOP_K_HEADS);
    memoryBarrierBuffer();
    barrier();
    if (tid == 0)
        is_last = atomicAdd(SharedWords(a.counter).at[0], 1) == TOP_K_WORKGROUPS - 1;
    barrier();
    if (!is_last)
        return;

    memoryBarrierBuffer();
    uvec2 mine[HEADS_OF_THREAD];
    [[unroll]] for (uint j = 0; j < HEADS_OF_THREAD; j++)
        mine[j] = heads.at[j * THREADS + tid];
    const uint n_top = Step(a.step).s.n_top;
    if (tid == 0) {
        SharedWords(a.counter).at[0] = 0; /* for the next to use it */
        WordsOut(a.best).at[0] = 0;
    }
    for (uint k = 0; k < n_top; k++) {
        uvec2 best = mine[0];
        [[unroll]] for (uint j = 1; j < HEADS_OF_THREAD; j++)
            if (better(mine[j], best))
                best = mine[j];
        const uvec2 taken = workgroup_best(best, 0);
        const bool is_end = taken.x == 0;
        if (tid == 0) {
            Vec2WordsOut(a.top).at[k] = is_end ? uvec2(0, NO_TOKEN) : uvec2(Words(a.logits).at[taken.y], taken.y);
            if (k == 0 && !is_end)
                WordsOut(a.best).at[0] = taken.y;
        }
        if (is_end || k + 1 == n_top)
            break;
        const uint head = taken.y % TOP_K_HEADS;
        const uvec2 next =
            workgroup_best(best_behind(taken, head + tid * TOP_K_HEADS, THREADS * TOP_K_HEADS), 1);
        [[unroll]] for (uint j = 0; j < HEADS_OF_THREAD; j++)
            if (head == j * THREADS + tid)
                mine[j] = next;
    }
}
