/* SPDX-License-Identifier: Apache-2.0 */
#include "failing_malloc.h"

static long countdown = -1;
static bool failed;

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);

void fail_malloc(long nth)
{
    countdown = nth;
    failed = false;
}

bool malloc_has_failed(void)
{
    return failed;
}

static bool fails_now(void)
{
    if (countdown < 0)
        return false;
    bool now = countdown-- == 0;
    failed |= now;
    return now;
}

void *__wrap_malloc(size_t size)
{
    return fails_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fails_now() ? NULL : __real_realloc(old, size);
}
