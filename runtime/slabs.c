/* SPDX-License-Identifier: Apache-2.0 */
#include "slabs.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 256 };
static const uint64_t MAX_SLAB_BYTES = (1u << 30) - (1u << 20); /* some drivers allocate 1 GiB, all included */

bool slabs_place(struct slabs *s, uint64_t size_bytes, struct place *place, struct sc_error *e)
{
    const uint64_t padded = (size_bytes + BUFFER_PADDING_BYTES + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (s->n == 0 || s->sizes[s->n - 1] + padded > MAX_SLAB_BYTES) {
        uint64_t *sizes = realloc(s->sizes, (s->n + 1) * sizeof(*sizes));
        if (!sizes)
            return sc_fail_memory(e, "the plan of device memory");
        s->sizes = sizes;
        s->sizes[s->n++] = 0;
    }
    *place = (struct place){.slab = s->n - 1, .offset = s->sizes[s->n - 1]};
    s->sizes[s->n - 1] += padded;
    return true;
}

uint64_t slabs_footprint(const struct slabs *s)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < s->n; i++)
        sum += buffer_footprint(s->sizes[i]);
    return sum;
}

bool slabs_allocate(struct slabs *s, struct gpu *gpu, const char *what, struct sc_error *e)
{
    if (s->n == 0)
        return true;
    s->buffers = calloc(s->n, sizeof(*s->buffers));
    if (!s->buffers)
        return sc_fail_memory(e, what);
    for (uint32_t i = 0; i < s->n; i++)
        if (!buffer_init(gpu, &s->buffers[i], MEMORY_DEVICE, s->sizes[i], what, e))
            return false;
    return true;
}

void slabs_finish(struct slabs *s, struct gpu *gpu)
{
    for (uint32_t i = 0; s->buffers && i < s->n; i++)
        buffer_finish(gpu, &s->buffers[i]);
    free(s->buffers);
    free(s->sizes);
    memset(s, 0, sizeof(*s));
}

VkDeviceAddress slabs_address(const struct slabs *s, struct place place)
{
    return s->buffers[place.slab].address + place.offset;
}

const struct buffer *slabs_buffer(const struct slabs *s, VkDeviceAddress address)
{
    uint32_t i = 0;
    while (address - s->buffers[i].address >= s->buffers[i].size_bytes)
        i++;
    return &s->buffers[i];
}
