#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads memory and does as good as nothing with it: what the device's memory gives to a kernel. Neighbouring threads
 * read neighbouring 16 bytes, four of them at a time, so that it is bound by the memory.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { read_args a; };
layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer WordQuads { uvec4 at[]; };

void main()
{
    const uint thread = linear_workgroup() * 64 + gl_LocalInvocationID.x;
    WordQuads from = WordQuads(a.from);
    if (thread >= a.n_threads)
        return;
    uvec4 x = uvec4(0), y = x, z = x, w = x;
    uint i = thread;
    for (; i + 3 * a.n_threads < a.n; i += 4 * a.n_threads) {
        x ^= from.at[i];
        y ^= from.at[i + a.n_threads];
        z ^= from.at[i + 2 * a.n_threads];
        w ^= from.at[i + 3 * a.n_threads];
    }
    for (; i < a.n; i += a.n_threads)
        x ^= from.at[i];
    x ^= y ^ z ^ w;
    WordsOut(a.to).at[thread] = x.x ^ x.y ^ x.z ^ x.w;
}
