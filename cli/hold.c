/* SPDX-License-Identifier: Apache-2.0 */
#include "hold.h"

#include <string.h>

/* The byte at `at` of the text that begins with what waits. */
static char byte_at(const struct hold *h, const char *text, size_t at)
{
    return at < h->n_waiting ? h->stop[at] : text[at - h->n_waiting];
}

/* Where in the waiting bytes and the text the stop text begins, perhaps beyond the end; else where they end. */
static size_t find(const struct hold *h, const char *text, size_t size, size_t *n_matched)
{
    for (size_t start = 0; start < size; start++) {
        size_t n = 0;
        while (h->stop[n] && start + n < size && byte_at(h, text, start + n) == h->stop[n])
            n++;
        if (!h->stop[n] || start + n == size) {
            *n_matched = n;
            return start;
        }
    }
    *n_matched = 0;
    return size;
}

bool hold_text(struct hold *h, const char *text, size_t size_bytes, bool (*emit)(void *, const char *, size_t),
               void *user)
{
    size_t n_matched, n_waited = h->n_waiting;

    if (h->found || !size_bytes)
        return true;
    if (!h->stop || !*h->stop)
        return emit(user, text, size_bytes);

    size_t certain = find(h, text, n_waited + size_bytes, &n_matched);
    h->n_waiting = n_matched;
    h->found = !h->stop[n_matched];
    size_t of_waited = certain < n_waited ? certain : n_waited;
    if (of_waited && !emit(user, h->stop, of_waited))
        return false;
    return certain <= n_waited || emit(user, text, certain - n_waited);
}

bool hold_end(struct hold *h, bool (*emit)(void *, const char *, size_t), void *user)
{
    size_t n = h->n_waiting;

    h->n_waiting = 0;
    return h->found || !n || emit(user, h->stop, n);
}
