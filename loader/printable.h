/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strings of unknown origin made safe for a terminal and short enough for an error: control characters, bytes that are
 * not UTF-8 and characters that reorder text become \xNN, what is too long is cut.
 *
 * The result is a value, so that it can stand in an argument list: sc_fail(e, ..., "%s", sc_printable(s, n).text).
 */
#ifndef SCORIA_PRINTABLE_H
#define SCORIA_PRINTABLE_H

#include <stddef.h>

enum { SC_PRINTABLE_BYTES = 100, SC_PRINTABLE_PATH_BYTES = 200 };

struct printable {
    char text[SC_PRINTABLE_BYTES];
};

struct printable_path {
    char text[SC_PRINTABLE_PATH_BYTES];
};

struct printable sc_printable(const char *data, size_t size_bytes); /* keeps the beginning */
struct printable_path sc_printable_path(const char *path);          /* keeps the end, where the file's name is */

/* The same into out[capacity], capacity at least 8; returns the length. */
size_t sc_printable_into(char *out, size_t capacity, const char *data, size_t size_bytes);

#endif
