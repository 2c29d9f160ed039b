#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A single token's router from end to end: logits = W norm(x), then the choice of experts (route.glsl). The workgroup that
 * finishes last, by a counter, has all logits and makes the choice; none waits for another. norm(x) itself goes to `normed` if the host wants it. Bound by latency.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "matvec.glsl"
#include "route.glsl"

layout(push_constant) uniform Args { router_args a; };

/* What workgroups tell each other. */
layout(buffer_reference, std430, buffer_reference_align = 4) coherent buffer SharedFloats { float at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) coherent buffer SharedWords { uint at[]; };

shared float shared_factor;
shared bool is_last;

void main()
{
    const uint tid = gl_LocalInvocationID.x, first_row = first_row_of(gl_WorkGroupID.x);
    Row rows[ROWS];
    find_rows(rows, a.w, first_row, a.n_experts, a.cols);
    leave_normed_sums(rows, a.x, a.norm, a.cols);
    barrier();

    SharedFloats logits = SharedFloats(a.logits);
    if (lane() == 0) {
        const float factor = norm_factor(a.cols, a.eps);
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            if (first_row + r < a.n_experts)
                logits.at[first_row + r] = sum_of_lanes(r) * factor;
        if (tid == 0)
            shared_factor = factor;
    }
    memoryBarrierBuffer();
    barrier();
    if (tid == 0)
        is_last = atomicAdd(SharedWords(a.counter).at[0], 1) == gl_NumWorkGroups.x - 1;
    if (!address_is_null(a.normed))
        for (uint i = gl_GlobalInvocationID.x; i < a.cols; i += gl_NumWorkGroups.x * 64)
            FloatsOut(a.normed).at[i] = Floats(a.x).at[i] * (IS_NORMED ? 1 : shared_factor * Floats(a.norm).at[i]);
    barrier();
    if (!is_last)
        return;

    memoryBarrierBuffer();
    if (tid == 0)
        SharedWords(a.counter).at[0] = 0; /* for the next layer */
    float value[4];
    [[unroll]] for (uint j = 0; j < 4; j++)
        value[j] = tid + j * 64 < a.n_experts ? logits.at[tid + j * 64] : LOWEST;
    choose_experts(value, a.n_experts, a.n_used, a.ids, a.probs, a.host_ids);
}
