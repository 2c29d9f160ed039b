/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all kernels of attention share. A "row" is one query: one head of one token. Rows that share a KV head are packed:
 * row = token * (n_heads / n_kv_heads) + head in its group. Workgroup (x, y) has the tile of rows first_tile + x of KV head y.
 * Include it behind the push constants, `a`.
 */
#include "kv.glsl"

const float LOWEST = -3.0e38; /* for the maximum of no scores: finite, so that LOWEST - LOWEST is 0 */

uint kv_head() { return gl_WorkGroupID.y; }
uint group() { return a.n_heads / a.n_kv_heads; }

/* Of (n_tokens, n_heads), where the row is. */
uint head_of(uint row) { return row / group() * a.n_heads + kv_head() * group() + row % group(); }

/* Positions from `first` to `end` - 1. */
struct Range {
    uint first, end;
};

/* What the row sees. */
Range seen_by(uint row, uint n_past)
{
    const uint end = n_past + row / group() + 1;
    return Range(end - min(end, a.window), end);
}

/* A tile's rows, and what any of them sees. */
struct Tile {
    uint first_row, n_rows;
    Range seen;
};

uint tile_index() { return a.first_tile + gl_WorkGroupID.x; }

Tile tile_of(uint rows, step s)
{
    const uint first = tile_index() * rows, n = min(rows, s.n_tokens * group() - first);
    return Tile(first, n, Range(seen_by(first, s.n_past).first, seen_by(first + n - 1, s.n_past).end));
}
