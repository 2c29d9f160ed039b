/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mapped files that may shrink. Touching a page that the file has lost, or that the disk cannot give, raises SIGBUS.
 * The first guard installs a handler for the whole process: in guarded memory it puts zeros in the place of what is
 * lost, to the end of the mapping, and marks the guard; the access goes on. Any other SIGBUS goes to the handler that
 * was there before, or ends the process as ever. A program that installs its own handler later loses the guards.
 */
#ifndef SCORIA_GUARD_H
#define SCORIA_GUARD_H

#include <stdbool.h>
#include <stddef.h>

struct guard;

/* Guards a mapping: data is page-aligned. NULL: too many files are mapped (1024 fit). */
struct guard *guard_add(const void *data, size_t size_bytes);
void guard_remove(struct guard *g); /* before the mapping goes; accepts NULL */

/* Zeros stand where the file's bytes should. For ever: what was read meanwhile may be wrong. */
bool guard_was_hit(const struct guard *g);

#endif
