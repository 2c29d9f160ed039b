/* SPDX-License-Identifier: Apache-2.0 */
#include "text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool text_append(struct text *t, const char *data, size_t size_bytes, struct sc_error *e)
{
    if (size_bytes >= t->capacity - t->size_bytes) {
        size_t capacity = 2 * t->capacity + size_bytes + 256;
        char *grown = realloc(t->data, capacity);
        if (!grown)
            return sc_fail_memory(e, "text");
        t->data = grown;
        t->capacity = capacity;
    }
    if (size_bytes)
        memcpy(t->data + t->size_bytes, data, size_bytes);
    t->size_bytes += size_bytes;
    t->data[t->size_bytes] = 0;
    return true;
}

void text_finish(struct text *t)
{
    free(t->data);
    *t = (struct text){0};
}

bool text_read(struct text *t, const char *path, struct sc_error *e)
{
    bool is_input = !strcmp(path, "-"), ok = true;
    FILE *f = is_input ? stdin : fopen(path, "rb");
    char chunk[4096];
    size_t n;

    if (!f)
        return sc_fail(e, SC_IO, "%s: %s", path, strerror(errno));
    while (ok && (n = fread(chunk, 1, sizeof chunk, f)) > 0)
        ok = text_append(t, chunk, n, e);
    if (ok && ferror(f))
        ok = sc_fail(e, SC_IO, "%s: %s", is_input ? "standard input" : path, strerror(errno));
    if (!is_input)
        fclose(f);
    return ok;
}

void text_drop_newline(struct text *t)
{
    if (t->size_bytes && t->data[t->size_bytes - 1] == '\n')
        t->data[--t->size_bytes] = 0;
}

size_t text_character(const char *data, size_t size_bytes)
{
    const unsigned char *c = (const unsigned char *)data;
    size_t length = c[0] < 0x80 ? 1 : c[0] < 0xc2 ? 0 : c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : c[0] < 0xf5 ? 4 : 0;

    if (length > size_bytes)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((c[i] & 0xc0) != 0x80)
            return 0;
    /* longer than needed, surrogates, beyond U+10FFFF */
    if ((c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xed && c[1] > 0x9f) || (c[0] == 0xf0 && c[1] < 0x90) ||
        (c[0] == 0xf4 && c[1] > 0x8f))
        return 0;
    return length;
}

bool text_check_utf8(const char *what, const char *data, size_t size_bytes, struct sc_error *e)
{
    for (size_t at = 0, length; at < size_bytes; at += length) {
        length = text_character(data + at, size_bytes - at);
        if (!length)
            return sc_fail(e, SC_INVALID_ARGUMENT, "%s is not valid UTF-8: byte %zu is 0x%02x", what, at + 1,
                           (unsigned char)data[at]);
    }
    return true;
}
