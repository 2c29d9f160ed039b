/* SPDX-License-Identifier: Apache-2.0 */
/* How much RAM there is to be had. */
#ifndef SCORIA_RAM_H
#define SCORIA_RAM_H

#include <stdint.h>

/*
 * Bytes that this process may still take: what the system says is available, and what the memory limits of its cgroups
 * (versions 1 and 2) leave; the cached pages of files count as free. UINT64_MAX: the system does not say.
 */
uint64_t ram_available(void);

#endif
