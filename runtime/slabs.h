/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many items in few allocations: places are given out first, then all slabs are allocated at once, so that the sizes
 * are known before any memory is taken. A slab is at most 1 GiB, unless one item alone is larger.
 */
#ifndef SCORIA_SLABS_H
#define SCORIA_SLABS_H

#include "gpu.h"

struct slabs {
    uint64_t *sizes;        /* (n) bytes of each slab */
    struct buffer *buffers; /* (n) once allocated */
    uint32_t n;
};

struct place {
    uint32_t slab;
    uint64_t offset; /* a multiple of 256 */
};

/* Gives out a place for size_bytes and BUFFER_PADDING_BYTES after them. */
bool slabs_place(struct slabs *s, uint64_t size_bytes, struct place *place, struct sc_error *e) SC_CHECK;

/* What slabs_allocate takes off the budget. */
uint64_t slabs_footprint(const struct slabs *s);

bool slabs_allocate(struct slabs *s, struct gpu *gpu, const char *what, struct sc_error *e) SC_CHECK;
void slabs_finish(struct slabs *s, struct gpu *gpu); /* accepts a zeroed struct */

VkDeviceAddress slabs_address(const struct slabs *s, struct place place);

/* The slab that holds this address, one of those given out; lives as long as the slabs. */
const struct buffer *slabs_buffer(const struct slabs *s, VkDeviceAddress address);

#endif
