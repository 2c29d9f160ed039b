/* SPDX-License-Identifier: Apache-2.0 */
#include "ranking.h"

#include <stdlib.h>
#include <string.h>

bool ranking_init(struct ranking *r, uint32_t n, struct sc_error *e)
{
    r->worth = calloc(n, sizeof(*r->worth));
    r->heap = calloc(n, sizeof(*r->heap));
    r->place = calloc(n, sizeof(*r->place));
    r->n_members = 0;
    if (!r->worth || !r->heap || !r->place)
        return sc_fail_memory(e, "a ranking of experts");
    memset(r->place, 0xff, n * sizeof(*r->place));
    return true;
}

void ranking_finish(struct ranking *r)
{
    free(r->worth);
    free(r->heap);
    free(r->place);
    *r = (struct ranking){0};
}

static bool is_less(const struct ranking *r, uint32_t a, uint32_t b)
{
    return r->worth[a] < r->worth[b] || (r->worth[a] == r->worth[b] && a < b);
}

static void put(struct ranking *r, uint32_t at, uint32_t index)
{
    r->heap[at] = index;
    r->place[index] = at;
}

/* Puts the member where it belongs, from the free place `at` on. */
static void settle(struct ranking *r, uint32_t at, uint32_t index)
{
    for (; at && is_less(r, index, r->heap[(at - 1) / 2]); at = (at - 1) / 2)
        put(r, at, r->heap[(at - 1) / 2]);
    for (uint32_t child; (child = 2 * at + 1) < r->n_members; at = child) {
        if (child + 1 < r->n_members && is_less(r, r->heap[child + 1], r->heap[child]))
            child++;
        if (!is_less(r, r->heap[child], index))
            break;
        put(r, at, r->heap[child]);
    }
    put(r, at, index);
}

void ranking_set(struct ranking *r, uint32_t index, uint64_t worth)
{
    r->worth[index] = worth;
    settle(r, ranking_has(r, index) ? r->place[index] : r->n_members++, index);
}

void ranking_remove(struct ranking *r, uint32_t index)
{
    if (!ranking_has(r, index))
        return;
    const uint32_t at = r->place[index], last = r->heap[--r->n_members];
    r->place[index] = RANKING_NONE;
    if (last != index)
        settle(r, at, last);
}
