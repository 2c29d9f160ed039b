/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Experts of random weights, of a model's shape and types, in host memory and in device memory: what the rates of a
 * machine are measured with. A group are experts of one layer that a token uses together; the groups are of layers all
 * over the model, since layers differ in their types. They are more than caches hold, unless the model's own are less.
 */
#ifndef SCORIA_SAMPLE_H
#define SCORIA_SAMPLE_H

#include "config.h"
#include "cpu_pool.h"
#include "ops.h"
#include "slabs.h"
#include "upload.h"

struct sample {
    struct gpu *gpu;
    uint32_t n_embd, n_ff;          /* n_ff is cut where an expert would be too large to try out */
    uint32_t n_used, n_groups;      /* experts of a group, groups */
    struct expert_weights *experts; /* (n_groups, n_used), in memory */
    uint64_t weight_bytes;          /* of all of them */
    uint8_t *memory;
    uint64_t memory_bytes, slot_bytes;
    struct slabs slabs;   /* the same experts on the device */
    struct place *places; /* (n_groups, n_used) */
    struct buffer table;  /* (n_groups, n_used) addresses */
};

/* Takes at most device_bytes of device memory. What is on the device arrives with sample_upload. */
bool sample_init(struct sample *s, struct gpu *gpu, struct cpu_pool *pool, const struct weights *w,
                 const struct config *c, uint64_t device_bytes, struct sc_error *e) SC_CHECK;
void sample_finish(struct sample *s); /* accepts a zeroed struct; the device must be idle */

/* Queues the upload of all experts and of their table. */
bool sample_upload(struct sample *s, struct upload *u, struct sc_error *e) SC_CHECK;

/* The first n_ff of the width of an expert, a multiple of its types' blocks: in host memory, and the gate (0), up (1)
   or down (2) of a group on the device. Being random, they are as good as any. */
struct expert_weights sample_expert(const struct sample *s, uint32_t group, uint32_t k, uint32_t n_ff);
struct expert_tensor sample_tensor(const struct sample *s, uint32_t group, uint32_t matrix, uint32_t n_ff);

/* Half of a width, still a multiple of every type's block; the same if that is narrow already. */
uint32_t sample_half(uint32_t n_ff);

#endif
