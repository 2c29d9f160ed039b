/* SPDX-License-Identifier: Apache-2.0 */
/* What every kernel begins with: addresses, typed views of memory, halves. */
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference_uvec2 : require
#extension GL_EXT_control_flow_attributes : require

#define SCORIA_GLSL
#include "args.h"

layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer Words { uint at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer WordsOut { uint at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer Floats { float at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer FloatsOut { float at[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Quads { vec4 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) buffer QuadsOut { vec4 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 8) readonly buffer Addresses { uvec2 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 8) readonly buffer Vec2s { vec2 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 8) buffer Vec2sOut { vec2 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 8) readonly buffer Vec2Words { uvec2 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer QuadWords { uvec4 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 8) buffer Vec2WordsOut { uvec2 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Step { step s; };

uvec2 address_add(uvec2 base, uint bytes)
{
    uint carry;
    uint low = uaddCarry(base.x, bytes, carry);
    return uvec2(low, base.y + carry);
}

/* The number of a workgroup in a row of more than a dimension may hold: ops.c spreads it over x and z. */
uint linear_workgroup() { return gl_WorkGroupID.z * gl_NumWorkGroups.x + gl_WorkGroupID.x; }

bool address_is_null(uvec2 a) { return (a.x | a.y) == 0; }

/* Of magnitudes, as bits: their order is the values', with NaN on top, which max() of floats may lose. */
uvec2 magnitude_bits(vec2 v) { return floatBitsToUint(v) & 0x7fffffffu; }
uvec4 magnitude_bits(vec4 v) { return floatBitsToUint(v) & 0x7fffffffu; }
