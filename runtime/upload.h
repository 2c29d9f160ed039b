/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes from host memory to the device: straight from memory that the device can read in place, or through a ring of
 * page-locked memory in two halves, of which the host fills one while the device copies from the other. Copies run on
 * the transfer queue, beside the kernels.
 */
#ifndef SCORIA_UPLOAD_H
#define SCORIA_UPLOAD_H

#include "config.h"
#include "cpu_pool.h"
#include "gpu.h"

struct upload {
    struct gpu *gpu;
    struct cpu_pool *pool; /* its threads fill the ring; NULL: the caller's alone */
    struct buffer ring;
    struct import *imports; /* (n_imports) host memory that the device reads in place */
    uint32_t n_imports;
    struct commands halves[2];
    uint64_t submitted[2]; /* transfer value to wait for before a half is filled again, 0: free */
    uint64_t wait_compute; /* compute value that copies wait for: upload_after */
    uint32_t current;
    uint64_t filled_bytes; /* of the current half */
    bool recording;
    uint64_t total_bytes;
};

/* Borrows gpu and pool, which may be NULL. */
bool upload_init(struct upload *u, struct gpu *gpu, struct cpu_pool *pool, uint64_t ring_bytes,
                 struct sc_error *e) SC_CHECK;
void upload_finish(struct upload *u); /* accepts a zeroed struct; the device must be idle */

/*
 * Lets the device read this memory in place, where its driver can: then upload_bytes copies no byte of it on the host.
 * The memory must live and stay as it is until upload_finish. False: it goes through the ring as before, and *e says
 * why.
 */
bool upload_import(struct upload *u, const void *memory, uint64_t size_bytes, struct sc_error *e) SC_CHECK;

/* What is queued from now on overwrites memory that the compute queue may use until it has reached `value`. */
void upload_after(struct upload *u, uint64_t value);

/* Queues a copy of size_bytes to `to` at to_offset. Bytes that are not imported are read before it returns. */
bool upload_bytes(struct upload *u, const struct buffer *to, uint64_t to_offset, const void *bytes, uint64_t size_bytes,
                  struct sc_error *e) SC_CHECK;

/*
 * The same for bytes first to first + size_bytes of a matrix that begins at to_offset, as layout.h lays it out there:
 * of a type with scales apart those blocks that end among them, through the ring.
 */
bool upload_weights(struct upload *u, const struct buffer *to, uint64_t to_offset, const struct weight *w,
                    uint64_t first, uint64_t size_bytes, struct sc_error *e) SC_CHECK;

/* Submits what is queued: work submitted later sees it. A failure, here and above, drops what is queued. */
bool upload_flush(struct upload *u, struct sc_error *e) SC_CHECK;

#endif
