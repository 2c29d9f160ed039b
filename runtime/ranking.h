/* SPDX-License-Identifier: Apache-2.0 */
/* Some of n experts, and which of them is worth least. Any of them may join, leave, or change its worth. */
#ifndef SCORIA_RANKING_H
#define SCORIA_RANKING_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

#define RANKING_NONE UINT32_MAX

struct ranking {
    uint64_t *worth; /* (n) of the members */
    uint32_t *heap;  /* (n_members) nobody is worth less than who stands at half its place */
    uint32_t *place; /* (n) in the heap, or RANKING_NONE */
    uint32_t n_members;
};

/* Without members. */
bool ranking_init(struct ranking *r, uint32_t n, struct sc_error *e) SC_CHECK;
void ranking_finish(struct ranking *r); /* accepts a zeroed struct */

void ranking_set(struct ranking *r, uint32_t index, uint64_t worth);
void ranking_remove(struct ranking *r, uint32_t index); /* accepts who is no member */

static inline bool ranking_has(const struct ranking *r, uint32_t index)
{
    return r->place[index] != RANKING_NONE;
}

/* Among equals the lowest index; RANKING_NONE: there are no members. */
static inline uint32_t ranking_least(const struct ranking *r)
{
    return r->n_members ? r->heap[0] : RANKING_NONE;
}

#endif
