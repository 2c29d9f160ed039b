/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes to standard error, and what is known of the terminal. Every message is one line: control characters in it,
 * which may come from a file's name or from inside a model, are replaced. A progress bar appears only if standard error
 * is a terminal, and any message first erases it.
 */
#ifndef SCORIA_CLI_TERMINAL_H
#define SCORIA_CLI_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

/* Call first. Also makes sure that the descriptors 0, 1, 2 are taken, so that no file of ours becomes one of them. */
void terminal_init(void);

bool terminal_input(void);     /* standard input is a terminal */
bool terminal_output(void);    /* standard output is one */
unsigned terminal_width(void); /* of standard error's, in columns; 80 if it has none */

/* Escape sequences, "" where standard output is no terminal, a dumb one, or NO_COLOR is set. */
const char *terminal_dim(void);
const char *terminal_normal(void);

void terminal_error(const char *format, ...) SC_PRINTF(1, 2);   /* "scoria: ..." */
void terminal_warning(const char *format, ...) SC_PRINTF(1, 2); /* "scoria: warning: ..." */
void terminal_note(const char *format, ...) SC_PRINTF(1, 2);    /* the text alone */

/* Draws the bar, or changes it; erases it when done >= total. */
void terminal_progress(const char *label, uint64_t done, uint64_t total);
void terminal_clear(void); /* erases the bar, if there is one */

#endif
