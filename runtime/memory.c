/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu.h"

#include <stdio.h>
#include <string.h>

/* Device memory is handed out in pages: what a buffer really takes. */
enum { PAGE_BYTES = 4096 };

uint64_t buffer_footprint(uint64_t size_bytes)
{
    const uint64_t largest = UINT64_MAX / PAGE_BYTES * PAGE_BYTES;
    if (size_bytes > largest - BUFFER_PADDING_BYTES)
        return largest; /* no device has that much, and it must not wrap around to something small */
    return (size_bytes + BUFFER_PADDING_BYTES + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

/* The allowed memory type on the largest heap that has all of `wanted` and none of `unwanted`; UINT32_MAX: there is
 * none. */
static uint32_t memory_type(const struct gpu *gpu, uint32_t allowed, VkMemoryPropertyFlags wanted,
                            VkMemoryPropertyFlags unwanted)
{
    uint32_t best = UINT32_MAX;
    VkDeviceSize best_size = 0;
    for (uint32_t i = 0; i < gpu->memory.memoryTypeCount; i++) {
        const VkMemoryType *type = &gpu->memory.memoryTypes[i];
        const VkDeviceSize size = gpu->memory.memoryHeaps[type->heapIndex].size;
        if (!(allowed >> i & 1) || (type->propertyFlags & wanted) != wanted || (type->propertyFlags & unwanted) ||
            size <= best_size)
            continue;
        best = i;
        best_size = size;
    }
    return best;
}

/* Mapped memory had better not be the device's own: what the processor sees of that may be a small window. */
static uint32_t choose_type(const struct gpu *gpu, uint32_t allowed, enum memory_kind kind)
{
    const VkMemoryPropertyFlags local = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
    const VkMemoryPropertyFlags mapped = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    const VkMemoryPropertyFlags cached = mapped | VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
    const struct {
        VkMemoryPropertyFlags wanted, unwanted;
    } preferences[][4] = {
        [MEMORY_DEVICE] = {{local, 0}, {0, 0}, {0, 0}, {0, 0}},
        [MEMORY_UPLOAD] = {{mapped, local}, {mapped, 0}, {mapped, 0}, {mapped, 0}},
        [MEMORY_READBACK] = {{cached, local}, {cached, 0}, {mapped, local}, {mapped, 0}},
    };
    uint32_t type = UINT32_MAX;
    for (uint32_t i = 0; i < 4 && type == UINT32_MAX; i++)
        type = memory_type(gpu, allowed, preferences[kind][i].wanted, preferences[kind][i].unwanted);
    return type;
}

/* Transfers on a queue of their own write what the compute queue reads. */
static void share(const struct gpu *gpu, VkBufferCreateInfo *info, uint32_t families[2])
{
    families[0] = gpu->compute.family;
    families[1] = gpu->transfer.family;
    const bool two = families[0] != families[1];
    info->sharingMode = two ? VK_SHARING_MODE_CONCURRENT : VK_SHARING_MODE_EXCLUSIVE;
    info->queueFamilyIndexCount = two ? 2 : 0;
    info->pQueueFamilyIndices = families;
}

static bool create(struct gpu *gpu, struct buffer *b, enum memory_kind kind, const char *name, struct sc_error *e)
{
    char what[128];
    uint32_t families[2];
    snprintf(what, sizeof(what), "allocate memory for %s", name);
    VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .size = b->size_bytes + BUFFER_PADDING_BYTES,
        .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT |
                 VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT |
                 VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT,
    };
    share(gpu, &info, families);
    if (!gpu_check(gpu, gpu->vk.vkCreateBuffer(gpu->device, &info, NULL, &b->handle), what, e))
        return false;

    VkMemoryRequirements needs;
    gpu->vk.vkGetBufferMemoryRequirements(gpu->device, b->handle, &needs);
    const uint32_t type = choose_type(gpu, needs.memoryTypeBits, kind);
    if (type == UINT32_MAX)
        return sc_fail(e, SC_UNSUPPORTED, "%s has no memory for %s", gpu->info.name, name);
    VkMemoryAllocateFlagsInfo flags = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO,
                                       .flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT};
    VkMemoryAllocateInfo allocate = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
        .pNext = &flags,
        .allocationSize = needs.size,
        .memoryTypeIndex = type,
    };
    if (!gpu_check(gpu, gpu->vk.vkAllocateMemory(gpu->device, &allocate, NULL, &b->memory), what, e) ||
        !gpu_check(gpu, gpu->vk.vkBindBufferMemory(gpu->device, b->handle, b->memory, 0), what, e))
        return false;
    if (kind != MEMORY_DEVICE &&
        !gpu_check(gpu, gpu->vk.vkMapMemory(gpu->device, b->memory, 0, VK_WHOLE_SIZE, 0, &b->mapped), what, e))
        return false;

    VkBufferDeviceAddressInfo address = {.sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO, .buffer = b->handle};
    b->address = gpu->vk.vkGetBufferDeviceAddress(gpu->device, &address);
    if (b->address == 0 || b->address % 16 != 0)
        return sc_fail(e, SC_UNSUPPORTED, "%s gives addresses that are not 16-byte aligned", gpu->info.name);
    return true;
}

bool buffer_init(struct gpu *gpu, struct buffer *b, enum memory_kind kind, uint64_t size_bytes, const char *what,
                 struct sc_error *e)
{
    memset(b, 0, sizeof(*b));
    const uint64_t footprint = buffer_footprint(size_bytes);
    const uint64_t left = gpu->budget_bytes > gpu->allocated_bytes ? gpu->budget_bytes - gpu->allocated_bytes : 0;
    if (gpu->budget_bytes && footprint > left)
        return sc_fail(e, SC_OUT_OF_DEVICE_MEMORY, "%s needs %.1f MB more than the budget of %.1f MB has left", what,
                       (double)(footprint - left) / 1e6, (double)gpu->budget_bytes / 1e6);
    if (size_bytes > gpu->max_allocation - BUFFER_PADDING_BYTES)
        return sc_fail(e, SC_UNSUPPORTED, "%s takes %.2f GB, and %s allocates at most %.2f GB at once", what,
                       (double)size_bytes / 1e9, gpu->info.name, (double)gpu->max_allocation / 1e9);
    b->size_bytes = size_bytes;
    if (!create(gpu, b, kind, what, e)) {
        gpu->vk.vkDestroyBuffer(gpu->device, b->handle, NULL);
        gpu->vk.vkFreeMemory(gpu->device, b->memory, NULL);
        memset(b, 0, sizeof(*b));
        return false;
    }
    gpu->allocated_bytes += footprint;
    return true;
}

static bool import(struct gpu *gpu, struct buffer *b, const void *memory, struct sc_error *e)
{
    static const char what[] = "import the weights' memory";
    const VkExternalMemoryHandleTypeFlagBits handle = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;
    void *pointer = (void *)(uintptr_t)memory; /* Vulkan has no const; transfers only read it */
    uint32_t families[2];
    VkMemoryHostPointerPropertiesEXT properties = {.sType = VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT};
    VkExternalMemoryBufferCreateInfo external = {.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO,
                                                 .handleTypes = handle};
    VkBufferCreateInfo info = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
                               .pNext = &external,
                               .size = b->size_bytes,
                               .usage = VK_BUFFER_USAGE_TRANSFER_SRC_BIT};
    share(gpu, &info, families);
    if (!gpu_check(gpu, gpu->vk.vkGetMemoryHostPointerPropertiesEXT(gpu->device, handle, pointer, &properties), what,
                   e) ||
        !gpu_check(gpu, gpu->vk.vkCreateBuffer(gpu->device, &info, NULL, &b->handle), what, e))
        return false;
    VkMemoryRequirements needs;
    gpu->vk.vkGetBufferMemoryRequirements(gpu->device, b->handle, &needs);
    const uint32_t type = memory_type(gpu, needs.memoryTypeBits & properties.memoryTypeBits, 0, 0);
    if (type == UINT32_MAX || needs.size > b->size_bytes)
        return sc_fail(e, SC_UNSUPPORTED, "%s cannot read the weights' memory in place", gpu->info.name);
    VkImportMemoryHostPointerInfoEXT host = {
        .sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT, .handleType = handle, .pHostPointer = pointer};
    VkMemoryAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                     .pNext = &host,
                                     .allocationSize = b->size_bytes,
                                     .memoryTypeIndex = type};
    return gpu_check(gpu, gpu->vk.vkAllocateMemory(gpu->device, &allocate, NULL, &b->memory), what, e) &&
           gpu_check(gpu, gpu->vk.vkBindBufferMemory(gpu->device, b->handle, b->memory, 0), what, e);
}

bool buffer_import(struct gpu *gpu, struct buffer *b, const void *memory, uint64_t size_bytes, struct sc_error *e)
{
    memset(b, 0, sizeof(*b));
    b->size_bytes = size_bytes;
    b->imported = true;
    if (import(gpu, b, memory, e))
        return true;
    buffer_finish(gpu, b);
    return false;
}

void buffer_finish(struct gpu *gpu, struct buffer *b)
{
    if (b->handle) {
        gpu->vk.vkDestroyBuffer(gpu->device, b->handle, NULL);
        gpu->vk.vkFreeMemory(gpu->device, b->memory, NULL);
        if (!b->imported)
            gpu->allocated_bytes -= buffer_footprint(b->size_bytes);
    }
    memset(b, 0, sizeof(*b));
}
