/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCORIA_CLOCK_H
#define SCORIA_CLOCK_H

#include <time.h>

/* Seconds that only go forward; for differences. */
static inline double clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
