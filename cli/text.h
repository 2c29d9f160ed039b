/* SPDX-License-Identifier: Apache-2.0 */
/* Text that the user gives: a growing buffer, UTF-8, reading files. */
#ifndef SCORIA_CLI_TEXT_H
#define SCORIA_CLI_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "error.h"

/* Owns data, which always ends in a 0 that size_bytes does not count. Start with {0}: data is NULL while it is empty.
 */
struct text {
    char *data;
    size_t size_bytes;
    size_t capacity;
};

bool text_append(struct text *t, const char *data, size_t size_bytes, struct sc_error *e) SC_CHECK;
void text_finish(struct text *t);

/* Appends the whole file; "-" is standard input. */
bool text_read(struct text *t, const char *path, struct sc_error *e) SC_CHECK;
void text_drop_newline(struct text *t); /* at its end, if there is one: editors add it, nobody means it */

/* Length of the UTF-8 character at the start (1 to 4), 0 if the bytes are none. */
size_t text_character(const char *data, size_t size_bytes);

/* False with one sentence that begins with `what` ("the prompt") and names the first broken byte. */
bool text_check_utf8(const char *what, const char *data, size_t size_bytes, struct sc_error *e) SC_CHECK;

#endif
