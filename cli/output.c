/* SPDX-License-Identifier: Apache-2.0 */
#include "output.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "terminal.h"
#include "text.h"

static int failure; /* errno of the first failed write */

static bool failed(void)
{
    if (!failure)
        failure = errno ? errno : EIO;
    return false;
}

bool output_write(const char *data, size_t size_bytes)
{
    if (failure)
        return false;
    errno = 0;
    return fwrite(data, 1, size_bytes, stdout) == size_bytes || failed();
}

bool output_printf(const char *format, ...)
{
    va_list arguments;

    if (failure)
        return false;
    errno = 0;
    va_start(arguments, format);
    int n = vprintf(format, arguments);
    va_end(arguments);
    return n >= 0 || failed();
}

bool output_flush(void)
{
    if (failure)
        return false;
    errno = 0;
    return fflush(stdout) == 0 || failed();
}

bool output_model_text(const char *data, size_t size_bytes)
{
    if (!terminal_output())
        return output_write(data, size_bytes);
    for (size_t i = 0; i < size_bytes; i++) {
        unsigned char c = (unsigned char)data[i];
        bool is_c1 = c == 0xc2 && i + 1 < size_bytes && (unsigned char)data[i + 1] < 0xa0;
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f || is_c1)
            output_write("\xef\xbf\xbd", 3);
        else
            output_write(data + i, 1);
        i += is_c1;
    }
    return !failure;
}

void output_quoted(const char *data, size_t size_bytes, size_t max_characters)
{
    for (size_t at = 0, n = 0; at < size_bytes; n++) {
        size_t length = text_character(data + at, size_bytes - at);
        unsigned char c = (unsigned char)data[at];
        if (n == max_characters) {
            output_printf("...");
            return;
        }
        if (c == '\n')
            output_printf("\\n");
        else if (c == '\t')
            output_printf("\\t");
        else if (c == '\r')
            output_printf("\\r");
        else if (length == 0 || c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)data[at + 1] < 0xa0))
            for (size_t i = 0; i < (length ? length : 1); i++)
                output_printf("\\x%02x", (unsigned char)data[at + i]);
        else
            output_write(data + at, length);
        at += length ? length : 1;
    }
}

static int dump(const char *data, size_t size_bytes, void *user)
{
    (void)user;
    return output_write(data, size_bytes) ? 0 : -1;
}

void output_json(json_t *value)
{
    if (!value) {
        errno = ENOMEM;
        failed();
        return;
    }
    if (!json_dump_callback(value, dump, NULL, JSON_INDENT(2) | JSON_REAL_PRECISION(9)))
        output_write("\n", 1);
    json_decref(value);
}

int output_finish(int status)
{
    output_flush();
    if (!failure || failure == EPIPE)
        return status;
    if (status != 0)
        return status; /* the first sentence is enough */
    terminal_error("cannot write to standard output: %s", strerror(failure));
    return 1;
}

void json_put(json_t *object, const char *key, json_t *value)
{
    /* fails only without memory; then the key is missing, and there are worse things to worry about */
    json_object_set_new(object, key, value);
}

json_t *json_text(const char *data, size_t size_bytes)
{
    /* every byte may become the three of U+FFFD */
    char *clean = malloc(3 * size_bytes + 1);
    size_t n = 0;

    if (!clean)
        return NULL;
    for (size_t at = 0; at < size_bytes;) {
        size_t length = text_character(data + at, size_bytes - at);
        memcpy(clean + n, length ? data + at : "\xef\xbf\xbd", length ? length : 3);
        n += length ? length : 3;
        at += length ? length : 1;
    }
    json_t *value = json_stringn(clean, n);
    free(clean);
    return value;
}

json_t *json_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *json_count(uint64_t value)
{
    return value <= INT64_MAX ? json_integer((json_int_t)value) : json_real((double)value);
}

json_t *json_word(const char *text)
{
    return text ? json_text(text, strlen(text)) : json_null();
}
