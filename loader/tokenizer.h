/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text to tokens and back, for GGUF files with tokenizer.ggml.model = "llama": SentencePiece BPE. Symbols are merged
 * best score first (leftmost on a tie), what no piece covers falls back to byte pieces, spaces become U+2581.
 * Source: google/sentencepiece, bpe_model.cc.
 */
#ifndef SCORIA_TOKENIZER_H
#define SCORIA_TOKENIZER_H

#include "gguf.h"

typedef int32_t sc_token; /* index into the vocabulary; the one typedef, because it is everywhere */

struct sc_tokenizer;

/* Copies what it needs out of g. Fails if the file has no tokenizer, another kind, or one that contradicts itself. */
struct sc_tokenizer *sc_tokenizer_create(const struct sc_gguf *g, struct sc_error *e) SC_CHECK;
void sc_tokenizer_destroy(struct sc_tokenizer *t); /* accepts NULL */

enum sc_encode_flags {
    SC_ENCODE_BOS = 1,     /* begin with BOS if the model wants one (tokenizer.ggml.add_bos_token) */
    SC_ENCODE_SPECIAL = 2, /* control pieces in the text ("[INST]") become their tokens; after each a new word begins */
    SC_ENCODE_NO_SPACE_PREFIX = 4, /* the text continues other text: put no space before its first word */
};

/*
 * Encodes size_bytes bytes of UTF-8; as in sentencepiece, each byte that is part of no character counts as U+FFFD, and
 * user-defined pieces match anywhere. Pieces like "<|im_end|>" are control pieces even in files that call them
 * user-defined, so that no text can produce them without SC_ENCODE_SPECIAL. Sets *tokens to an array of *n_tokens that
 * the caller frees with free(); it is NULL when there are none.
 */
bool sc_tokenizer_encode(const struct sc_tokenizer *t, const char *text, size_t size_bytes, uint32_t flags,
                         sc_token **tokens, size_t *n_tokens, struct sc_error *e) SC_CHECK;

/* Streaming decode: gives whole UTF-8 characters only, keeps the rest until the next token. Start with {0}. */
struct sc_decoder {
    bool started; /* the first word's space prefix has been dropped */
    uint8_t n_pending;
    char pending[4];
};

enum { SC_DECODE_MAX_BYTES = 1024 }; /* the most that one call gives; longer pieces make a file unsupported */

/*
 * The text that `token` adds, into out[SC_DECODE_MAX_BYTES], not 0-terminated; returns its length in bytes. Control
 * tokens give no text unless show_special. Ids outside the vocabulary give none. Each byte that can never become part
 * of a character comes out as U+FFFD.
 */
size_t sc_tokenizer_decode(const struct sc_tokenizer *t, struct sc_decoder *d, sc_token token, bool show_special,
                           char *out);

/* At the end: what is still pending, a U+FFFD for each byte; returns the length in bytes (0, 3, 6 or 9). */
size_t sc_tokenizer_decode_end(struct sc_decoder *d, char *out);

uint32_t sc_tokenizer_n_vocab(const struct sc_tokenizer *t);
struct sc_gguf_string sc_tokenizer_piece(const struct sc_tokenizer *t, sc_token token); /* as the vocabulary has it */
sc_token sc_tokenizer_find(const struct sc_tokenizer *t, const char *piece, size_t size_bytes); /* -1: there is none */
sc_token sc_tokenizer_bos(const struct sc_tokenizer *t); /* -1 if the model has none */
sc_token sc_tokenizer_eos(const struct sc_tokenizer *t);
bool sc_tokenizer_adds_bos(const struct sc_tokenizer *t); /* it has one, and SC_ENCODE_BOS begins with it */
bool sc_tokenizer_is_end(const struct sc_tokenizer *t, sc_token token); /* EOS, EOT: generation stops here */
bool sc_tokenizer_is_control(const struct sc_tokenizer *t, sc_token token);

#endif
