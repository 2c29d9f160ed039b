/* SPDX-License-Identifier: Apache-2.0 */
/* Vocabularies for tests, as GGUF files. */
#ifndef SCORIA_TESTS_VOCAB_BUILDER_H
#define SCORIA_TESTS_VOCAB_BUILDER_H

#include "gguf_builder.h"
#include "tokenizer.h"
#include "vocab.h"

/* Start with {0}. Keys added to `file` by the test come before those that opening would add. */
struct vocab_builder {
    struct gguf_builder file;
    struct byte_buffer pieces, scores, types;
    uint64_t n;
};

void vocab_builder_piece(struct vocab_builder *b, const char *text, size_t size_bytes, float score, int32_t type);

/* The vocabulary of vectors/small_vocab.txt, in three versions. */
enum small_vocab { SMALL_WITH_BYTES, SMALL_WITHOUT_BYTES, SMALL_WITH_UNUSED };
void vocab_builder_small(struct vocab_builder *b, enum small_vocab version);

/* The file in memory, appended to *image; empties the builder. */
void vocab_builder_image(struct vocab_builder *b, struct byte_buffer *image);

/* Writes it to a file, which is opened and removed. */
struct sc_gguf *vocab_image_open(const struct byte_buffer *image, struct sc_error *e);

/* Both. Fails the test if the file cannot be opened. */
struct sc_gguf *vocab_builder_open(struct vocab_builder *b);

#endif
