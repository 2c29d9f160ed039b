/* SPDX-License-Identifier: Apache-2.0 */
/* Reads memory with all threads and does as good as nothing with it: what the memory gives to the processor. */
#ifndef SCORIA_HOST_READ_H
#define SCORIA_HOST_READ_H

#include <stddef.h>

#include "cpu_pool.h"

/* The exclusive or of the 64-bit words of size_bytes bytes, a multiple of 128. */
uint64_t host_read(struct cpu_pool *pool, const void *bytes, size_t size_bytes);

#endif
