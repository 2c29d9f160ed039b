#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * y = x / sqrt(mean(x^2) + eps) * w (Zhang and Sennrich 2019). A workgroup a token. Bound by latency: reads x twice, the
 * second time from cache.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "reduce.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { rms_norm_args a; };

void main()
{
    const uint tid = gl_LocalInvocationID.x, first = gl_WorkGroupID.x * a.cols;
    Floats x = Floats(a.x), w = Floats(a.w);
    float sum = 0;
    for (uint i = tid; i < a.cols; i += 64)
        sum += x.at[first + i] * x.at[first + i];
    const float scale = 1 / sqrt(workgroup_sum(sum) / float(a.cols) + a.eps);
    FloatsOut y = FloatsOut(a.y);
    for (uint i = tid; i < a.cols; i += 64)
        y.at[first + i] = x.at[first + i] * scale * w.at[i];
}
