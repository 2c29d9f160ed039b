/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Builds GGUF files for tests, right or wrong ones. Sticky: calls after a failure (memory) do nothing, the write tells.
 *
 * A key or tensor that is there already is not added again, so a test overrides one by adding its own first; one named
 * by `omit` is left out. With `allow_duplicates` everything goes in.
 */
#ifndef SCORIA_TESTS_GGUF_BUILDER_H
#define SCORIA_TESTS_GGUF_BUILDER_H

#include "gguf.h"

struct byte_buffer {
    uint8_t *data;
    size_t size_bytes, capacity;
    bool failed;
};

void byte_buffer_append(struct byte_buffer *b, const void *data, size_t size_bytes);
void byte_buffer_finish(struct byte_buffer *b);

struct gguf_builder {
    uint32_t version;   /* 0: 3 */
    uint32_t alignment; /* 0: 32. Not written as a key. */
    const char *omit;   /* may be NULL */
    bool allow_duplicates;
    bool header_only; /* tensors take up offsets but no bytes, and the file ends after its header */

    uint64_t n_values, n_tensors;
    struct byte_buffer values, infos, data;
    uint64_t data_bytes;      /* of a header only: what the tensors would take */
    struct byte_buffer names; /* each followed by a 0 */
};

void gguf_builder_finish(struct gguf_builder *b); /* start with {0} */

/* One metadata entry of any type; data is what follows the type in the file. */
void gguf_builder_value(struct gguf_builder *b, const char *key, uint32_t type, const void *data, size_t size_bytes);
void gguf_builder_u32(struct gguf_builder *b, const char *key, uint32_t value);
void gguf_builder_f32(struct gguf_builder *b, const char *key, float value);
void gguf_builder_bool(struct gguf_builder *b, const char *key, bool value);
void gguf_builder_string(struct gguf_builder *b, const char *key, const char *value);
void gguf_builder_array(struct gguf_builder *b, const char *key, uint32_t type, uint64_t n, const void *data,
                        size_t size_bytes);
void gguf_builder_strings(struct gguf_builder *b, const char *key, const char *const *strings, size_t n);

/*
 * Adds a tensor, shape slowest dimension first, and returns its zeroed bytes to fill, valid until the next call; NULL
 * if it is there already, omitted, header_only, or memory ran out. A type that Scoria lacks gets 32 bytes.
 */
uint8_t *gguf_builder_tensor(struct gguf_builder *b, const char *name, uint32_t type, uint32_t n_dims,
                             const uint64_t *shape);

/* Only the entry, with any numbers, wrong ones too; no bytes. */
void gguf_builder_tensor_info(struct gguf_builder *b, const char *name, uint32_t type, uint32_t n_dims,
                              const uint64_t *shape, uint64_t offset);

/* Only bytes of the data section; returns their offset. */
uint64_t gguf_builder_data(struct gguf_builder *b, size_t size_bytes);

/* The file in memory, appended to *image. */
bool gguf_builder_image(const struct gguf_builder *b, struct byte_buffer *image);
bool gguf_builder_write(const struct gguf_builder *b, const char *path);

bool file_write(const char *path, const void *data, size_t size_bytes);

#endif
