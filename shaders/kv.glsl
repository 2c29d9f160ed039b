/* SPDX-License-Identifier: Apache-2.0 */
/* The KV cache's element type: fp32 with KV_F32, otherwise fp16, two to a word. Positions are counted in pairs or quads. */

#if defined(KV_F32)

void kv_store(uvec2 cache, uint pair, vec2 v) { Vec2sOut(cache).at[pair] = v; }
vec4 kv_quad(uvec2 cache, uint quad) { return Quads(cache).at[quad]; }
vec2 kv_pair(uvec2 cache, uint pair) { return Vec2s(cache).at[pair]; }

#else

void kv_store(uvec2 cache, uint pair, vec2 v) { WordsOut(cache).at[pair] = packHalf2x16(v); }

vec4 kv_quad(uvec2 cache, uint quad)
{
    const uvec2 w = Vec2Words(cache).at[quad];
    return vec4(unpackHalf2x16(w.x), unpackHalf2x16(w.y));
}

vec2 kv_pair(uvec2 cache, uint pair) { return unpackHalf2x16(Words(cache).at[pair]); }

#endif
