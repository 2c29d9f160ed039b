/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file that appears whole or not at all: written under another name in the same folder, renamed when complete. What
 * stood there before survives every failure. A symbolic link stays one: the file that it leads to is replaced. Pipes,
 * devices, and what a link to nothing names are written directly.
 */
#ifndef SCORIA_CLI_SAVE_H
#define SCORIA_CLI_SAVE_H

#include <stddef.h>
#include <stdio.h>

#include "error.h"

struct save {
    FILE *file;       /* NULL when not open */
    const char *path; /* borrowed */
    char *target;     /* what the temporary file is renamed to: path, or where its link leads */
    char *temporary;  /* NULL: written directly */
};

/* path "-" is standard output. */
bool save_open(struct save *s, const char *path, struct sc_error *e) SC_CHECK;
bool save_write(struct save *s, const void *data, size_t size_bytes, struct sc_error *e) SC_CHECK;
bool save_finish(struct save *s, struct sc_error *e) SC_CHECK; /* closed in every case */
void save_abandon(struct save *s);                             /* also after finish, and of a zeroed one */

#endif
