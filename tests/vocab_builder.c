/* SPDX-License-Identifier: Apache-2.0 */
#include "vocab_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

void vocab_builder_piece(struct vocab_builder *b, const char *text, size_t size_bytes, float score, int32_t type)
{
    uint64_t size = size_bytes;
    byte_buffer_append(&b->pieces, &size, sizeof size);
    byte_buffer_append(&b->pieces, text, size_bytes);
    byte_buffer_append(&b->scores, &score, sizeof score);
    byte_buffer_append(&b->types, &type, sizeof type);
    b->n++;
}

void vocab_builder_small(struct vocab_builder *b, enum small_vocab version)
{
    FILE *f = fopen(SCORIA_TEST_VECTORS "/small_vocab.txt", "rb");
    assert_non_null(f);
    char line[256];
    while (fgets(line, sizeof line, f)) {
        char *at = line;
        int32_t type = (int32_t)strtol(at, &at, 10);
        bool unused = strtol(at, &at, 10) != 0;
        float score = strtof(at, &at);
        at++;
        if (version == SMALL_WITHOUT_BYTES && type == PIECE_BYTE)
            type = PIECE_NORMAL;
        if (version == SMALL_WITH_UNUSED && unused)
            type = PIECE_UNUSED;
        vocab_builder_piece(b, at, strcspn(at, "\n"), score, type);
    }
    fclose(f);
}

void vocab_builder_image(struct vocab_builder *b, struct byte_buffer *image)
{
    struct gguf_builder *f = &b->file;
    gguf_builder_string(f, "general.architecture", "llama");
    gguf_builder_string(f, "tokenizer.ggml.model", "llama");
    gguf_builder_array(f, "tokenizer.ggml.tokens", SC_GGUF_STRING, b->n, b->pieces.data, b->pieces.size_bytes);
    gguf_builder_array(f, "tokenizer.ggml.scores", SC_GGUF_F32, b->n, b->scores.data, b->scores.size_bytes);
    gguf_builder_array(f, "tokenizer.ggml.token_type", SC_GGUF_I32, b->n, b->types.data, b->types.size_bytes);
    assert_true(gguf_builder_image(f, image));
    gguf_builder_finish(f);
    byte_buffer_finish(&b->pieces);
    byte_buffer_finish(&b->scores);
    byte_buffer_finish(&b->types);
    b->n = 0;
}

struct sc_gguf *vocab_image_open(const struct byte_buffer *image, struct sc_error *e)
{
    char path[] = "vocab.tmp.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_true(file_write(path, image->data, image->size_bytes));
    struct sc_gguf *g = sc_gguf_open(path, e);
    remove(path);
    return g;
}

struct sc_gguf *vocab_builder_open(struct vocab_builder *b)
{
    struct byte_buffer image = {0};
    struct sc_error e = {0};
    vocab_builder_image(b, &image);
    struct sc_gguf *g = vocab_image_open(&image, &e);
    byte_buffer_finish(&image);
    if (!g)
        fail_msg("%s", e.text);
    return g;
}
