/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The weight types of GGUF that Scoria knows: one table with name, block shape and a scalar dequantizer.
 * Source: the GGUF specification and ggml's block structures (ids are ggml's, they stand in every file).
 */
#ifndef SCORIA_TYPES_H
#define SCORIA_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sc_type {
    SC_F32 = 0,
    SC_F16 = 1,
    SC_Q4_0 = 2,
    SC_Q4_1 = 3,
    SC_Q5_0 = 6,
    SC_Q5_1 = 7,
    SC_Q8_0 = 8,
    SC_Q2_K = 10,
    SC_Q3_K = 11,
    SC_Q4_K = 12,
    SC_Q5_K = 13,
    SC_Q6_K = 14,
    SC_IQ4_NL = 20,
    SC_IQ4_XS = 23,
    SC_BF16 = 30,
};

struct sc_type_info {
    enum sc_type type;
    const char *name;     /* as people write it: "q4_k" */
    uint32_t block_size;  /* weights in a block */
    uint32_t block_bytes; /* bytes of a block */
    /* Expands n_blocks blocks to n_blocks * block_size floats. Any bytes are valid input; the result may be NaN. */
    void (*dequantize)(const uint8_t *blocks, float *out, size_t n_blocks);
};

/* The table's entry, or NULL for an id that has no entry. Takes any number, also one read from a file. */
const struct sc_type_info *sc_type_info(uint32_t type);

/* The name that ggml gives this id, also if Scoria lacks the type ("iq1_m"); NULL if ggml knows no such id either. */
const char *sc_type_name(uint32_t type);

/* All entries in order of id, *count of them: for tests and tables. */
const struct sc_type_info *sc_types(size_t *count);

float sc_half_to_float(uint16_t half);

#endif
