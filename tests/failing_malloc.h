/* SPDX-License-Identifier: Apache-2.0 */
/* Makes one allocation fail. Link with -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc. */
#ifndef SCORIA_TESTS_FAILING_MALLOC_H
#define SCORIA_TESTS_FAILING_MALLOC_H

#include <stdbool.h>
#include <stddef.h>

/* The nth allocation from now fails, 0 being the next one; -1: none does. */
void fail_malloc(long nth);

/* Whether it has failed since. */
bool malloc_has_failed(void);

#endif
