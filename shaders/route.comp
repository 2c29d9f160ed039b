#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/* The experts of each token by its router logits, as route.glsl chooses them. A workgroup a token. Bound by latency. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "route.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { route_args a; };

void main()
{
    const uint t = gl_WorkGroupID.x, first = t * a.n_used * 4;
    float value[4];
    [[unroll]] for (uint j = 0; j < 4; j++) {
        const uint e = gl_LocalInvocationID.x + j * 64;
        value[j] = e < a.n_experts ? Floats(a.logits).at[t * a.n_experts + e] : LOWEST;
    }
    const uvec2 host_ids = address_is_null(a.host_ids) ? a.host_ids : address_add(a.host_ids, first);
    choose_experts(value, a.n_experts, a.n_used, address_add(a.ids, first), address_add(a.probs, first), host_ids);
}
