/* SPDX-License-Identifier: Apache-2.0 */
/* Sums over a workgroup of 64, right for every subgroup size from 4 to 128. All threads call, all get the result. */
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require

shared float reduce_partial[16];

float workgroup_sum(float v)
{
    v = subgroupAdd(v);
    barrier(); /* an earlier call's readers are done */
    if (subgroupElect())
        reduce_partial[gl_SubgroupID] = v;
    barrier();
    float sum = 0;
    for (uint i = 0; i < gl_NumSubgroups; i++)
        sum += reduce_partial[i];
    return sum;
}
