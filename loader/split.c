/* SPDX-License-Identifier: Apache-2.0 */
#include "split.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool parse_digits(const char *p, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 5; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        *out = *out * 10 + (uint32_t)(p[i] - '0');
    }
    return true;
}

bool split_parse(const char *path, struct split_name *out)
{
    static const char pattern[] = "-NNNNN-of-NNNNN.gguf";
    const size_t size = sizeof pattern - 1;
    size_t length = strlen(path);
    if (length < size)
        return false;

    const char *p = path + length - size;
    out->prefix_bytes = length - size;
    return p[0] == '-' && parse_digits(p + 1, &out->number) && strncmp(p + 6, "-of-", 4) == 0 &&
           parse_digits(p + 10, &out->count) && strcmp(p + 15, ".gguf") == 0;
}

char *split_path(const char *path, const struct split_name *name, uint32_t number)
{
    size_t capacity = strlen(path) + 16;
    char *out = malloc(capacity);
    if (out) {
        memcpy(out, path, name->prefix_bytes);
        snprintf(out + name->prefix_bytes, capacity - name->prefix_bytes, "-%05u-of-%05u.gguf", number, name->count);
    }
    return out;
}
