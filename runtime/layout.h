/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the blocks of a matrix lie on the device. Where their bytes are a multiple of 4, as in the file. Others (q4_0,
 * q5_0, q8_0, iq4_nl, q3_k, q6_k: 18 to 210 bytes) have a 2-byte scale at one end, which would leave every second
 * block's words unaligned: there the scales of all blocks of the matrix lie behind the rest of them, in the blocks'
 * order. The size is the same. The shaders' side of it is quant.glsl.
 */
#ifndef SCORIA_LAYOUT_H
#define SCORIA_LAYOUT_H

#include "types.h"

struct layout {
    uint32_t block_bytes; /* in the file */
    uint32_t scale_bytes; /* of them lie apart: 2 or 0 */
    uint32_t scale_at;    /* where they are in the file's block */
};

struct layout layout_of(enum sc_type type);

/* n blocks of the file, of a type with scales apart, to where a matrix has its rests and its scales. */
void layout_split(struct layout l, uint8_t *rests, uint8_t *scales, const uint8_t *blocks, uint64_t n);

/* A whole matrix of n blocks from the file's way to the device's; and of its n_blocks some, from `first` on, back. */
void layout_arrange(enum sc_type type, uint8_t *matrix, const uint8_t *blocks, uint64_t n_blocks);
void layout_restore(enum sc_type type, uint8_t *blocks, const uint8_t *matrix, uint64_t n_blocks, uint64_t first,
                    uint64_t n);

#endif
