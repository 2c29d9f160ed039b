/* SPDX-License-Identifier: Apache-2.0 */
#include "utf8.h"

/*
 * The length that the first byte promises, 0 if no character begins with it, and the range of the second byte: that is
 * where overlong forms, surrogates and numbers above U+10FFFF are told apart.
 */
static size_t promised_length(unsigned char first, unsigned char *low, unsigned char *high)
{
    *low = 0x80;
    *high = 0xBF;
    if (first < 0x80)
        return 1;
    if (first >= 0xC2 && first <= 0xDF)
        return 2;
    if (first >= 0xE0 && first <= 0xEF) {
        if (first == 0xE0)
            *low = 0xA0;
        if (first == 0xED)
            *high = 0x9F;
        return 3;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        if (first == 0xF0)
            *low = 0x90;
        if (first == 0xF4)
            *high = 0x8F;
        return 4;
    }
    return 0;
}

/* How many bytes of text agree with the character that its first byte promises, at most *length of them. */
static size_t agreeing(const char *text, size_t size_bytes, size_t *length)
{
    *length = 0;
    if (size_bytes == 0)
        return 0;
    unsigned char low, high;
    *length = promised_length((unsigned char)text[0], &low, &high);
    size_t n = *length > 0;
    while (n < *length && n < size_bytes) {
        unsigned char c = (unsigned char)text[n];
        if (c < low || c > high)
            break;
        low = 0x80;
        high = 0xBF;
        n++;
    }
    return n;
}

size_t utf8_length(const char *text, size_t size_bytes)
{
    size_t length, n = agreeing(text, size_bytes, &length);
    return n == length ? length : 0;
}

bool utf8_is_partial(const char *text, size_t size_bytes)
{
    size_t length, n = agreeing(text, size_bytes, &length);
    return n < length && n == size_bytes;
}
