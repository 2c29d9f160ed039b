/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file mapped read-only into memory, and open for reading beside that. If it shrinks meanwhile, or the disk fails,
 * its bytes become zeros and mapping_check says so (guard.h): what was read from it since it was opened counts for
 * nothing.
 */
#ifndef SCORIA_MAPPING_H
#define SCORIA_MAPPING_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

struct guard;

struct mapping {
    const uint8_t *data; /* page-aligned */
    size_t size_bytes;   /* never 0 */
    int fd;
    struct guard *guard;
};

/* Fails on anything but a readable regular file that holds at least one byte. */
bool mapping_init(struct mapping *m, const char *path, struct sc_error *e) SC_CHECK;
void mapping_finish(struct mapping *m); /* accepts a zeroed struct */

/* Fails if bytes that were wanted could not be read. */
bool mapping_check(const struct mapping *m, const char *path, struct sc_error *e) SC_CHECK;

#endif
