/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu_timer.h"

#include "clock.h"

enum { MAX_FAMILIES = 32 };

static const double LEAST_SECONDS = 1e-9;

bool gpu_timer_init(struct gpu_timer *t, struct gpu *gpu, struct sc_error *e)
{
    VkQueueFamilyProperties families[MAX_FAMILIES];
    VkPhysicalDeviceProperties properties;
    uint32_t n = MAX_FAMILIES;
    vkGetPhysicalDeviceQueueFamilyProperties(gpu->physical, &n, families);
    vkGetPhysicalDeviceProperties(gpu->physical, &properties);
    const uint32_t bits = gpu->compute.family < n ? families[gpu->compute.family].timestampValidBits : 0;
    *t = (struct gpu_timer){
        .gpu = gpu,
        .pace = {.gpu = gpu},
        .seconds_per_tick = 1e-9 * (double)properties.limits.timestampPeriod,
        .mask = bits < 64 ? ((uint64_t)1 << bits) - 1 : UINT64_MAX,
    };
    if (bits == 0 || !(t->seconds_per_tick > 0))
        return true;
    const VkQueryPoolCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO, .queryType = VK_QUERY_TYPE_TIMESTAMP, .queryCount = 2};
    return gpu_check(gpu, gpu->vk.vkCreateQueryPool(gpu->device, &info, NULL, &t->pool), "create timestamps", e);
}

void gpu_timer_finish(struct gpu_timer *t)
{
    if (t->pool)
        t->gpu->vk.vkDestroyQueryPool(t->gpu->device, t->pool, NULL);
    *t = (struct gpu_timer){0};
}

static void mark(struct gpu_timer *t, struct commands *c, uint32_t query)
{
    commands_barrier(c);
    if (t->pool && !c->error.code)
        t->gpu->vk.vkCmdWriteTimestamp(c->buffer, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, t->pool, query);
}

void gpu_timer_start(struct gpu_timer *t, struct commands *c)
{
    if (t->pool && !c->error.code)
        t->gpu->vk.vkCmdResetQueryPool(c->buffer, t->pool, 0, 2);
    mark(t, c, 0);
}

void gpu_timer_stop(struct gpu_timer *t, struct commands *c)
{
    mark(t, c, 1);
}

bool gpu_timer_run(struct gpu_timer *t, struct commands *c, double *seconds, struct sc_error *e)
{
    uint64_t value = 0, ticks[2];
    if (!commands_end(c, e))
        return false;
    pace_begin(&t->pace, &c, 1, 1);
    const double start = clock_seconds();
    if (!pace_submit(&t->pace, &c, 1, &value, e) || !pace_wait(&t->pace, e))
        return false;
    *seconds = clock_seconds() - start;
    if (t->pool) {
        const VkResult result = t->gpu->vk.vkGetQueryPoolResults(t->gpu->device, t->pool, 0, 2, sizeof(ticks), ticks,
                                                                 sizeof(ticks[0]), VK_QUERY_RESULT_64_BIT);
        if (!gpu_check(t->gpu, result, "read timestamps", e))
            return false;
        *seconds = (double)((ticks[1] - ticks[0]) & t->mask) * t->seconds_per_tick;
    }
    if (*seconds < LEAST_SECONDS)
        *seconds = LEAST_SECONDS;
    return true;
}
