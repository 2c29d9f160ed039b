/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KV cache, (n_ctx, n_kv_heads, head_dim) of QUANT_F32, _F16 or _Q8_0. A position's row is kv_row_bytes long and is
 * counted in pairs or quads of values. With q8_0, 32 values share a scale as in GGUF, but a row begins with all its
 * bytes and the scales follow, so that both lie on words. Rows are found in 64 bits: a long context is larger than 4 GiB.
 * Include it behind the push constants, `a`.
 */
uvec2 kv_row(uvec2 cache, uint position)
{
    uint high, low, carry;
    umulExtended(position, a.kv_row_bytes, high, low);
    low = uaddCarry(cache.x, low, carry);
    return uvec2(low, cache.y + high + carry);
}

#if defined(QUANT_F32)

const uint KV_PAIRS = 1; /* that kv_store takes at once */
void kv_store(uvec2 row, uint n, vec2 v[KV_PAIRS]) { Vec2sOut(row).at[n] = v[0]; }
vec4 kv_quad(uvec2 row, uint quad) { return Quads(row).at[quad]; }

#elif defined(QUANT_F16)

const uint KV_PAIRS = 1;
void kv_store(uvec2 row, uint n, vec2 v[KV_PAIRS]) { WordsOut(row).at[n] = packHalf2x16(v[0]); }

vec4 kv_quad(uvec2 row, uint quad)
{
    const uvec2 w = Vec2Words(row).at[quad];
    return vec4(unpackHalf2x16(w.x), unpackHalf2x16(w.y));
}

#elif defined(QUANT_Q8_0)

const uint KV_PAIRS = 32; /* two blocks, whose scales share a word */

uvec2 kv_scales(uvec2 row) { return address_add(row, a.kv_row_bytes / 34 * 32); }

void kv_store(uvec2 row, uint n, vec2 v[KV_PAIRS])
{
    vec2 scales;
    [[unroll]] for (uint b = 0; b < 2; b++) {
        uvec2 most = uvec2(0);
        [[unroll]] for (uint i = 0; i < 16; i++)
            most = max(most, magnitude_bits(v[b * 16 + i]));
        scales[b] = uintBitsToFloat(max(most.x, most.y)) / 127;
    }
    WordsOut(kv_scales(row)).at[n] = packHalf2x16(scales);
    [[unroll]] for (uint i = 0; i < 16; i++) {
        const float scale = scales[i / 8];
        const vec4 q = scale > 0 ? roundEven(vec4(v[2 * i], v[2 * i + 1]) / scale) : vec4(0);
        const ivec4 bytes = ivec4(q) & 0xFF;
        WordsOut(row).at[n * 16 + i] = uint(bytes.x | bytes.y << 8 | bytes.z << 16 | bytes.w << 24);
    }
}

vec4 kv_quad(uvec2 row, uint quad)
{
    const int w = int(Words(row).at[quad]);
    const uint block = quad / 8;
    const float scale = unpackHalf2x16(Words(kv_scales(row)).at[block / 2] >> block % 2 * 16).x;
    return scale * vec4(w << 24 >> 24, w << 16 >> 24, w << 8 >> 24, w >> 24);
}

#endif
