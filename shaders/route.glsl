/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The n_used experts with the highest router logits, best first (the lower id on a tie), and their softmax among
 * themselves (Mixtral: Jiang et al. 2024, section 2.1). A workgroup of 64 a token, a thread up to 4 of at most 256
 * experts; NaN counts as the lowest value. All threads call.
 */

#define LOWEST uintBitsToFloat(0xff800000u) /* -inf */
const uint MAX_USED = 16;

shared float best_value[64];
shared uint best_id[64];
shared float chosen_value[MAX_USED];

bool better(float v, uint id, float w, uint other) { return v > w || (v == w && id < other); }

/* value[j]: the logit of expert thread + 64 j, anything beyond the last expert. ids, probs: the token's n_used; host_ids too,
   or null. */
void choose_experts(float value[4], uint n_experts, uint n_used, uvec2 ids, uvec2 probs, uvec2 host_ids)
{
    const uint tid = gl_LocalInvocationID.x;
    [[unroll]] for (uint j = 0; j < 4; j++)
        if (isnan(value[j]))
            value[j] = LOWEST;
    uint taken = 0; /* bit j: value[j] is chosen already */

    for (uint k = 0; k < n_used; k++) {
        float v = LOWEST;
        uint id = 0xffffffffu;
        [[unroll]] for (uint j = 0; j < 4; j++) {
            const uint e = tid + j * 64;
            if (e < n_experts && (taken >> j & 1) == 0 && better(value[j], e, v, id)) {
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
        const uint chosen = min(best_id[0], n_experts - 1); /* a driver may drop isnan() */
        if (chosen % 64 == tid)
            taken |= 1u << chosen / 64;
        if (tid == 0) {
            chosen_value[k] = best_value[0];
            WordsOut(ids).at[k] = chosen;
            if (!address_is_null(host_ids))
                WordsOut(host_ids).at[k] = chosen;
        }
        barrier();
    }

    if (tid == 0) {
        float sum = 0;
        for (uint k = 0; k < n_used; k++)
            sum += exp(chosen_value[k] - chosen_value[0]);
        for (uint k = 0; k < n_used; k++)
            FloatsOut(probs).at[k] = exp(chosen_value[k] - chosen_value[0]) / sum;
    }
}
