/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu.h"

#include <string.h>

enum { MAX_SUBMISSIONS = 1024, MAX_BUFFERS = 16384, MAX_GROUPS = 65535 };

static bool allocate(struct commands *c, uint32_t piece, struct sc_error *e)
{
    VkCommandBufferAllocateInfo buffer = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
        .commandPool = c->pool,
        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
        .commandBufferCount = 1,
    };
    return gpu_check(c->gpu, c->gpu->vk.vkAllocateCommandBuffers(c->gpu->device, &buffer, &c->pieces[piece].buffer),
                     "create a command buffer", e);
}

static bool init(struct commands *c, struct gpu *gpu, struct queue *queue, struct sc_error *e)
{
    memset(c, 0, sizeof(*c));
    c->gpu = gpu;
    c->queue = queue;
    VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                    .queueFamilyIndex = queue->family};
    if (!gpu_check(gpu, gpu->vk.vkCreateCommandPool(gpu->device, &pool, NULL, &c->pool), "create a command pool", e))
        return false;
    if (!allocate(c, 0, e)) {
        commands_finish(c);
        return false;
    }
    return true;
}

bool commands_init(struct commands *c, struct gpu *gpu, struct sc_error *e)
{
    return init(c, gpu, &gpu->compute, e);
}

bool commands_init_transfer(struct commands *c, struct gpu *gpu, struct sc_error *e)
{
    return init(c, gpu, &gpu->transfer, e);
}

void commands_finish(struct commands *c)
{
    if (c->pool)
        c->gpu->vk.vkDestroyCommandPool(c->gpu->device, c->pool, NULL);
    memset(c, 0, sizeof(*c));
}

static bool computes(const struct commands *c)
{
    return c->queue->stages & VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT;
}

static VkAccessFlags write_access(const struct commands *c)
{
    return VK_ACCESS_TRANSFER_WRITE_BIT | (computes(c) ? VK_ACCESS_SHADER_WRITE_BIT : 0);
}

static VkAccessFlags read_access(const struct commands *c)
{
    return VK_ACCESS_TRANSFER_READ_BIT | (computes(c) ? VK_ACCESS_SHADER_READ_BIT : 0);
}

/* Separates what these stages and accesses did, and everything before, from everything after. */
static void barrier(struct commands *c, VkPipelineStageFlags from, VkAccessFlags written)
{
    if (c->error.code)
        return;
    bool has_grid = false; /* reading grids is a stage of its own, which costs some GPUs time */
    for (uint32_t i = 0; i < c->n_pending; i++)
        has_grid = has_grid || c->pending[i].is_grid;
    VkMemoryBarrier memory = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
        .srcAccessMask = written | write_access(c),
        .dstAccessMask = read_access(c) | write_access(c) | (has_grid ? VK_ACCESS_INDIRECT_COMMAND_READ_BIT : 0),
    };
    const VkPipelineStageFlags stages = c->queue->stages;
    c->gpu->vk.vkCmdPipelineBarrier(c->buffer, from | stages,
                                    stages | (has_grid ? VK_PIPELINE_STAGE_DRAW_INDIRECT_BIT : 0), 0, 1, &memory, 0,
                                    NULL, 0, NULL);
    c->n_pending = 0;
    c->n_barriers++;
}

void commands_barrier(struct commands *c)
{
    barrier(c, 0, 0);
    c->made = (struct made){0};
}

static bool begin_piece(struct commands *c)
{
    VkCommandBufferBeginInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
        .flags = c->replayed ? 0 : VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT,
    };
    const uint32_t i = c->n_pieces;
    if (!c->pieces[i].buffer && !allocate(c, i, &c->error))
        return false;
    c->buffer = c->pieces[i].buffer;
    c->pieces[i].work = 0;
    c->n_pieces++;
    return gpu_check(c->gpu, c->gpu->vk.vkBeginCommandBuffer(c->buffer, &info), "record commands", &c->error);
}

static bool begin(struct commands *c, bool replayed)
{
    struct gpu *gpu = c->gpu;
    c->error = (struct sc_error){0};
    c->n_dispatches = c->n_barriers = 0;
    c->replayed = replayed;
    c->n_pieces = 0;
    c->made = (struct made){0};
    return gpu_check(gpu, gpu->vk.vkResetCommandPool(gpu->device, c->pool, 0), "reset commands", &c->error) &&
           begin_piece(c);
}

void commands_begin(struct commands *c, bool replayed)
{
    if (!begin(c, replayed))
        return;
    commands_barrier(c);
    c->n_barriers = 0; /* what is counted is hazards */
}

void commands_continue(struct commands *c, const struct commands *previous)
{
    if (!begin(c, true))
        return;
    memcpy(c->pending, previous->pending, sizeof(c->pending));
    c->n_pending = previous->n_pending;
}

void commands_see_host(struct commands *c)
{
    barrier(c, VK_PIPELINE_STAGE_HOST_BIT, VK_ACCESS_HOST_WRITE_BIT);
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
        barrier(c, 0, 0);
    for (uint32_t i = 0; i < n; i++) {
        if (accesses[i].address && accesses[i].size_bytes)
            c->pending[c->n_pending++] = accesses[i];
        if (accesses[i].write && (conflicts(&accesses[i], &c->made.from) || conflicts(&accesses[i], &c->made.to)))
            c->made = (struct made){0};
    }
}

/* Everything but the dispatch itself, which has at most so many workgroups; false if there is nothing to dispatch. */
static bool prepare(struct commands *c, struct program program, const void *args, const struct access *accesses,
                    uint32_t n_accesses, uint32_t x, uint32_t y, uint32_t z)
{
    struct gpu *gpu = c->gpu;
    if (c->error.code || x == 0 || y == 0 || z == 0)
        return false;
    const VkPipeline pipeline = gpu_pipeline(gpu, &program, &c->error);
    if (!pipeline)
        return false;
    if (x > MAX_GROUPS || y > MAX_GROUPS || z > MAX_GROUPS)
        return sc_fail(&c->error, SC_UNSUPPORTED, "the kernel %s would take more workgroups than every device has",
                       kernel_infos[program.kernel].name);
    order(c, accesses, n_accesses);
    gpu->vk.vkCmdBindPipeline(c->buffer, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
    gpu->vk.vkCmdPushConstants(c->buffer, gpu->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                               kernel_infos[program.kernel].args_size_bytes, args);
    c->n_dispatches++;
    return true;
}

void commands_dispatch(struct commands *c, struct program program, const void *args, const struct access *accesses,
                       uint32_t n_accesses, uint32_t x, uint32_t y, uint32_t z)
{
    if (prepare(c, program, args, accesses, n_accesses, x, y, z))
        c->gpu->vk.vkCmdDispatch(c->buffer, x, y, z);
}

void commands_dispatch_indirect(struct commands *c, struct program program, const void *args,
                                const struct access *accesses, uint32_t n_accesses, struct grid grid)
{
    if (prepare(c, program, args, accesses, n_accesses, grid.max_x, grid.max_y, 1))
        c->gpu->vk.vkCmdDispatchIndirect(c->buffer, grid.buffer->handle, grid.offset);
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

void commands_work(struct commands *c, double multiply_adds)
{
    if (c->error.code)
        return;
    c->pieces[c->n_pieces - 1].work += multiply_adds;
    if (c->pieces[c->n_pieces - 1].work >= c->gpu->piece_work && c->n_pieces < COMMANDS_MAX_PIECES &&
        gpu_check(c->gpu, c->gpu->vk.vkEndCommandBuffer(c->buffer), "finish recording", &c->error) && !begin_piece(c))
        return; /* the error is kept */
}

bool commands_end(struct commands *c, struct sc_error *e)
{
    if (!c->error.code) {
        /* results in host-visible memory become visible to the host once the submit is waited for */
        VkMemoryBarrier memory = {
            .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
            .srcAccessMask = write_access(c),
            .dstAccessMask = VK_ACCESS_HOST_READ_BIT,
        };
        c->gpu->vk.vkCmdPipelineBarrier(c->buffer, c->queue->stages, VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &memory, 0, NULL,
                                        0, NULL);
        const VkResult result = c->gpu->vk.vkEndCommandBuffer(c->buffer);
        if (gpu_check(c->gpu, result, "finish recording", &c->error))
            return true;
    }
    return sc_fail(e, c->error.code, "%s", c->error.text);
}

/* What a submission waits for. */
struct waits {
    VkSemaphore semaphores[3];
    uint64_t values[3];
    VkPipelineStageFlags stages[3];
    uint32_t n;
};

static void wait_for(struct waits *w, VkSemaphore semaphore, uint64_t value)
{
    if (value == 0)
        return;
    w->semaphores[w->n] = semaphore;
    w->values[w->n] = value;
    w->stages[w->n++] = VK_PIPELINE_STAGE_ALL_COMMANDS_BIT;
}

/* The submission's command buffers; UINT32_MAX if they are more than `room`. */
static uint32_t take_pieces(VkCommandBuffer *buffers, uint32_t room, const struct submission *s)
{
    uint32_t n = 0, piece = 0;
    for (uint32_t i = 0; i < s->n_streams; i++)
        for (uint32_t k = 0; k < s->streams[i]->n_pieces; k++, piece++) {
            if (s->n_pieces && (piece < s->first_piece || piece - s->first_piece >= s->n_pieces))
                continue;
            if (n == room)
                return UINT32_MAX;
            buffers[n++] = s->streams[i]->pieces[k].buffer;
        }
    return n;
}

bool gpu_submit_chain(struct gpu *gpu, struct submission *submissions, uint32_t n, struct sc_error *e)
{
    VkCommandBuffer buffers[MAX_BUFFERS];
    VkSubmitInfo infos[MAX_SUBMISSIONS];
    VkTimelineSemaphoreSubmitInfo values[MAX_SUBMISSIONS];
    struct waits waits[MAX_SUBMISSIONS];
    struct queue *queue = submissions[0].streams[0]->queue;
    const uint64_t new_transfers = gpu->transfer.submitted > gpu->transfers_awaited ? gpu->transfer.submitted : 0;
    uint32_t n_buffers = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct submission *s = &submissions[i];
        struct waits *w = &waits[i];
        const uint32_t n_own =
            n <= MAX_SUBMISSIONS ? take_pieces(buffers + n_buffers, MAX_BUFFERS - n_buffers, s) : UINT32_MAX;
        if (n_own == UINT32_MAX)
            return sc_fail(e, SC_UNSUPPORTED, "a step of more than %d pieces", MAX_BUFFERS);
        w->n = 0;
        wait_for(w, gpu->host_timeline, s->wait_host);
        wait_for(w, gpu->compute.timeline, s->wait_compute);
        wait_for(w, gpu->transfer.timeline, i == 0 && queue == &gpu->compute ? new_transfers : 0);
        s->value = queue->submitted + 1 + i;
        values[i] = (VkTimelineSemaphoreSubmitInfo){
            .sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
            .waitSemaphoreValueCount = w->n,
            .pWaitSemaphoreValues = w->values,
            .signalSemaphoreValueCount = 1,
            .pSignalSemaphoreValues = &s->value,
        };
        infos[i] = (VkSubmitInfo){
            .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
            .pNext = &values[i],
            .waitSemaphoreCount = w->n,
            .pWaitSemaphores = w->semaphores,
            .pWaitDstStageMask = w->stages,
            .commandBufferCount = n_own,
            .pCommandBuffers = &buffers[n_buffers],
            .signalSemaphoreCount = 1,
            .pSignalSemaphores = &queue->timeline,
        };
        n_buffers += n_own;
    }
    if (!gpu_check(gpu, gpu->vk.vkQueueSubmit(queue->handle, n, infos, VK_NULL_HANDLE), "run a step", e))
        return false;
    queue->submitted += n;
    if (queue == &gpu->compute)
        gpu->transfers_awaited = gpu->transfer.submitted;
    gpu->n_submits++;
    return true;
}

bool gpu_submit(struct gpu *gpu, struct commands *const *streams, uint32_t n_streams, uint64_t *value,
                struct sc_error *e)
{
    struct submission one = {.streams = streams, .n_streams = n_streams};
    const bool ok = gpu_submit_chain(gpu, &one, 1, e);
    if (ok)
        *value = one.value;
    return ok;
}

static bool wait_timeline(struct gpu *gpu, const struct queue *queue, uint64_t value, struct sc_error *e)
{
    /* what the host has signalled is there already, but the validation layer only believes it once it is waited for */
    const VkSemaphore semaphores[] = {queue->timeline, gpu->host_timeline};
    const uint64_t values[] = {value, gpu->host_signalled};
    VkSemaphoreWaitInfo wait = {
        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
        .semaphoreCount = 2,
        .pSemaphores = semaphores,
        .pValues = values,
    };
    return gpu_check(gpu, gpu->vk.vkWaitSemaphores(gpu->device, &wait, UINT64_MAX), "finish a step", e);
}

bool gpu_wait(struct gpu *gpu, uint64_t value, struct sc_error *e)
{
    return wait_timeline(gpu, &gpu->compute, value, e);
}

bool gpu_wait_transfer(struct gpu *gpu, uint64_t value, struct sc_error *e)
{
    return wait_timeline(gpu, &gpu->transfer, value, e);
}

bool gpu_poll(struct gpu *gpu, const struct queue *queue, uint64_t value, bool *reached, struct sc_error *e)
{
    uint64_t now = 0;
    const VkResult result = gpu->vk.vkGetSemaphoreCounterValue(gpu->device, queue->timeline, &now);
    *reached = result == VK_SUCCESS && now >= value;
    return gpu_check(gpu, result, "look after a step", e);
}

bool gpu_signal(struct gpu *gpu, uint64_t value, struct sc_error *e)
{
    VkSemaphoreSignalInfo signal = {
        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_SIGNAL_INFO, .semaphore = gpu->host_timeline, .value = value};
    if (value <= gpu->host_signalled)
        return true;
    if (!gpu_check(gpu, gpu->vk.vkSignalSemaphore(gpu->device, &signal), "go on with a step", e))
        return false;
    gpu->host_signalled = value;
    return true;
}
