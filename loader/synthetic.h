/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Made-up weights in the place of those that a file cut off after its header lacks: random blocks, in as much distinct
 * memory as there is, so that reading them is as much work for the memory as reading a model. Vectors (norms) are ones.
 */
#ifndef SCORIA_SYNTHETIC_H
#define SCORIA_SYNTHETIC_H

#include "gguf.h"

struct synthetic {
    uint8_t *region;     /* the tensors, each from a page on */
    size_t region_bytes; /* of addresses; memory is taken when it is filled */
};

/* Gives every tensor of a known type its data, which is zeros so far; vectors are ones. */
bool synthetic_init(struct synthetic *s, struct sc_gguf_tensor *tensors, size_t n, struct sc_error *e) SC_CHECK;
void synthetic_finish(struct synthetic *s); /* accepts a zeroed struct */

/*
 * Fills the tensors of synthetic_init. If all of them need more than memory_bytes, they share about that much: the same
 * pages appear in several tensors. *distinct_bytes: what is really there. `progress` as in sc_gguf_fabricate.
 */
bool synthetic_fill(struct sc_gguf_tensor *tensors, size_t n, uint64_t memory_bytes, uint32_t n_threads,
                    bool (*progress)(void *user, uint64_t done, uint64_t total), void *user, uint64_t *distinct_bytes,
                    struct sc_error *e) SC_CHECK;

#endif
