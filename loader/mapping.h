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

bool mapping_lock(const struct mapping *m); /* keeps it in RAM, if the system allows that */

/* Hints about a part of the file: it will be read soon; its whole pages may leave RAM. It may reach beyond the end. */
void mapping_prefetch(const struct mapping *m, uint64_t offset, uint64_t size_bytes);
void mapping_forget(const struct mapping *m, uint64_t offset, uint64_t size_bytes);

/* Fails if bytes that were wanted could not be read. */
bool mapping_check(const struct mapping *m, const char *path, struct sc_error *e) SC_CHECK;

#endif
