/* SPDX-License-Identifier: Apache-2.0 */
/* Random weights that a forward pass stays finite with: for measurements without a model, and for tests. */
#ifndef SCORIA_RANDOM_BLOCKS_H
#define SCORIA_RANDOM_BLOCKS_H

#include "types.h"

/* Random blocks of the type whose weights have a standard deviation near sigma. *state is the generator's. */
void random_blocks(uint8_t *blocks, enum sc_type type, size_t n_blocks, float sigma, uint64_t *state);

/*
 * Fills size_bytes bytes, whole blocks, as fast as memory takes them: some 64 KiB of random blocks, which repeat.
 */
void random_fill(uint8_t *bytes, enum sc_type type, uint64_t size_bytes, float sigma, uint64_t seed);

/* Next numbers of the generator, the same ones everywhere: any 64 bits; normally distributed. */
uint64_t random_u64(uint64_t *state);
float random_normal(uint64_t *state);

#endif
