/* SPDX-License-Identifier: Apache-2.0 */
#include "number.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool number_integer(const char *text, int64_t min, int64_t max, int64_t *out)
{
    char *end;

    /* strtoll would skip white space, and take an empty text for 0 */
    if (!isdigit((unsigned char)text[text[0] == '-' || text[0] == '+']))
        return false;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || *end || value < min || value > max)
        return false;
    *out = value;
    return true;
}

/* Digits, a point, an exponent: neither hexadecimal nor "inf", which strtod also reads. */
static bool read_decimal(const char *text, double *out, char **end)
{
    const char *first = text + (text[0] == '-' || text[0] == '+');

    if (!isdigit((unsigned char)first[0]) && !(first[0] == '.' && isdigit((unsigned char)first[1])))
        return false;
    if (first[0] == '0' && (first[1] == 'x' || first[1] == 'X'))
        return false;
    *out = strtod(text, end);
    return isfinite(*out);
}

bool number_real(const char *text, double min, double max, double *out)
{
    double value;
    char *end;

    if (!read_decimal(text, &value, &end) || *end || !(value >= min && value <= max))
        return false;
    *out = value;
    return true;
}

bool number_size(const char *text, uint64_t *out)
{
    static const struct {
        const char *name;
        double factor;
    } units[] = {
        {"", 1},     {"B", 1},      {"K", 0x1p10},   {"KiB", 0x1p10}, {"KB", 1e3},   {"M", 0x1p20},   {"MiB", 0x1p20},
        {"MB", 1e6}, {"G", 0x1p30}, {"GiB", 0x1p30}, {"GB", 1e9},     {"T", 0x1p40}, {"TiB", 0x1p40}, {"TB", 1e12},
    };
    double value;
    char *unit;

    if (!read_decimal(text, &value, &unit))
        return false;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcasecmp(unit, units[i].name))
            continue;
        value *= units[i].factor;
        if (!(value >= 1 && value < 0x1p63))
            return false;
        *out = (uint64_t)value;
        return true;
    }
    return false;
}

bool number_integers(const char *text, size_t size_bytes, int64_t min, int64_t max, struct integers *list)
{
    static const char separators[] = ", \t\r\n[]";
    size_t capacity = list->n;

    for (size_t at = 0; at < size_bytes;) {
        char word[24];
        size_t n = 0;
        int64_t value;

        if (text[at] && strchr(separators, text[at])) {
            at++;
            continue;
        }
        while (at + n < size_bytes && !(text[at + n] && strchr(separators, text[at + n])))
            n++;
        if (n >= sizeof word)
            return false;
        memcpy(word, text + at, n);
        word[n] = 0;
        if (strlen(word) != n || !number_integer(word, min, max, &value))
            return false;
        if (list->n == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            int64_t *values = realloc(list->values, capacity * sizeof *values);
            if (!values)
                return false;
            list->values = values;
        }
        list->values[list->n++] = value;
        at += n;
    }
    return true;
}

void integers_finish(struct integers *list)
{
    free(list->values);
    *list = (struct integers){0};
}

static const char *scaled(char *out, double value, double step, const char *const units[], size_t n_units)
{
    size_t unit = 0;

    while (unit + 1 < n_units && value >= step * 0.9995) {
        value /= step;
        unit++;
    }
    snprintf(out, 32, "%.*f %s", unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2, value, units[unit]);
    return out;
}

const char *number_bytes(char *out, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};

    return scaled(out, (double)bytes, 1024, units, sizeof units / sizeof units[0]);
}

const char *number_count(char *out, uint64_t count)
{
    static const char *const units[] = {"", "K", "M", "B", "T"};

    scaled(out, (double)count, 1000, units, sizeof units / sizeof units[0]);
    size_t length = strlen(out);
    if (out[length - 1] == ' ')
        out[length - 1] = 0;
    return out;
}
