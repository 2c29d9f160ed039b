/* SPDX-License-Identifier: Apache-2.0 */
/* What kernels on matrix units round activations and weights to. */
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require

f16vec4 halves(vec4 v) { return f16vec4(clamp(v, vec4(-65504), vec4(65504))); }
