/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of quantized weights times rows of activations, STEP columns at a time: a part of 16 weights and as many fp32, or with
 * ROUNDED a unit of rounded.glsl and activations rounded to 8 bits.
 *   weights_of(row, s)     step s of a row of weights
 *   x_of(x, s, cols)       the same of a row of activations, which are X_ROW_BYTES(cols) apart
 *   products(w, x)         four sums of their products, which are to be added up
 */
#include "quant.glsl"

#ifdef ROUNDED
#include "rounded.glsl"

#define STEP UNIT
#define X_ROW_BYTES(cols) (ROUNDED_WORDS(cols) * 4)
#define W WeightUnit
#define X RoundedUnit

W weights_of(Row row, uint s) { return weight_unit(row, s); }

X x_of(uvec2 x, uint s, uint cols) { return rounded_unit(x, s, cols); }

vec4 products(W w, X x) { return unit_products(w, x); }

#else

#define STEP 16
#define X_ROW_BYTES(cols) ((cols) * 4)
#define W mat4
#define X mat4

W weights_of(Row row, uint s) { return part(row, s); }

X x_of(uvec2 x, uint s, uint cols)
{
    mat4 m;
    [[unroll]] for (uint j = 0; j < 4; j++)
        m[j] = Quads(x).at[(part_first(s) + QUADS[j]) / 4];
    return m;
}

vec4 products(W w, X x) { return w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3]; }

#endif
