/* SPDX-License-Identifier: Apache-2.0 */
/* The vocabulary of a SentencePiece tokenizer: checked copies of the pieces, and finding one by its text. */
#ifndef SCORIA_VOCAB_H
#define SCORIA_VOCAB_H

#include "tokenizer.h"

/* The values of tokenizer.ggml.token_type. */
enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN = 2,
    PIECE_CONTROL = 3,
    PIECE_USER_DEFINED = 4,
    PIECE_UNUSED = 5,
    PIECE_BYTE = 6,
};

/* A piece may hold broken UTF-8, each byte of which decodes to 3; before it come up to 3 pending bytes. */
enum { VOCAB_MAX_PIECE_BYTES = SC_DECODE_MAX_BYTES / 3 - 3, VOCAB_MAX_PIECES = 1 << 22 };

struct piece {
    uint32_t offset; /* in the vocabulary's text */
    uint16_t size_bytes;
    uint8_t type; /* enum piece_type */
    uint8_t byte; /* that a PIECE_BYTE stands for */
    float score;
};

/* Open addressing by hash of the text; -1 marks a free slot. Of equal pieces the first one counts. */
struct piece_map {
    sc_token *slots; /* (mask + 1) */
    uint32_t mask;
    uint16_t longest[256]; /* size in bytes of the longest piece that begins with this byte */
};

struct vocab {
    uint32_t n;
    struct piece *pieces;     /* (n) */
    char *text;               /* all pieces, one after the other */
    struct piece_map words;   /* normal, user-defined and unused pieces: what merging may produce */
    struct piece_map special; /* control and unknown pieces: only SC_ENCODE_SPECIAL finds them in a text */
    sc_token bytes[256];      /* the byte pieces; used only if has_bytes */
    bool has_bytes;           /* there is a piece for each of the 256 bytes */
    bool has_user_defined, has_unused;
    sc_token unknown; /* -1: none, then has_bytes is true */
};

/* Fills *v from tokenizer.ggml.tokens, .scores and .token_type. vocab_finish accepts a zeroed struct. */
bool vocab_init(struct vocab *v, const struct sc_gguf *g, struct sc_error *e) SC_CHECK;
void vocab_finish(struct vocab *v);

/* The piece that is exactly this text, or -1. */
sc_token vocab_find(const struct vocab *v, const struct piece_map *m, const char *text, size_t size_bytes);

/* The longest piece of this type that text begins with, or -1. */
sc_token vocab_match(const struct vocab *v, const struct piece_map *m, enum piece_type type, const char *text,
                     size_t size_bytes);

#endif
