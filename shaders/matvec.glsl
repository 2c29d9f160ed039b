/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of quantized weights times one vector: what matvec and the fused kernels of a single token share. 64 threads, LANES of
 * them share a row; a thread works on ROWS rows at once so that what it reads of x serves them all; lane l takes steps l,
 * l + LANES, ... of products.glsl. The lanes' sums are added in order, so equal runs give equal bits.
 */
#include "products.glsl"

layout(local_size_x = 64) in;
layout(constant_id = CONSTANT_LANES) const uint LANES = 32;
#ifdef ROUNDED
const bool IS_NORMED = true;
#else
layout(constant_id = CONSTANT_IS_NORMED) const bool IS_NORMED = false;
#endif

#ifndef ROWS
#define ROWS 2
#endif

#define GROUP_ROWS (64 / LANES * ROWS) /* of a workgroup */

uint lane() { return gl_LocalInvocationID.x % LANES; }

/* The first of this thread's rows, counted from those of workgroup `group`. */
uint first_row_of(uint group) { return group * GROUP_ROWS + gl_LocalInvocationID.x / LANES * ROWS; }

/* This thread's rows of the (n_rows, cols) matrix w. Rows beyond the last one read the last one again. */
void find_rows(out Row rows[ROWS], uvec2 w, uint first_row, uint n_rows, uint cols)
{
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        rows[r] = row_of(w, min(first_row + r, n_rows - 1), n_rows, cols);
}

/* sums += factor * rows * x, this lane's share of it */
void add_products(inout vec4 sums[ROWS], Row rows[ROWS], uvec2 x, float factor, uint cols)
{
    for (uint p = lane(); p < cols / STEP; p += LANES) {
        const X xs = x_of(x, p, cols);
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            sums[r] += factor * products(weights_of(rows[r], p), xs);
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
 * sum_of_lanes(r) * norm_factor() is the result. What was rounded is normed already.
 */
void leave_normed_sums(Row rows[ROWS], uvec2 x, uvec2 norm, uint cols)
{
    vec4 sums[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        sums[r] = vec4(0);
#ifdef ROUNDED
    add_products(sums, rows, x, 1, cols);
#else
    vec4 squares = vec4(0);
    for (uint p = lane(); p < cols / STEP; p += LANES) {
        X xs = x_of(x, p, cols);
        if (!IS_NORMED) {
            squares += products(xs, xs);
            xs = matrixCompMult(xs, x_of(norm, p, cols));
        }
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            sums[r] += products(weights_of(rows[r], p), xs);
    }
    if (!IS_NORMED)
        leave_lane_value(ROWS, squares);
#endif
    leave_sums(sums);
}

float norm_factor(uint cols, float eps) { return IS_NORMED ? 1 : 1 / sqrt(sum_of_lanes(ROWS) / float(cols) + eps); }
