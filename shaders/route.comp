#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The n_used experts with the highest router logits, best first (the lower id on a tie), and their softmax among
 * themselves (Mixtral: Jiang et al. 2024, section 2.1). A workgroup a token, a thread up to 4 of at most 256 experts;
 * NaN counts as the lowest value. Bound by latency.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { route_args a; };

#define LOWEST uintBitsToFloat(0xff800000u) /* -inf */
const uint MAX_USED = 16;

shared float best_value[64];
shared uint best_id[64];
shared float chosen_value[MAX_USED];

bool better(float v, uint id, float w, uint other) { return v > w || (v == w && id < other); }

void main()
{
    const uint tid = gl_LocalInvocationID.x, t = gl_WorkGroupID.x;
    Floats logits = Floats(a.logits);
    float value[4];
    [[unroll]] for (uint j = 0; j < 4; j++) {
        const uint e = tid + j * 64;
        const float v = e < a.n_experts ? logits.at[t * a.n_experts + e] : LOWEST;
        value[j] = isnan(v) ? LOWEST : v;
    }
    uint taken = 0; /* bit j: value[j] is chosen already */

    for (uint k = 0; k < a.n_used; k++) {
        float v = LOWEST;
        uint id = 0xffffffffu;
        [[unroll]] for (uint j = 0; j < 4; j++) {
            const uint e = tid + j * 64;
            if (e < a.n_experts && (taken >> j & 1) == 0 && better(value[j], e, v, id)) {
                v = value[j];
                id = e;
            }
        }
        best_value[tid] = v;
        best_id[tid] = id;
        barrier();
        for (uint n = 32; n > 0; n /= 2) {
            if (tid < n && better(best_value[tid + n], best_id[tid + n], best_value[tid], best_id[tid])) {
                best_value[tid] = best_value[tid + n];
                best_id[tid] = best_id[tid + n];
            }
            barrier();
        }
        const uint chosen = min(best_id[0], a.n_experts - 1); /* a driver may drop isnan() */
        if (chosen % 64 == tid)
            taken |= 1u << chosen / 64;
        if (tid == 0) {
            chosen_value[k] = best_value[0];
            WordsOut(a.ids).at[t * a.n_used + k] = chosen;
            if (!address_is_null(a.host_ids))
                WordsOut(a.host_ids).at[t * a.n_used + k] = chosen;
        }
        barrier();
    }

    if (tid == 0) {
        float sum = 0;
        for (uint k = 0; k < a.n_used; k++)
            sum += exp(chosen_value[k] - chosen_value[0]);
        for (uint k = 0; k < a.n_used; k++)
            FloatsOut(a.probs).at[t * a.n_used + k] = exp(chosen_value[k] - chosen_value[0]) / sum;
    }
}
