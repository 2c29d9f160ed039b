/* SPDX-License-Identifier: Apache-2.0 */
#include "printable.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "utf8.h"

/* The number of a well-formed character. */
static uint32_t code_point(const uint8_t *p, size_t length)
{
    uint32_t c = length == 1 ? p[0] : p[0] & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++)
        c = c << 6 | (p[i] & 0x3F);
    return c;
}

static bool is_safe(uint32_t c)
{
    bool control = c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0xFEFF || c == 0x2028 || c == 0x2029;
    bool reorders =
        c == 0x200E || c == 0x200F || c == 0x061C || (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
    return !control && !reorders;
}

size_t sc_printable_into(char *out, size_t capacity, const char *data, size_t size_bytes)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *p = (const uint8_t *)data;
    size_t used = 0;
    size_t cut = 0; /* where "..." still fits behind */

    for (size_t i = 0; i < size_bytes;) {
        char piece[16];
        size_t n_piece = 0;
        size_t length = utf8_length(data + i, size_bytes - i);
        if (length > 0 && is_safe(code_point(p + i, length))) {
            memcpy(piece, p + i, length);
            n_piece = length;
        } else {
            length = length > 0 ? length : 1;
            for (size_t k = 0; k < length; k++) {
                piece[n_piece++] = '\\';
                piece[n_piece++] = 'x';
                piece[n_piece++] = digits[p[i + k] >> 4];
                piece[n_piece++] = digits[p[i + k] & 15];
            }
        }
        if (used + n_piece + 1 > capacity) {
            memcpy(out + cut, "...", sizeof "...");
            return cut + 3;
        }
        memcpy(out + used, piece, n_piece);
        used += n_piece;
        if (used + sizeof "..." <= capacity)
            cut = used;
        i += length;
    }
    out[used] = 0;
    return used;
}

struct printable sc_printable(const char *data, size_t size_bytes)
{
    struct printable result;
    sc_printable_into(result.text, sizeof result.text, data, size_bytes);
    return result;
}

struct printable_path sc_printable_path(const char *path)
{
    struct printable_path result;
    size_t length = strlen(path);
    const size_t keep = sizeof result.text - sizeof "...";
    if (length <= keep) {
        sc_printable_into(result.text, sizeof result.text, path, length);
        return result;
    }

    const char *tail = path + (length - keep);
    while (((unsigned char)*tail & 0xC0) == 0x80)
        tail++;
    memcpy(result.text, "...", 3);
    sc_printable_into(result.text + 3, sizeof result.text - 3, tail, strlen(tail));
    return result;
}
