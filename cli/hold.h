/* SPDX-License-Identifier: Apache-2.0 */
/* Holds back the text that may be the beginning of the text that ends an answer, until that is known. */
#ifndef SCORIA_CLI_HOLD_H
#define SCORIA_CLI_HOLD_H

#include <stdbool.h>
#include <stddef.h>

/* Start with {.stop = ...}; NULL or "": nothing is held. */
struct hold {
    const char *stop;
    size_t n_waiting; /* the first so many bytes of stop have come and wait */
    bool found;       /* all have: nothing is let through any more */
};

/* Lets through what is certain. False if emit gave false. */
bool hold_text(struct hold *h, const char *text, size_t size_bytes, bool (*emit)(void *, const char *, size_t),
               void *user);

/* The text is over: lets through what waited in vain. */
bool hold_end(struct hold *h, bool (*emit)(void *, const char *, size_t), void *user);

#endif
