/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all products of a matrix with many columns share: which matrix and which columns a workgroup's tile is made of. A
 * kernel declares `layout(push_constant) uniform Args { matmul_args a; };` first.
 */

struct Tile {
    uvec2 w;  /* the matrix; null: it is not in this pass */
    uint first, n; /* its columns: of all, or of the sorted pairs */
};

/* Workgroup x's tile of at most so many columns. */
Tile tile_of(uint columns)
{
    const uint x = gl_WorkGroupID.x;
    if (address_is_null(a.experts))
        return Tile(a.w, x * columns, min(columns, a.n - x * columns));
    const uvec2 tile = Vec2Words(a.tiles).at[x];
    uvec2 w = Addresses(a.experts).at[tile.x];
    if (!address_is_null(w))
        w = address_add(w, a.w_offset);
    return Tile(w, tile.y, min(columns, Words(a.first).at[tile.x + 1] - tile.y));
}

uint row_tile() { return gl_WorkGroupID.y + a.first_row_tile; }

/* Which i column c of the tile is; columns beyond its last one repeat it. */
uint tile_column(Tile t, uint c)
{
    const uint column = t.first + min(c, t.n - 1);
    return address_is_null(a.experts) ? column : Words(a.pairs).at[column];
}
