#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rotary position embedding (Su et al. 2021, pairs of neighbours as in GGUF's llama) of q in place and of k into the cache, v
 * into the cache. Workgroup (x, t); a thread takes one pair of q, or as many pairs of k or of v as kv_store does. The host computes the
 * angles' cosines and sines in double: a GPU's sin() is only good to 2^-11. Bound by latency.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { rope_store_args a; };

#include "kv.glsl"

vec2 turn(vec2 v, uint pair, uint t)
{
    if (pair * 2 >= a.n_rot)
        return v;
    const vec2 angle = Vec2s(a.angles).at[t * (a.n_rot / 2) + pair];
    return vec2(v.x * angle.x - v.y * angle.y, v.x * angle.y + v.y * angle.x);
}

void main()
{
    const uint t = gl_WorkGroupID.y, pairs = a.head_dim / 2;
    const uint n_q = a.n_heads * pairs, n_k = a.n_kv_heads * pairs, n_stores = (n_k + KV_PAIRS - 1) / KV_PAIRS;
    uint i = gl_GlobalInvocationID.x;
    if (i < n_q) {
        Vec2sOut q = Vec2sOut(a.q);
        q.at[t * n_q + i] = turn(q.at[t * n_q + i], i % pairs, t);
        return;
    }
    i -= n_q;
    if (i >= 2 * n_stores)
        return;
    const bool is_k = i < n_stores;
    const uint n = is_k ? i : i - n_stores;
    vec2 values[KV_PAIRS];
    [[unroll]] for (uint p = 0; p < KV_PAIRS; p++) {
        const uint pair = n * KV_PAIRS + p;
        values[p] = vec2(0);
        if (pair < n_k)
            values[p] = is_k ? turn(Vec2s(a.k).at[t * n_k + pair], pair % pairs, t) : Vec2s(a.v).at[t * n_k + pair];
    }
    kv_store(kv_row(is_k ? a.k_cache : a.v_cache, Step(a.step).s.n_past + t), n, values);
}
