#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/* gate = gate / (1 + exp(-gate)) * up, the SwiGLU activation (Shazeer 2020). A thread a value. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { silu_mul_args a; };

void main()
{
    const uint i = linear_workgroup() * 64 + gl_LocalInvocationID.x;
    if (i >= a.n)
        return;
    FloatsOut gate = FloatsOut(a.gate);
    const float g = gate.at[i];
    gate.at[i] = g / (1 + exp(-g)) * Floats(a.up).at[i];
}
