/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes from host memory to the device through a ring of page-locked memory in two halves: the host fills one while the
 * device copies from the other.
 */
#ifndef SCORIA_UPLOAD_H
#define SCORIA_UPLOAD_H

#include "gpu.h"

struct upload {
    struct gpu *gpu;
    struct buffer ring;
    struct commands halves[2];
    uint64_t submitted[2]; /* value to wait for before a half is filled again, 0: free */
    uint32_t current;
    uint64_t filled_bytes; /* of the current half */
    bool recording;
    uint64_t total_bytes;
};

bool upload_init(struct upload *u, struct gpu *gpu, uint64_t ring_bytes, struct sc_error *e) SC_CHECK;
void upload_finish(struct upload *u); /* accepts a zeroed struct; the device must be idle */

/* Queues a copy of size_bytes to `to` at to_offset. The bytes are read before it returns. */
bool upload_bytes(struct upload *u, const struct buffer *to, uint64_t to_offset, const void *bytes, uint64_t size_bytes,
                  struct sc_error *e) SC_CHECK;

/* Submits what is queued: work submitted later sees it. A failure, here and above, drops what is queued. */
bool upload_flush(struct upload *u, struct sc_error *e) SC_CHECK;

#endif
