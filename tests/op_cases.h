/* SPDX-License-Identifier: Apache-2.0 */
/* The shapes that every operation is tested with, one table an operation, and how their weights are filled. */
#ifndef SCORIA_TESTS_OP_CASES_H
#define SCORIA_TESTS_OP_CASES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "types.h"

enum op_fill {
    OP_FILL_RANDOM, /* as in a real model, deviation 1 / sqrt(cols) */
    OP_FILL_ANY,    /* any bits, but scales below 2 in size: every code, every sign */
    OP_FILL_TINY,   /* scales are subnormal halves */
    OP_FILL_LARGE,  /* scales near the largest that stay finite */
    OP_FILL_HOLES,  /* random, and every third block is all zeros */
    OP_N_FILLS
};

extern const char *const op_fill_names[OP_N_FILLS];

/* Fills (rows, cols) weights. The columns are a multiple of the type's block. */
void op_fill_weights(void *blocks, enum sc_type type, uint32_t rows, uint32_t cols, enum op_fill fill, uint64_t *seed);

/* Whether a matrix of this type may have rows of so many weights. */
bool op_type_has_columns(const struct sc_type_info *type, uint32_t cols);

struct linear_case {
    uint32_t rows, cols, n;
};
extern const struct linear_case op_linear_cases[];
extern const size_t op_n_linear_cases;

struct expert_case {
    uint32_t n_experts, n_used, n; /* n tokens */
    uint32_t rows, cols;
    bool x_per_pair;
    uint32_t missing_every; /* every so many experts have no slot; 0: all have */
};
extern const struct expert_case op_expert_cases[];
extern const size_t op_n_expert_cases;

struct embed_case {
    uint32_t n_vocab, cols, n;
};
extern const struct embed_case op_embed_cases[];
extern const size_t op_n_embed_cases;

struct norm_case {
    uint32_t cols, n;
    float sigma, eps;
};
extern const struct norm_case op_norm_cases[];
extern const size_t op_n_norm_cases;

struct rope_case {
    uint32_t n_heads, n_kv_heads, head_dim, n_rot, n, n_past;
};
extern const struct rope_case op_rope_cases[];
extern const size_t op_n_rope_cases;

struct attention_case {
    uint32_t n_heads, n_kv_heads, head_dim, n, n_past, n_splits;
    float sigma;     /* of q: above 1 the softmax is sharp */
    uint32_t window; /* 0: none */
};
extern const struct attention_case op_attention_cases[];
extern const size_t op_n_attention_cases;

struct route_case {
    uint32_t n_experts, n_used, n;
};
extern const struct route_case op_route_cases[];
extern const size_t op_n_route_cases;

struct silu_case {
    uint32_t rows, cols;
    float sigma;
};
extern const struct silu_case op_silu_cases[];
extern const size_t op_n_silu_cases;

struct combine_case {
    uint32_t n_embd, n_used, n;
};
extern const struct combine_case op_combine_cases[];
extern const size_t op_n_combine_cases;

#endif
