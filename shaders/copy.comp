#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/* to = from: results for the host, written by a shader, since some drivers lose a barrier between shaders and transfers. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { copy_args a; };

void main()
{
    const uint i = linear_workgroup() * 64 + gl_LocalInvocationID.x;
    if (i < a.n)
        WordsOut(a.to).at[i] = Words(a.from).at[i];
}
