#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sorts pairs by expert, stably: pairs[first[e] ..] = the pairs of e in order. Workgroup e of 256: each thread counts its
 * expert in a stretch of the ids, a prefix sum says where its finds go, and it walks the stretch again. Every workgroup
 * reads all ids, which the caches hold: n_pairs / 128 reads a thread. Bound by latency.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 256) in;
layout(push_constant) uniform Args { group_args a; };

shared uint found[256];

void main()
{
    const uint tid = gl_LocalInvocationID.x, e = gl_WorkGroupID.x;
    const uint first = Words(a.first).at[e];
    if (first == Words(a.first).at[e + 1])
        return;
    Words ids = Words(a.ids);
    const uint stretch = (a.n_pairs + 255) / 256;
    const uint from = min(tid * stretch, a.n_pairs), to = min(from + stretch, a.n_pairs);
    uint n = 0;
    for (uint i = from; i < to; i++)
        n += ids.at[i] == e ? 1 : 0;

    uint sum = n; /* of this thread's finds and those before */
    found[tid] = sum;
    barrier();
    for (uint step = 1; step < 256; step *= 2) {
        const uint left = tid >= step ? found[tid - step] : 0;
        barrier();
        sum += left;
        found[tid] = sum;
        barrier();
    }
    if (n == 0)
        return;
    WordsOut pairs = WordsOut(a.pairs);
    uint at = first + sum - n;
    for (uint i = from; i < to; i++)
        if (ids.at[i] == e)
            pairs.at[at++] = i;
}
