/* SPDX-License-Identifier: Apache-2.0 */
/* Well-formed UTF-8 as Unicode defines it (table 3-7): no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef SCORIA_UTF8_H
#define SCORIA_UTF8_H

#include <stdbool.h>
#include <stddef.h>

#define UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD, stands for one byte that is part of no character */

/* The length, 1 to 4, of the character that text begins with; 0 if it begins with none or size_bytes is 0. */
size_t utf8_length(const char *text, size_t size_bytes);

/* Whether text is the beginning of a character whose other bytes may still come. */
bool utf8_is_partial(const char *text, size_t size_bytes);

#endif
