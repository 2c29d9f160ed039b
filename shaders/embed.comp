#version 450
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * y[t] = row tokens[t] of w, expanded; NO_TOKEN is the token that top_k found best. Workgroup (x, t) takes 64 parts of 16 values of the row, a thread one. Bound by
 * memory; reads one row a token.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "quant.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Args { embed_args a; };

void main()
{
    const uint p = gl_GlobalInvocationID.x, t = gl_WorkGroupID.y;
    if (p * 16 >= a.cols)
        return;
    uint token = Words(a.tokens).at[t];
    if (token == NO_TOKEN)
        token = min(Words(a.best).at[0], a.n_vocab - 1); /* the host has not seen it */
    Row row = row_of(a.w, token, a.n_vocab, a.cols);
    const mat4 values = part(row, p);
    FloatsOut y = FloatsOut(a.y);
    const uint first = t * a.cols + part_first(p);
    [[unroll]] for (uint j = 0; j < 4; j++)
        [[unroll]] for (uint i = 0; i < 4; i++)
            y.at[first + QUADS[j] + i] = values[j][i];
}
