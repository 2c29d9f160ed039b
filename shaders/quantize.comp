#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * y = x, or norm(x) = x / sqrt(mean(x^2) + eps) * norm, rounded to 8 bits: each block of 32 to whole multiples of a 127th of
 * its largest. A block that holds NaN has a step of NaN, and so has all that is multiplied with it. Workgroup (row, 256
 * columns), a quad a thread; each sums up the squares of the whole row, which costs less than waiting for one that does.
 * Bound by latency.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "reduce.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { quantize_args a; };

const uint QUADS_OF_BLOCK = ROUNDED_BLOCK / 4;
const float LEAST = 1e-35; /* of a block's largest: its reciprocal must be a number, and what is below it is 0 */

shared uint largest[64]; /* magnitude_bits */
shared int sums[64];

void main()
{
    const uint row = linear_workgroup(), tid = gl_LocalInvocationID.x, n = a.cols / 4;
    if (row >= a.rows)
        return;
    Quads x = Quads(address_add(a.x, row * a.cols * 4));
    const uint quad = gl_WorkGroupID.y * 64 + tid;
    vec4 v = quad < n ? x.at[quad] : vec4(0);
    if (!address_is_null(a.norm)) {
        float squares = 0;
        for (uint i = tid; i < n; i += 64)
            squares += dot(x.at[i], x.at[i]);
        const float factor = 1 / sqrt(workgroup_sum(squares) / float(a.cols) + a.eps);
        if (quad < n)
            v *= factor * Quads(a.norm).at[quad];
    }

    const uvec4 size = magnitude_bits(v);
    largest[tid] = max(max(size.x, size.y), max(size.z, size.w));
    barrier();
    const uint first = tid / QUADS_OF_BLOCK * QUADS_OF_BLOCK; /* thread of the block */
    uint most_bits = 0;
    for (uint i = 0; i < QUADS_OF_BLOCK; i++)
        most_bits = max(most_bits, largest[first + i]);
    const float most = uintBitsToFloat(most_bits);
    const ivec4 q = ivec4(roundEven(v * (most > LEAST ? 127 / most : 0)));
    sums[tid] = q.x + q.y + q.z + q.w;
    barrier();
    if (quad >= n)
        return;

    const uvec2 y = address_add(a.y, row * ROUNDED_WORDS(a.cols) * 4);
    WordsOut(y).at[quad] = (q.x & 0xff) | (q.y & 0xff) << 8 | (q.z & 0xff) << 16 | q.w << 24;
    if (tid == first) {
        const int low = sums[first] + sums[first + 1] + sums[first + 2] + sums[first + 3],
                  high = sums[first + 4] + sums[first + 5] + sums[first + 6] + sums[first + 7];
        Vec2WordsOut(address_add(y, a.cols)).at[quad / QUADS_OF_BLOCK] =
            uvec2(floatBitsToUint(most / 127), (low & 0xffff) | high << 16);
    }
}
