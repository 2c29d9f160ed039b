/* SPDX-License-Identifier: Apache-2.0 */
/* SentencePiece BPE of one stretch of text that holds no control tokens. */
#ifndef SCORIA_SPM_H
#define SCORIA_SPM_H

#include "vocab.h"

/* Grows as needed; start with {0}, release items with free(). */
struct token_list {
    sc_token *items;
    size_t n, capacity;
};

bool token_list_add(struct token_list *l, sc_token token, struct sc_error *e) SC_CHECK;

/* Adds the tokens of text, which is shorter than 512 MiB, to *out. Time is O(n log n). */
bool spm_encode(const struct vocab *v, const char *text, size_t size_bytes, bool space_prefix, struct token_list *out,
                struct sc_error *e) SC_CHECK;

#endif
