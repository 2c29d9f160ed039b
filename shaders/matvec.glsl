/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of quantized weights times one vector: what matvec and the fused kernels of a single token share. 64 threads, LANES of
 * them share a row; a thread works on ROWS rows at once so that what it reads of x serves them all; lane l takes parts l,
 * l + LANES, ... of 16 weights. The lanes' sums are added in order, so equal runs give equal bits.
 */
#include "quant.glsl"

layout(local_size_x = 64) in;
layout(constant_id = CONSTANT_LANES) const uint LANES = 32;
layout(constant_id = CONSTANT_IS_NORMED) const bool IS_NORMED = false;

#ifndef ROWS
#define ROWS 2
#endif

#define GROUP_ROWS (64 / LANES * ROWS) /* of a workgroup */

uint lane() { return gl_LocalInvocationID.x % LANES; }

/* The first of this thread's rows, counted from those of workgroup `group`. */
uint first_row_of(uint group) { return group * GROUP_ROWS + gl_LocalInvocationID.x / LANES * ROWS; }

/* Part p of x, as the parts of weights lie. */
mat4 part_of(Quads x, uint p)
{
    mat4 m;
    [[unroll]] for (uint j = 0; j < 4; j++)
        m[j] = x.at[(part_first(p) + QUADS[j]) / 4];
    return m;
}

vec4 products(mat4 w, mat4 x) { return w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3]; }

/* This thread's rows of the (n_rows, cols) matrix w. Rows beyond the last one read the last one again. */
void find_rows(out Row rows[ROWS], uvec2 w, uint first_row, uint n_rows, uint cols)
{
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        rows[r] = row_of(w, min(first_row + r, n_rows - 1), cols);
}

/* sums += factor * rows * x, this lane's parts of it */
void add_products(inout vec4 sums[ROWS], Row rows[ROWS], Quads x, float factor, uint cols)
{
    for (uint p = lane(); p < cols / 16; p += LANES) {
        const mat4 xs = factor * part_of(x, p);
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            sums[r] += products(part(rows[r], p), xs);
    }
}

shared float lane_values[64 * (ROWS + 1)];

void leave_lane_value(uint slot, vec4 v) { lane_values[slot * 64 + gl_LocalInvocationID.x] = v.x + v.y + v.z + v.w; }

/* Every thread leaves its sums; after a barrier the first lane of each row asks for sum_of_lanes(0) to (ROWS - 1). */
void leave_sums(vec4 sums[ROWS])
{
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        leave_lane_value(r, sums[r]);
}

float sum_of_lanes(uint slot)
{
    const uint first = slot * 64 + gl_LocalInvocationID.x - lane();
    float sum = lane_values[first];
    for (uint l = 1; l < LANES; l++)
        sum += lane_values[first + l];
    return sum;
}

/*
 * The same for rows * norm(x), norm(x) = x / rms(x) * norm: the factor 1 / rms(x) is common to all columns and the lanes of a
 * row see all of x on their way, so the sums of w * x * norm and of x^2 come from one reading of x. After the barrier
 * sum_of_lanes(r) * norm_factor() is the result.
 */
void leave_normed_sums(Row rows[ROWS], Quads x, Quads norm, uint cols)
{
    vec4 sums[ROWS], squares = vec4(0);
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        sums[r] = vec4(0);
    for (uint p = lane(); p < cols / 16; p += LANES) {
        mat4 xs = part_of(x, p);
        if (!IS_NORMED) {
            squares += products(xs, xs);
            xs = matrixCompMult(xs, part_of(norm, p));
        }
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            sums[r] += products(part(rows[r], p), xs);
    }
    leave_sums(sums);
    if (!IS_NORMED)
        leave_lane_value(ROWS, squares);
}

float norm_factor(uint cols, float eps) { return IS_NORMED ? 1 : 1 / sqrt(sum_of_lanes(ROWS) / float(cols) + eps); }
