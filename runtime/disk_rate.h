/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCORIA_DISK_RATE_H
#define SCORIA_DISK_RATE_H

#include "gguf.h"

/*
 * Bytes per second that the model's first file gives when it is read past the system's cache, several places at a time,
 * as experts are. Where that cannot be told, since the file is small or the file system has no such reading, what
 * drives usually give. *is_measured, which may be NULL, tells the difference.
 */
double disk_rate(const struct sc_gguf *g, bool *is_measured);

#endif
