/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu.h"

#include <string.h>

enum { MAX_STREAMS = 512, MAX_GROUPS = 65535 };

bool commands_init(struct commands *c, struct gpu *gpu, struct sc_error *e)
{
    memset(c, 0, sizeof(*c));
    c->gpu = gpu;
    VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                    .queueFamilyIndex = gpu->queue_family};
    if (!gpu_check(gpu, gpu->vk.vkCreateCommandPool(gpu->device, &pool, NULL, &c->pool), "create a command pool", e))
        return false;
    VkCommandBufferAllocateInfo buffer = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
        .commandPool = c->pool,
        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
        .commandBufferCount = 1,
    };
    if (!gpu_check(gpu, gpu->vk.vkAllocateCommandBuffers(gpu->device, &buffer, &c->buffer), "create a command buffer",
                   e)) {
        commands_finish(c);
        return false;
    }
    return true;
}

void commands_finish(struct commands *c)
{
    if (c->pool)
        c->gpu->vk.vkDestroyCommandPool(c->gpu->device, c->pool, NULL);
    memset(c, 0, sizeof(*c));
}

/* One global barrier: everything before, made visible to everything after. */
static void barrier(struct commands *c)
{
    const VkPipelineStageFlags stages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
    VkMemoryBarrier memory = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
        .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT,
        .dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_READ_BIT |
                         VK_ACCESS_TRANSFER_WRITE_BIT,
    };
    c->gpu->vk.vkCmdPipelineBarrier(c->buffer, stages, stages, 0, 1, &memory, 0, NULL, 0, NULL);
    c->n_pending = 0;
    c->n_barriers++;
}

void commands_begin(struct commands *c, bool replayed)
{
    struct gpu *gpu = c->gpu;
    c->error = (struct sc_error){0};
    c->n_dispatches = c->n_barriers = 0;
    VkCommandBufferBeginInfo begin = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
        .flags = replayed ? 0 : VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT,
    };
    if (!gpu_check(gpu, gpu->vk.vkResetCommandPool(gpu->device, c->pool, 0), "reset commands", &c->error) ||
        !gpu_check(gpu, gpu->vk.vkBeginCommandBuffer(c->buffer, &begin), "record commands", &c->error))
        return;
    barrier(c);
    c->n_barriers = 0; /* what is counted is hazards within the stream */
}

static bool conflicts(const struct access *a, const struct access *b)
{
    return (a->write || b->write) && a->address < b->address + b->size_bytes && b->address < a->address + a->size_bytes;
}

/* Separates the coming accesses from earlier ones where they conflict, and remembers them. */
static void order(struct commands *c, const struct access *accesses, uint32_t n)
{
    bool hazard = c->n_pending + n > COMMANDS_MAX_PENDING;
    for (uint32_t i = 0; i < n && !hazard; i++)
        for (uint32_t j = 0; j < c->n_pending && !hazard; j++)
            hazard = conflicts(&accesses[i], &c->pending[j]);
    if (hazard)
        barrier(c);
    for (uint32_t i = 0; i < n; i++)
        if (accesses[i].address && accesses[i].size_bytes)
            c->pending[c->n_pending++] = accesses[i];
}

void commands_dispatch(struct commands *c, enum kernel kernel, const void *args, const struct access *accesses,
                       uint32_t n_accesses, uint32_t x, uint32_t y, uint32_t z)
{
    struct gpu *gpu = c->gpu;
    if (c->error.code || x == 0 || y == 0 || z == 0 || !gpu_prepare_kernel(gpu, kernel, &c->error))
        return;
    if (x > MAX_GROUPS || y > MAX_GROUPS || z > MAX_GROUPS) {
        sc_fail(&c->error, SC_UNSUPPORTED, "the kernel %s would take more workgroups than every device has",
                kernel_infos[kernel].name);
        return;
    }
    order(c, accesses, n_accesses);
    gpu->vk.vkCmdBindPipeline(c->buffer, VK_PIPELINE_BIND_POINT_COMPUTE, gpu->pipelines[kernel]);
    gpu->vk.vkCmdPushConstants(c->buffer, gpu->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                               kernel_infos[kernel].args_size_bytes, args);
    gpu->vk.vkCmdDispatch(c->buffer, x, y, z);
    c->n_dispatches++;
}

void commands_copy(struct commands *c, const struct buffer *from, uint64_t from_offset, const struct buffer *to,
                   uint64_t to_offset, uint64_t size_bytes)
{
    if (c->error.code || size_bytes == 0)
        return;
    const struct access accesses[] = {
        {.address = from->address + from_offset, .size_bytes = size_bytes},
        {.address = to->address + to_offset, .size_bytes = size_bytes, .write = true},
    };
    order(c, accesses, 2);
    VkBufferCopy region = {.srcOffset = from_offset, .dstOffset = to_offset, .size = size_bytes};
    c->gpu->vk.vkCmdCopyBuffer(c->buffer, from->handle, to->handle, 1, &region);
}

bool commands_end(struct commands *c, struct sc_error *e)
{
    if (!c->error.code) {
        /* results in host-visible memory become visible to the host once the submit is waited for */
        VkMemoryBarrier memory = {
            .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
            .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT,
            .dstAccessMask = VK_ACCESS_HOST_READ_BIT,
        };
        c->gpu->vk.vkCmdPipelineBarrier(c->buffer,
                                        VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT,
                                        VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &memory, 0, NULL, 0, NULL);
        const VkResult result = c->gpu->vk.vkEndCommandBuffer(c->buffer);
        if (gpu_check(c->gpu, result, "finish recording", &c->error))
            return true;
    }
    return sc_fail(e, c->error.code, "%s", c->error.text);
}

bool gpu_submit(struct gpu *gpu, struct commands *const *streams, uint32_t n_streams, uint64_t *value,
                struct sc_error *e)
{
    VkCommandBuffer buffers[MAX_STREAMS];
    if (n_streams > MAX_STREAMS)
        return sc_fail(e, SC_UNSUPPORTED, "a model of more than %d layers", MAX_STREAMS - 1);
    for (uint32_t i = 0; i < n_streams; i++)
        buffers[i] = streams[i]->buffer;

    const uint64_t next = gpu->n_submits + 1;
    VkTimelineSemaphoreSubmitInfo timeline = {
        .sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
        .signalSemaphoreValueCount = 1,
        .pSignalSemaphoreValues = &next,
    };
    VkSubmitInfo submit = {
        .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
        .pNext = &timeline,
        .commandBufferCount = n_streams,
        .pCommandBuffers = buffers,
        .signalSemaphoreCount = 1,
        .pSignalSemaphores = &gpu->timeline,
    };
    if (!gpu_check(gpu, gpu->vk.vkQueueSubmit(gpu->queue, 1, &submit, VK_NULL_HANDLE), "run a step", e))
        return false;
    *value = gpu->n_submits = next;
    return true;
}

bool gpu_wait(struct gpu *gpu, uint64_t value, struct sc_error *e)
{
    VkSemaphoreWaitInfo wait = {
        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
        .semaphoreCount = 1,
        .pSemaphores = &gpu->timeline,
        .pValues = &value,
    };
    return gpu_check(gpu, gpu->vk.vkWaitSemaphores(gpu->device, &wait, UINT64_MAX), "finish a step", e);
}
