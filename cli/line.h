/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines that the user types, with editing and a history that is kept between runs where both standard input and output
 * are terminals, and plainly where they are not. A line that ends in a backslash goes on in the next.
 */
#ifndef SCORIA_CLI_LINE_H
#define SCORIA_CLI_LINE_H

#include "text.h"

enum line_result { LINE_READ, LINE_END, LINE_INTERRUPTED, LINE_FAILED };

void line_init(void);

/* Replaces what is in *line, without the newline at its end. Ctrl-C is LINE_INTERRUPTED where there is editing, and
 * kills elsewhere. */
enum line_result line_read(struct text *line, const char *prompt, struct sc_error *e);

void line_finish(void); /* saves the history; a failure is a warning on standard error */

#endif
