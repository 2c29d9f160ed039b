/* SPDX-License-Identifier: Apache-2.0 */
#include "gguf_builder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void byte_buffer_append(struct byte_buffer *b, const void *data, size_t size_bytes)
{
    if (b->failed || size_bytes == 0)
        return;
    if (b->capacity - b->size_bytes < size_bytes) {
        size_t capacity = 2 * b->capacity + size_bytes;
        uint8_t *grown = realloc(b->data, capacity);
        if (!grown) {
            b->failed = true;
            return;
        }
        b->data = grown;
        b->capacity = capacity;
    }
    if (data)
        memcpy(b->data + b->size_bytes, data, size_bytes);
    else
        memset(b->data + b->size_bytes, 0, size_bytes);
    b->size_bytes += size_bytes;
}

void byte_buffer_finish(struct byte_buffer *b)
{
    free(b->data);
    *b = (struct byte_buffer){0};
}

static void append_u32(struct byte_buffer *b, uint32_t value)
{
    uint8_t bytes[4];
    for (int i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(value >> 8 * i);
    byte_buffer_append(b, bytes, sizeof bytes);
}

static void append_u64(struct byte_buffer *b, uint64_t value)
{
    append_u32(b, (uint32_t)value);
    append_u32(b, (uint32_t)(value >> 32));
}

static void append_string(struct byte_buffer *b, const char *text)
{
    append_u64(b, strlen(text));
    byte_buffer_append(b, text, strlen(text));
}

static void align(struct byte_buffer *b, size_t alignment)
{
    byte_buffer_append(b, NULL, (alignment - b->size_bytes % alignment) % alignment);
}

static size_t alignment(const struct gguf_builder *b)
{
    return b->alignment ? b->alignment : 32;
}

/* Whether the name is to be added; remembers it. */
static bool admit(struct gguf_builder *b, const char *name)
{
    if (b->omit && strcmp(b->omit, name) == 0)
        return false;
    for (size_t at = 0; !b->allow_duplicates && at < b->names.size_bytes;) {
        const char *known = (const char *)b->names.data + at;
        if (strcmp(known, name) == 0)
            return false;
        at += strlen(known) + 1;
    }
    byte_buffer_append(&b->names, name, strlen(name) + 1);
    return true;
}

void gguf_builder_finish(struct gguf_builder *b)
{
    byte_buffer_finish(&b->values);
    byte_buffer_finish(&b->infos);
    byte_buffer_finish(&b->data);
    byte_buffer_finish(&b->names);
    *b = (struct gguf_builder){0};
}

void gguf_builder_value(struct gguf_builder *b, const char *key, uint32_t type, const void *data, size_t size_bytes)
{
    if (!admit(b, key))
        return;
    append_string(&b->values, key);
    append_u32(&b->values, type);
    byte_buffer_append(&b->values, data, size_bytes);
    b->n_values++;
}

void gguf_builder_u32(struct gguf_builder *b, const char *key, uint32_t value)
{
    gguf_builder_value(b, key, SC_GGUF_U32, &value, sizeof value);
}

void gguf_builder_f32(struct gguf_builder *b, const char *key, float value)
{
    gguf_builder_value(b, key, SC_GGUF_F32, &value, sizeof value);
}

void gguf_builder_bool(struct gguf_builder *b, const char *key, bool value)
{
    uint8_t byte = value;
    gguf_builder_value(b, key, SC_GGUF_BOOL, &byte, 1);
}

void gguf_builder_string(struct gguf_builder *b, const char *key, const char *value)
{
    struct byte_buffer bytes = {0};
    append_string(&bytes, value);
    gguf_builder_value(b, key, SC_GGUF_STRING, bytes.data, bytes.size_bytes);
    byte_buffer_finish(&bytes);
}

void gguf_builder_array(struct gguf_builder *b, const char *key, uint32_t type, uint64_t n, const void *data,
                        size_t size_bytes)
{
    struct byte_buffer bytes = {0};
    append_u32(&bytes, type);
    append_u64(&bytes, n);
    byte_buffer_append(&bytes, data, size_bytes);
    gguf_builder_value(b, key, SC_GGUF_ARRAY, bytes.data, bytes.size_bytes);
    byte_buffer_finish(&bytes);
}

void gguf_builder_strings(struct gguf_builder *b, const char *key, const char *const *strings, size_t n)
{
    struct byte_buffer bytes = {0};
    for (size_t i = 0; i < n; i++)
        append_string(&bytes, strings[i]);
    gguf_builder_array(b, key, SC_GGUF_STRING, n, bytes.data, bytes.size_bytes);
    byte_buffer_finish(&bytes);
}

static void append_info(struct gguf_builder *b, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *shape,
                        uint64_t offset)
{
    append_string(&b->infos, name);
    append_u32(&b->infos, n_dims);
    for (uint32_t i = n_dims; i-- > 0;)
        append_u64(&b->infos, shape[i]);
    append_u32(&b->infos, type);
    append_u64(&b->infos, offset);
    b->n_tensors++;
}

void gguf_builder_tensor_info(struct gguf_builder *b, const char *name, uint32_t type, uint32_t n_dims,
                              const uint64_t *shape, uint64_t offset)
{
    if (admit(b, name))
        append_info(b, name, type, n_dims, shape, offset);
}

uint64_t gguf_builder_data(struct gguf_builder *b, size_t size_bytes)
{
    align(&b->data, alignment(b));
    uint64_t offset = b->data.size_bytes;
    byte_buffer_append(&b->data, NULL, size_bytes);
    return offset;
}

uint8_t *gguf_builder_tensor(struct gguf_builder *b, const char *name, uint32_t type, uint32_t n_dims,
                             const uint64_t *shape)
{
    if (!admit(b, name))
        return NULL;
    const struct sc_type_info *info = sc_type_info(type);
    uint64_t n = 1;
    for (uint32_t i = 0; i < n_dims; i++)
        n *= shape[i];
    const uint64_t size_bytes = info ? n / info->block_size * info->block_bytes : 32;
    if (b->header_only) {
        append_info(b, name, type, n_dims, shape, b->data_bytes);
        b->data_bytes += (size_bytes + alignment(b) - 1) / alignment(b) * alignment(b);
        return NULL;
    }
    uint64_t offset = gguf_builder_data(b, (size_t)size_bytes);
    append_info(b, name, type, n_dims, shape, offset);
    return b->data.failed ? NULL : b->data.data + offset;
}

bool gguf_builder_image(const struct gguf_builder *b, struct byte_buffer *image)
{
    byte_buffer_append(image, "GGUF", 4);
    append_u32(image, b->version ? b->version : 3);
    append_u64(image, b->n_tensors);
    append_u64(image, b->n_values);
    byte_buffer_append(image, b->values.data, b->values.size_bytes);
    byte_buffer_append(image, b->infos.data, b->infos.size_bytes);
    align(image, alignment(b));
    byte_buffer_append(image, b->data.data, b->data.size_bytes);
    return !(image->failed || b->values.failed || b->infos.failed || b->data.failed || b->names.failed);
}

bool file_write(const char *path, const void *data, size_t size_bytes)
{
    FILE *f = fopen(path, "wb");
    if (!f)
        return false;
    bool ok = fwrite(data, 1, size_bytes, f) == size_bytes;
    return fclose(f) == 0 && ok;
}

bool gguf_builder_write(const struct gguf_builder *b, const char *path)
{
    struct byte_buffer image = {0};
    bool ok = gguf_builder_image(b, &image) && file_write(path, image.data, image.size_bytes);
    byte_buffer_finish(&image);
    return ok;
}
