#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the experts of a layer have to do, from the routers' choice: first[e] = pairs of experts before e; for each of the
 * three products a list of tiles, (expert, first index into the sorted pairs) for every tile_columns pairs of an expert,
 * none for experts without any; and its workgroups, as the tiles of rows are known. One workgroup of 256: a histogram, then prefix sums
 * with a thread an expert. Whole numbers, so the order of the atomics does not matter. Bound by latency.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 256) in;
layout(push_constant) uniform Args { schedule_args a; };

shared uint counts[256];
shared uvec4 before[256]; /* of the experts up to this one: pairs, tiles of gate, up, down */

void main()
{
    const uint e = gl_LocalInvocationID.x;
    counts[e] = 0;
    barrier();
    Words ids = Words(a.ids);
    for (uint i = e; i < a.n_pairs; i += 256)
        if (ids.at[i] < a.n_experts)
            atomicAdd(counts[ids.at[i]], 1);
    barrier();

    const uint count = counts[e];
    const uvec3 columns = uvec3(a.tile_columns[0], a.tile_columns[1], a.tile_columns[2]);
    const uvec3 n_tiles = (count + columns - 1) / columns;
    uvec4 sum = uvec4(count, n_tiles);
    before[e] = sum;
    barrier();
    for (uint step = 1; step < 256; step *= 2) {
        const uvec4 left = e >= step ? before[e - step] : uvec4(0);
        barrier();
        sum += left;
        before[e] = sum;
        barrier();
    }

    WordsOut first = WordsOut(a.first);
    if (e < a.n_experts)
        first.at[e + 1] = sum.x;
    if (e == 0)
        first.at[0] = 0;
    Vec2WordsOut tiles = Vec2WordsOut(a.tiles);
    for (uint m = 0; m < 3; m++)
        for (uint t = 0; t < n_tiles[m]; t++)
            tiles.at[m * a.max_tiles + sum[1 + m] - n_tiles[m] + t] = uvec2(e, sum.x - count + t * columns[m]);
    WordsOut grids = WordsOut(a.grids);
    if (e < 3) {
        grids.at[4 * e] = before[255][1 + e];
        grids.at[4 * e + 1] = a.row_tiles[e];
        grids.at[4 * e + 2] = 1;
        grids.at[4 * e + 3] = 0;
    }
}
