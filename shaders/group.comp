#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sorts pairs by expert, stably: first[e] = pairs of experts before e, pairs[first[e] ..] = the pairs of e in order. One
 * workgroup of 256, a thread an expert, each walking all ids twice: the ids are few and cached. Bound by latency.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 256) in;
layout(push_constant) uniform Args { group_args a; };

shared uint counts[256];

void main()
{
    const uint e = gl_LocalInvocationID.x;
    Words ids = Words(a.ids);
    uint count = 0;
    for (uint i = 0; i < a.n_pairs; i++)
        count += ids.at[i] == e ? 1 : 0;
    counts[e] = count;
    barrier();
    if (e >= a.n_experts)
        return;
    uint at = 0;
    for (uint j = 0; j < e; j++)
        at += counts[j];
    WordsOut first = WordsOut(a.first), pairs = WordsOut(a.pairs);
    first.at[e] = at;
    if (e == a.n_experts - 1)
        first.at[e + 1] = at + count;
    for (uint i = 0; i < a.n_pairs; i++)
        if (ids.at[i] == e)
            pairs.at[at++] = i;
}
