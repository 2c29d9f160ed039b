/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file mapped read-only into memory. Needs no file descriptor after mapping_init. If the file shrinks while it is
 * mapped, touching the lost pages raises SIGBUS: replace model files by renaming, never by truncating.
 */
#ifndef SCORIA_MAPPING_H
#define SCORIA_MAPPING_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

struct mapping {
    const uint8_t *data; /* page-aligned */
    size_t size_bytes;   /* never 0 */
};

/* Fails on anything but a readable regular file that holds at least one byte. */
bool mapping_init(struct mapping *m, const char *path, struct sc_error *e) SC_CHECK;
void mapping_finish(struct mapping *m); /* accepts a zeroed struct */

#endif
