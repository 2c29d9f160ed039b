/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one place of the shaders that knows GGUF blocks. A kernel is compiled once per type, with QUANT_<TYPE> defined.
 *
 * The unit of work is a part: 16 weights that share the words they lie in, as 4 quads of 4 consecutive weights.
 *   part_first(p)   index in its row of part p's first weight
 *   QUADS[j]        where quad j begins, counted from there
 *   part(row, p)    the weights: column j is quad j
 * A row of n weights has n / 16 parts. Types with blocks say the last in two steps, as some kernels go on in whole numbers
 * (rounded.glsl):
 *   quants(row, p)  quad j is the bytes of word j: 0 to 63; signed if IS_SIGNED; with HAS_LEVELS numbers of levels
 *   scales(row, p)  weights of quad j are scale[j] * q - minimum[j], or with ZERO scale[j] * (q - ZERO)
 *   RUNS            so many parts, from a multiple of it on, have the same scales, SCALES different ones. Their weights are
 *                   as many runs of 16 consecutive ones, RUN_STRIDE apart.
 * Blocks lie as in the file (ggml's), but of types whose blocks are no multiple of 4 bytes the scale d, 2 bytes, lies apart,
 * behind the matrix's other bytes (SCALES_APART; layout.h): so all blocks begin with a word.
 */

#if defined(QUANT_F32)
#define BLOCK_SIZE 16
#define BLOCK_BYTES 64
#elif defined(QUANT_F16) || defined(QUANT_BF16)
#define BLOCK_SIZE 16
#define BLOCK_BYTES 32
#elif defined(QUANT_Q4_0) || defined(QUANT_IQ4_NL)
#define BLOCK_SIZE 32
#define BLOCK_BYTES 16
#define SCALES_APART
#elif defined(QUANT_Q4_1)
#define BLOCK_SIZE 32
#define BLOCK_BYTES 20
#elif defined(QUANT_Q5_0)
#define BLOCK_SIZE 32
#define BLOCK_BYTES 20
#define SCALES_APART
#elif defined(QUANT_Q5_1)
#define BLOCK_SIZE 32
#define BLOCK_BYTES 24
#elif defined(QUANT_Q8_0)
#define BLOCK_SIZE 32
#define BLOCK_BYTES 32
#define SCALES_APART
#elif defined(QUANT_Q2_K)
#define BLOCK_SIZE 256
#define BLOCK_BYTES 84
#elif defined(QUANT_Q3_K)
#define BLOCK_SIZE 256
#define BLOCK_BYTES 108
#define SCALES_APART
#elif defined(QUANT_Q4_K)
#define BLOCK_SIZE 256
#define BLOCK_BYTES 144
#elif defined(QUANT_Q5_K)
#define BLOCK_SIZE 256
#define BLOCK_BYTES 176
#elif defined(QUANT_Q6_K)
#define BLOCK_SIZE 256
#define BLOCK_BYTES 208
#define SCALES_APART
#elif defined(QUANT_IQ4_XS)
#define BLOCK_SIZE 256
#define BLOCK_BYTES 136
#endif

#define PARTS (BLOCK_SIZE / 16) /* in a block */

/* A row of quantized weights. */
struct Row {
    Words words;
#ifdef SCALES_APART
    uint first_scale; /* the row's first one, in halves from words */
#endif
};

Row row_of(uvec2 matrix, uint row, uint rows, uint cols)
{
    const uint blocks = cols / BLOCK_SIZE;
    Words words = Words(address_add(matrix, row * blocks * BLOCK_BYTES));
#ifdef SCALES_APART
    return Row(words, (rows - row) * blocks * (BLOCK_BYTES / 2) + row * blocks);
#else
    return Row(words);
#endif
}

/* The words that begin `bytes` after the row's first byte, in loads as wide as the type's blocks are aligned: what a thread
   loads costs a turn of the cache whether it is 4 bytes or 16. In such blocks `bytes` is a multiple of what is loaded. */
uint word(Row row, uint bytes) { return row.words.at[bytes / 4]; }

uvec2 words2(Row row, uint bytes)
{
#if BLOCK_BYTES % 8 == 0
    return Vec2Words(uvec2(row.words)).at[bytes / 8];
#else
    return uvec2(word(row, bytes), word(row, bytes + 4));
#endif
}

uvec4 words4(Row row, uint bytes)
{
#if BLOCK_BYTES % 16 == 0
    return QuadWords(uvec2(row.words)).at[bytes / 16];
#else
    return uvec4(words2(row, bytes), words2(row, bytes + 8));
#endif
}

#ifdef SCALES_APART
float scale_of(Row row, uint block)
{
    const uint i = row.first_scale + block;
    return unpackHalf2x16(row.words.at[i / 2] >> (i & 1) * 16).x;
}
#endif

/*
 * Four bytes as floats. By conversion, which AMD has an instruction for; or by their place in the bits of a float, 2^23 +
 * byte, less 2^23, where conversions are slow, as on NVIDIA. Both are exact.
 */
layout(constant_id = CONSTANT_MAGIC) const bool MAGIC = false;

vec4 bytes4(uint w)
{
    const uvec4 bytes = uvec4(w & 0xff, w >> 8 & 0xff, w >> 16 & 0xff, w >> 24);
    return mix(vec4(bytes), uintBitsToFloat(bytes | 0x4b000000) - 8388608, bvec4(MAGIC)); /* see level_word() */
}

vec4 signed_bytes4(uint w)
{
    const vec4 converted = vec4(int(w << 24) >> 24, int(w << 16) >> 24, int(w << 8) >> 24, int(w) >> 24);
    const uvec4 shifted = uvec4(w, w >> 8, w >> 16, w >> 24) & 0xff ^ 0x80;
    return mix(converted, uintBitsToFloat(shifted | 0x4b000000) - 8388736, bvec4(MAGIC));
}

/* Bits b, b + 1, b + 2, b + 3 of w, each into the lowest bit of a byte of its own. */
uint spread4(uint w, uint b)
{
    uint n = w >> b & 0xf;
    return (n * 0x00204081) & 0x01010101;
}

#if defined(QUANT_IQ4_NL) || defined(QUANT_IQ4_XS)
/* The 16 levels of the non-linear 4-bit types, packed: -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113. Chosen
   words, not an array: an indexed constant array goes to memory on some drivers. With mix, not ?:, whose branches, inlined 16
   times a part, take SwiftShader's compiler minutes and gigabytes. */
uint level_word(uint i)
{
    const bool odd = (i & 4) != 0;
    return mix(mix(0xbfad9881, 0xf6eaddcf, odd), mix(0x26190d01, 0x71594535, odd), i >= 8);
}

float level(uint i) { return float(int(level_word(i) << (24 - (i & 3) * 8)) >> 24); }

vec4 levels4(uint nibbles) /* one in each byte */
{
    return vec4(level(nibbles & 0xf), level(nibbles >> 8 & 0xf), level(nibbles >> 16 & 0xf), level(nibbles >> 24 & 0xf));
}

uint packed_levels4(uint nibbles) /* the same as signed bytes */
{
    uint w = 0;
    [[unroll]] for (uint k = 0; k < 32; k += 8)
        w |= (level_word(nibbles >> k & 0xf) >> (nibbles >> k & 3) * 8 & 0xff) << k;
    return w;
}
#endif

#if defined(QUANT_F32)

const uvec4 QUADS = uvec4(0, 4, 8, 12);
uint part_first(uint p) { return p * 16; }

mat4 part(Row row, uint p)
{
    mat4 m;
    [[unroll]] for (uint j = 0; j < 4; j++)
        m[j] = uintBitsToFloat(words4(row, p * 64 + j * 16));
    return m;
}

#elif defined(QUANT_F16)

const uvec4 QUADS = uvec4(0, 4, 8, 12);
uint part_first(uint p) { return p * 16; }

mat4 part(Row row, uint p)
{
    const uvec4 a = words4(row, p * 32), b = words4(row, p * 32 + 16);
    return mat4(vec4(unpackHalf2x16(a.x), unpackHalf2x16(a.y)), vec4(unpackHalf2x16(a.z), unpackHalf2x16(a.w)),
                vec4(unpackHalf2x16(b.x), unpackHalf2x16(b.y)), vec4(unpackHalf2x16(b.z), unpackHalf2x16(b.w)));
}

#elif defined(QUANT_BF16)

const uvec4 QUADS = uvec4(0, 4, 8, 12);
uint part_first(uint p) { return p * 16; }

vec4 floats4(uvec2 w) { return uintBitsToFloat(uvec4(w.x << 16, w.x & 0xffff0000, w.y << 16, w.y & 0xffff0000)); }

mat4 part(Row row, uint p)
{
    const uvec4 a = words4(row, p * 32), b = words4(row, p * 32 + 16);
    return mat4(floats4(a.xy), floats4(a.zw), floats4(b.xy), floats4(b.zw));
}

#else

struct Scales {
    vec4 scale, minimum; /* of each quad */
};

#if defined(QUANT_Q8_0) || defined(QUANT_IQ4_NL) || defined(QUANT_IQ4_XS) || defined(QUANT_Q4_0) || defined(QUANT_Q4_1) || \
    defined(QUANT_Q5_0) || defined(QUANT_Q5_1)
#define RUNS 2
#define SCALES 1
#define RUN_STRIDE 16
#elif defined(QUANT_Q4_K) || defined(QUANT_Q5_K)
#define RUNS 4
#define SCALES 2
#define RUN_STRIDE 16
#else
#define RUNS 4
#define SCALES 4
#define RUN_STRIDE 32
#endif

#if defined(QUANT_Q8_0) /* 32 signed bytes; d apart: d * q */

#define IS_SIGNED
const uvec4 QUADS = uvec4(0, 4, 8, 12);
uint part_first(uint p) { return p * 16; }

uvec4 quants(Row row, uint p)
{
    return words4(row, p * 16);
}

Scales scales(Row row, uint p) { return Scales(vec4(scale_of(row, p / 2)), vec4(0)); }

#elif defined(QUANT_Q4_0) || defined(QUANT_Q4_1) || defined(QUANT_Q5_0) || defined(QUANT_Q5_1) || defined(QUANT_IQ4_NL)

/* (d and minimum, negative, or d apart,) (32 high bits,) 16 bytes: low nibbles are weights 0-15, high nibbles 16-31. A part takes 8 bytes. */
const uvec4 QUADS = uvec4(0, 4, 16, 20);
uint part_first(uint p) { return p / 2 * 32 + p % 2 * 8; }

uvec4 quants(Row row, uint p)
{
    uint q = p / 2 * BLOCK_BYTES + BLOCK_BYTES - 16 + p % 2 * 8;
    const uvec2 w = words2(row, q);
    uvec4 n = uvec4(w, w >> 4) & 0x0f0f0f0f;
#if defined(QUANT_Q5_0) || defined(QUANT_Q5_1)
    uint high = word(row, q - p % 2 * 8 - 4), first = p % 2 * 8;
    n |= uvec4(spread4(high, first), spread4(high, first + 4), spread4(high, first + 16), spread4(high, first + 20)) << 4;
#endif
    return n;
}

#if defined(QUANT_IQ4_NL)
#define HAS_LEVELS
#elif defined(QUANT_Q4_0)
#define ZERO 8
#elif defined(QUANT_Q5_0)
#define ZERO 16
#endif

Scales scales(Row row, uint p)
{
#ifdef SCALES_APART
    return Scales(vec4(scale_of(row, p / 2)), vec4(0));
#else
    const vec2 d = unpackHalf2x16(word(row, p / 2 * BLOCK_BYTES));
    return Scales(d.xxxx, -d.yyyy);
#endif
}

#elif defined(QUANT_Q4_K) || defined(QUANT_Q5_K)

/* d, dmin, 12 bytes of 8 scales and 8 minimums of 6 bits, (32 bytes of high bits), 128 bytes: 4 chunks of 32 bytes, the low
   nibbles of chunk c are weights 64c.., the high ones 64c + 32... A part takes 8 bytes of a chunk. */
const uvec4 QUADS = uvec4(0, 4, 32, 36);
uint part_first(uint p) { return p / 4 * 64 + p % 4 * 8; }

uvec4 quants(Row row, uint p)
{
    uint block = p / PARTS * BLOCK_BYTES, q = block + BLOCK_BYTES - 128 + p % PARTS * 8;
    const uvec2 w = words2(row, q);
    uvec4 n = uvec4(w, w >> 4) & 0x0f0f0f0f;
#if defined(QUANT_Q5_K)
    const uvec2 high = words2(row, block + 16 + p % 4 * 8) >> p % PARTS / 4 * 2;
    n |= uvec4(high & 0x01010101, high >> 1 & 0x01010101) << 4;
#endif
    return n;
}

Scales scales(Row row, uint p)
{
    uint block = p / PARTS * BLOCK_BYTES, chunk = p % PARTS / 4;
    const uvec4 head = words4(row, block);
    vec2 d = unpackHalf2x16(head.x);
    /* scales of sub-blocks 2 chunk and 2 chunk + 1 in the bytes of one half word each */
    const uvec3 s = head.yzw >> chunk % 2 * 16;
    uint scales, minimums;
    if (chunk < 2) {
        scales = s.x & 0x3f3f;
        minimums = s.y & 0x3f3f;
    } else {
        scales = (s.z & 0x0f0f) | (s.x >> 2 & 0x3030);
        minimums = (s.z >> 4 & 0x0f0f) | (s.y >> 2 & 0x3030);
    }
    return Scales(d.x * vec2(scales & 0xff, scales >> 8).xxyy, d.y * vec2(minimums & 0xff, minimums >> 8).xxyy);
}

#elif defined(QUANT_Q6_K)

/* 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales; d apart. Half h of a block: weight l + 32 j (l < 32, j < 4) has
   its low nibble in byte 64h + 32 (j & 1) + l (low nibble for j < 2) and its high bits in byte 32h + l, bits 2j. */
#define ZERO 32
const uvec4 QUADS = uvec4(0, 32, 64, 96);
uint part_first(uint p) { return p / 8 * 128 + p % 8 * 4; }

uvec4 quants(Row row, uint p)
{
    uint block = p / PARTS * BLOCK_BYTES, h = p % PARTS / 8, l = p % 8 * 4;
    uint a = word(row, block + h * 64 + l), b = word(row, block + h * 64 + 32 + l);
    uint high = word(row, block + 128 + h * 32 + l);
    return uvec4((a & 0x0f0f0f0f) | (high << 4 & 0x30303030), (b & 0x0f0f0f0f) | (high << 2 & 0x30303030),
                 (a >> 4 & 0x0f0f0f0f) | (high & 0x30303030), (b >> 4 & 0x0f0f0f0f) | (high >> 2 & 0x30303030));
}

Scales scales(Row row, uint p)
{
    uint block = p / PARTS * BLOCK_BYTES, h = p % PARTS / 8;
    /* scale 8h + l / 16 + 2j: every second byte of 8 */
    const uvec2 s = words2(row, block + 192 + h * 8) >> p % 8 / 4 * 8;
    const float d = scale_of(row, p / PARTS);
    return Scales(d * vec4(int(s.x << 24) >> 24, int(s.x << 8) >> 24, int(s.y << 24) >> 24, int(s.y << 8) >> 24), vec4(0));
}

#elif defined(QUANT_Q3_K)

/* 32 bytes of high bits, 64 of bit pairs, 12 of 16 scales of 6 bits; d apart. Half h: weight l + 32 j has bits 2j of byte 32h + l
   and high bit 4h + j of byte l; a clear high bit takes 4 off. */
#define ZERO 4
const uvec4 QUADS = uvec4(0, 32, 64, 96);
uint part_first(uint p) { return p / 8 * 128 + p % 8 * 4; }

uvec4 quants(Row row, uint p)
{
    uint block = p / PARTS * BLOCK_BYTES, h = p % PARTS / 8, l = p % 8 * 4;
    uint q = word(row, block + 32 + h * 32 + l), high = word(row, block + l) >> h * 4;
    const uvec4 shift = uvec4(0, 1, 2, 3);
    return (uvec4(q) >> shift * 2 & 0x03030303) | (uvec4(high) >> shift & 0x01010101) << 2;
}

Scales scales(Row row, uint p)
{
    uint block = p / PARTS * BLOCK_BYTES, h = p % PARTS / 8;
    /* scales: 16 low nibbles in 8 bytes (first 8 low, last 8 high), 16 high pairs in the next 4; ours are 8h + l / 16 + 2j */
    const uvec2 low = words2(row, block + 96) >> h * 4;
    const uint top = word(row, block + 104) >> h * 4, shift = p % 8 / 4 * 8;
    uvec2 six = (low & 0x0f0f0f0f | uvec2(top << 4, top << 2) & 0x30303030) >> shift;
    const float d = scale_of(row, p / PARTS);
    return Scales(d * (vec4(six.x & 0xff, six.x >> 16 & 0xff, six.y & 0xff, six.y >> 16 & 0xff) - 32), vec4(0));
}

#elif defined(QUANT_Q2_K)

/* 16 bytes of scale (low nibble) and minimum (high), 64 of bit pairs as in Q3_K, d, dmin. */
const uvec4 QUADS = uvec4(0, 32, 64, 96);
uint part_first(uint p) { return p / 8 * 128 + p % 8 * 4; }

uvec4 quants(Row row, uint p)
{
    uint q = word(row, p / PARTS * BLOCK_BYTES + 16 + p % PARTS / 8 * 32 + p % 8 * 4);
    return uvec4(q) >> uvec4(0, 2, 4, 6) & 0x03030303;
}

Scales scales(Row row, uint p)
{
    uint block = p / PARTS * BLOCK_BYTES, h = p % PARTS / 8, shift = p % 8 / 4 * 8;
    vec2 d = unpackHalf2x16(word(row, block + 80));
    const uvec2 s = words2(row, block + h * 8) >> shift;
    uvec4 each = uvec4(s.x, s.x >> 16, s.y, s.y >> 16);
    return Scales(d.x * vec4(each & 0xf), d.y * vec4(each >> 4 & 0xf));
}

#elif defined(QUANT_IQ4_XS)

/* d, 8 high pairs of scales in 16 bits, 8 low nibbles in 4 bytes, 128 bytes: 8 sub-blocks laid out as in IQ4_NL. */
#define HAS_LEVELS
const uvec4 QUADS = uvec4(0, 4, 16, 20);
uint part_first(uint p) { return p / 2 * 32 + p % 2 * 8; }

uvec4 quants(Row row, uint p)
{
    uint q = p / PARTS * BLOCK_BYTES + 8 + p % PARTS * 8;
    const uvec2 w = words2(row, q);
    return uvec4(w, w >> 4) & 0x0f0f0f0f;
}

Scales scales(Row row, uint p)
{
    uint block = p / PARTS * BLOCK_BYTES, sub = p % PARTS / 2;
    const uvec2 head = words2(row, block);
    const uint low = head.y >> sub * 4 & 0xf, high = head.x >> (16 + sub * 2) & 3;
    return Scales(vec4(unpackHalf2x16(head.x).x * (float(low | high << 4) - 32)), vec4(0));
}

#endif

mat4 part(Row row, uint p)
{
    const uvec4 q = quants(row, p);
    const Scales s = scales(row, p);
    mat4 m;
    [[unroll]] for (uint j = 0; j < 4; j++)
#if defined(HAS_LEVELS)
        m[j] = s.scale[j] * levels4(q[j]);
#elif defined(IS_SIGNED)
        m[j] = s.scale[j] * signed_bytes4(q[j]);
#elif defined(ZERO)
        m[j] = s.scale[j] * bytes4(q[j]) - ZERO * s.scale[j]; /* both products are exact */
#else
        m[j] = s.scale[j] * bytes4(q[j]) - s.minimum[j];
#endif
    return m;
}

#endif
