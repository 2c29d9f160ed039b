#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/* x[t] += sum over k of probs[t, k] * y[t, k], the experts' results weighted, in order of k. Workgroup (x, t), a thread a value. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { combine_args a; };

void main()
{
    const uint i = gl_GlobalInvocationID.x, t = gl_WorkGroupID.y;
    if (i >= a.n_embd)
        return;
    Floats probs = Floats(a.probs);
    float sum = 0;
    for (uint k = 0; k < a.n_used; k++) {
        const uint pair = t * a.n_used + k;
        const bool on_host = !address_is_null(a.on_host) && Words(a.on_host).at[pair] != 0;
        sum += probs.at[pair] * Floats(on_host ? a.host_y : a.y).at[pair * a.n_embd + i];
    }
    FloatsOut x = FloatsOut(a.x);
    x.at[t * a.n_embd + i] += sum;
}
