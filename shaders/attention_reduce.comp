#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merges the splits of attention.comp: y = sum of e^(m_s - m) sums_s / sum of e^(m_s - m) l_s, m the greatest m_s. A workgroup
 * a head of a token, a thread two dimensions. Splits beyond the positions have l = 0 and a lowest m, so they add nothing.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { attention_reduce_args a; };

void main()
{
    const uint pairs = a.head_dim / 2, head = gl_WorkGroupID.x;
    Vec2s partial = Vec2s(a.partial);
    const uint first = head * a.n_splits * (pairs + 1);
    float m = partial.at[first + pairs].x;
    for (uint s = 1; s < a.n_splits; s++)
        m = max(m, partial.at[first + s * (pairs + 1) + pairs].x);
    for (uint i = gl_LocalInvocationID.x; i < pairs; i += 64) {
        vec2 sum = vec2(0);
        float weights = 0;
        for (uint s = 0; s < a.n_splits; s++) {
            const uint at = first + s * (pairs + 1);
            const vec2 max_sum = partial.at[at + pairs];
            const float scale = exp(max_sum.x - m);
            sum += scale * partial.at[at + i];
            weights += scale * max_sum.y;
        }
        Vec2sOut(a.y).at[head * pairs + i] = sum / weights;
    }
}
