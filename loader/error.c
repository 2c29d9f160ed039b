/* SPDX-License-Identifier: Apache-2.0 */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool sc_fail(struct sc_error *e, enum sc_code code, const char *format, ...)
{
    if (e->code != SC_OK)
        return false;

    e->code = code;
    va_list args;
    va_start(args, format);
    int length = vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);

    if (length >= (int)sizeof e->text) {
        /* Cut before a character, never inside one: continuation bytes of UTF-8 are 10xxxxxx. */
        size_t end = sizeof e->text - sizeof "...";
        while (end > 0 && ((unsigned char)e->text[end] & 0xC0) == 0x80)
            end--;
        memcpy(e->text + end, "...", sizeof "...");
    }
    return false;
}

bool sc_fail_memory(struct sc_error *e, const char *what)
{
    return sc_fail(e, SC_OUT_OF_MEMORY, "not enough memory for %s", what);
}
