/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes to standard output. The first failure is kept: afterwards nothing more is written, and output_finish
 * reports it. A reader that went away (EPIPE) is no failure.
 */
#ifndef SCORIA_CLI_OUTPUT_H
#define SCORIA_CLI_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "error.h"
#include "gguf.h"

bool output_write(const char *data, size_t size_bytes); /* false: nobody takes it, the caller may as well stop */
bool output_printf(const char *format, ...) SC_PRINTF(1, 2);
bool output_flush(void);

/* Text from a model: as it is, but on a terminal without control characters, which could do anything there. */
bool output_model_text(const char *data, size_t size_bytes);

/* Control characters and broken UTF-8 as \n, \t, \x1b: safe on a terminal, one line. At most max_characters, then
 * "...". */
void output_quoted(const char *data, size_t size_bytes, size_t max_characters);

/* Takes value (NULL: out of memory) and prints it, indented. */
void output_json(json_t *value);

/* Flushes. Returns the program's exit status: `status`, or 1 after one sentence if standard output failed. */
int output_finish(int status);

/* ---- values for JSON: what JSON cannot say becomes what it can ---- */

void json_put(json_t *object, const char *key, json_t *value); /* takes value */
json_t *json_text(const char *data, size_t size_bytes);        /* broken UTF-8 becomes U+FFFD */
json_t *json_number(double value);                             /* NaN and Inf become null */
json_t *json_count(uint64_t value);
json_t *json_word(const char *text); /* ended by a 0; NULL becomes null */

#endif
