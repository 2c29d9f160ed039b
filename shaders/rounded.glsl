/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of quantized weights with activations that quantize.comp has rounded to 8 bits, in whole numbers: 4 products of
 * bytes and their sum are one instruction where the hardware has it. The unit of work is what RUNS in quant.glsl says: 32
 * or 64 weights in runs of 16, whose scales are looked up once. A row of n weights has n / UNIT units.
 */
#extension GL_EXT_spirv_intrinsics : require

#define UNIT (RUNS * 16)
#define RUNS_OF_SCALE (RUNS / SCALES) /* whose x lies in one block of ROUNDED_BLOCK */

layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Runs { uvec4 at[]; };

/* OpSDot, both words 4 signed bytes: glslang has a name for it since 15.2 only */
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6019, 6018], id = 4450)
int packed_dot(uint a, uint b, spirv_literal int format);

int dot16(uvec4 a, uvec4 b)
{
    return packed_dot(a.x, b.x, 0) + packed_dot(a.y, b.y, 0) + packed_dot(a.z, b.z, 0) + packed_dot(a.w, b.w, 0);
}

struct WeightUnit {
    uvec4 runs[RUNS];
    vec2 scales[SCALES]; /* scale and minimum */
};

WeightUnit weight_unit(Row row, uint u)
{
    WeightUnit w;
    const Scales all = scales(row, RUNS * u);
    [[unroll]] for (uint s = 0; s < SCALES; s++)
        w.scales[s] = vec2(all.scale[s * (4 / SCALES)], all.minimum[s * (4 / SCALES)]);
    [[unroll]] for (uint i = 0; i < RUNS; i++) {
        const uvec4 q = quants(row, RUNS * u + i);
        [[unroll]] for (uint j = 0; j < 4; j++) {
            const uint at = part_first(i) + QUADS[j];
#if defined(HAS_LEVELS)
            w.runs[at / RUN_STRIDE][at % RUN_STRIDE / 4] = packed_levels4(q[j]);
#else
            w.runs[at / RUN_STRIDE][at % RUN_STRIDE / 4] = q[j];
#endif
        }
    }
    return w;
}

/* The same of x. */
struct RoundedUnit {
    uvec4 runs[RUNS];
    uvec2 scales[SCALES]; /* what a step is worth (f32), and what belongs to ZERO (i32) or the minimum (f32) */
};

/* x: a row of rounded activations. */
RoundedUnit rounded_unit(uvec2 x, uint u, uint cols)
{
    RoundedUnit r;
    const uint first = part_first(RUNS * u) / 16;
    [[unroll]] for (uint j = 0; j < RUNS; j++)
        r.runs[j] = Runs(x).at[first + j * (RUN_STRIDE / 16)];
    Vec2Words blocks = Vec2Words(address_add(x, cols));
    [[unroll]] for (uint s = 0; s < SCALES; s++) {
        const uint run = first + s * RUNS_OF_SCALE * (RUN_STRIDE / 16);
        const uvec2 block = blocks.at[run / 2];
        const int low = int(block.y << 16) >> 16, high = int(block.y) >> 16;
        const int sum = RUNS_OF_SCALE == 2 ? low + high : run % 2 == 0 ? low : high;
#if defined(ZERO)
        r.scales[s] = uvec2(block.x, -ZERO * sum);
#else
        r.scales[s] = uvec2(block.x, floatBitsToUint(uintBitsToFloat(block.x) * float(sum)));
#endif
    }
    return r;
}

/* The sum over the weights that share a scale. */
float scaled_product(uvec4 w[RUNS_OF_SCALE], vec2 w_scale, uvec4 x[RUNS_OF_SCALE], uvec2 x_scale)
{
#if defined(ZERO)
    int sum = int(x_scale.y);
#else
    int sum = 0;
#endif
    [[unroll]] for (uint k = 0; k < RUNS_OF_SCALE; k++)
        sum += dot16(w[k], x[k]);
    const float product = uintBitsToFloat(x_scale.x) * (w_scale.x * float(sum));
#if defined(HAS_LEVELS) || defined(IS_SIGNED) || defined(ZERO)
    return product;
#else
    return product - w_scale.y * uintBitsToFloat(x_scale.y);
#endif
}

/* The sums over each scale's weights. */
vec4 unit_products(WeightUnit w, RoundedUnit x)
{
    vec4 products = vec4(0);
    [[unroll]] for (uint s = 0; s < SCALES; s++) {
        uvec4 ws[RUNS_OF_SCALE], xs[RUNS_OF_SCALE];
        [[unroll]] for (uint k = 0; k < RUNS_OF_SCALE; k++) {
            ws[k] = w.runs[s * RUNS_OF_SCALE + k];
            xs[k] = x.runs[s * RUNS_OF_SCALE + k];
        }
        products[s] = scaled_product(ws, w.scales[s], xs, x.scales[s]);
    }
    return products;
}
