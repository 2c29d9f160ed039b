/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors are values. A function that can fail takes a `struct sc_error *` (never NULL) and returns true or a non-NULL
 * pointer on success, false or NULL on failure. On failure the error holds a code for the program and one sentence for
 * the user, with the file, tensor or device in it and no full stop. The first failure wins: setting an error that is
 * already set changes nothing, so a cleanup path may fail without hiding the cause. Start
 * with `struct sc_error e = {0}`.
 */
#ifndef SCORIA_ERROR_H
#define SCORIA_ERROR_H

#include <stdbool.h>

enum sc_code {
    SC_OK = 0,
    SC_INVALID_ARGUMENT,     /* the caller asked for something that makes no sense */
    SC_IO,                   /* the operating system could not read or write a file */
    SC_BAD_FILE,             /* the file contradicts its own format */
    SC_UNSUPPORTED,          /* valid, but Scoria has no code for it */
    SC_NO_DEVICE,            /* no Vulkan loader, no driver, or no device of that name */
    SC_OUT_OF_MEMORY,        /* host memory */
    SC_OUT_OF_DEVICE_MEMORY, /* device memory, or the --vram budget is too small */
    SC_CONTEXT_FULL,         /* more tokens than the session's context holds */
    SC_DEVICE_LOST,          /* the driver gave up; the engine can only be destroyed */
    SC_CANCELLED,            /* a callback asked to stop */
};

struct sc_error {
    enum sc_code code;
    char text[500];
};

#if defined(__GNUC__)
#define SC_CHECK __attribute__((warn_unused_result))
#define SC_PRINTF(format_at, args_at) __attribute__((format(printf, format_at, args_at)))
#else
#define SC_CHECK
#define SC_PRINTF(format_at, args_at)
#endif

/* Sets *e unless it is set already. Always returns false, so that `return sc_fail(e, ...)` reads well. */
bool sc_fail(struct sc_error *e, enum sc_code code, const char *format, ...) SC_PRINTF(3, 4);

/* Host memory ran out while making `what`. Always returns false. */
bool sc_fail_memory(struct sc_error *e, const char *what);

#endif
