/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The forward pass in double precision and in the order of the paper: all tokens at once, no cache, nothing fused. It
 * shares the loader and its dequantizers with Scoria, and nothing else.
 */
#ifndef SCORIA_TESTS_REFERENCE_H
#define SCORIA_TESTS_REFERENCE_H

#include "config.h"
#include "tokenizer.h"

struct reference {
    struct sc_gguf *gguf;
    struct config config;
    struct weights weights;
    bool rounds_kv; /* keys and values to the nearest of 255 steps, 32 sharing a step's size, as a q8_0 cache does */
};

bool reference_open(struct reference *r, const char *path, struct sc_error *e) SC_CHECK;
void reference_close(struct reference *r); /* accepts a zeroed struct */

/* The logits of every token, (n, n_vocab), which the caller frees. Ends the program when memory runs out. */
double *reference_logits(const struct reference *r, const sc_token *tokens, size_t n);

#endif
