/* SPDX-License-Identifier: Apache-2.0 */
#include "belady.h"

#include <stdlib.h>

struct slot {
    uint32_t index, group;
    size_t next; /* where its expert is used again */
};

size_t *belady_next(const struct belady_use *uses, size_t n, uint32_t n_indices)
{
    size_t *next = malloc((n + 1) * sizeof(*next)), *seen = malloc((n_indices + (size_t)1) * sizeof(*seen));
    for (uint32_t i = 0; seen && i < n_indices; i++)
        seen[i] = SIZE_MAX;
    for (size_t i = n; next && seen && i-- > 0;) {
        next[i] = seen[uses[i].index];
        seen[uses[i].index] = i;
    }
    if (!seen) {
        free(next);
        next = NULL;
    }
    free(seen);
    return next;
}

/* The slot whose expert is needed last, if possible one outside the group. */
static uint32_t victim(const struct slot *slots, uint32_t n, uint32_t group)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        const bool in = slots[i].group == group, best_in = slots[best].group == group;
        if (in == best_in ? slots[i].next > slots[best].next : best_in)
            best = i;
    }
    return best;
}

bool belady_run(struct belady_use *uses, size_t n, uint32_t n_indices, uint32_t n_slots, bool bypass,
                struct sc_error *e)
{
    size_t *next = belady_next(uses, n, n_indices);
    struct slot *slots = malloc((n_slots + (size_t)1) * sizeof(*slots));
    uint32_t *slot_of = malloc((n_indices + (size_t)1) * sizeof(*slot_of)), n_filled = 0;
    const bool ok = next && slots && slot_of;
    for (uint32_t i = 0; ok && i < n_indices; i++)
        slot_of[i] = UINT32_MAX;
    for (size_t first = 0, end; ok && first < n; first = end) {
        for (end = first; end < n && uses[end].group == uses[first].group; end++) {
            const uint32_t slot = slot_of[uses[end].index];
            uses[end].is_hit = slot != UINT32_MAX;
            uses[end].is_upload = false;
            if (uses[end].is_hit)
                slots[slot] = (struct slot){uses[end].index, bypass ? 0 : uses[end].group, next[end]};
        }
        for (size_t i = first; i < end; i++) {
            if (uses[i].is_hit)
                continue;
            uint32_t slot = n_filled;
            if (n_filled == n_slots) {
                slot = victim(slots, n_slots, bypass ? 0 : uses[i].group);
                if (bypass && slots[slot].next <= next[i])
                    continue;
                slot_of[slots[slot].index] = UINT32_MAX;
            } else {
                n_filled++;
            }
            slots[slot] = (struct slot){uses[i].index, bypass ? 0 : uses[i].group, next[i]};
            slot_of[uses[i].index] = slot;
            uses[i].is_upload = true;
        }
    }
    free(next);
    free(slots);
    free(slot_of);
    return ok || sc_fail_memory(e, "the optimum");
}

struct count {
    uint64_t n;
    uint32_t index;
};

static int by_count(const void *a, const void *b)
{
    const struct count *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n ? 1 : -1) : x->index > y->index ? 1 : -1;
}

bool belady_fixed(struct belady_use *uses, size_t n, uint32_t n_indices, uint32_t n_slots, struct sc_error *e)
{
    struct count *counts = calloc(n_indices + (size_t)1, sizeof(*counts));
    bool *is_there = calloc(n_indices + (size_t)1, sizeof(*is_there));
    const bool ok = counts && is_there;
    for (uint32_t i = 0; ok && i < n_indices; i++)
        counts[i].index = i;
    for (size_t i = 0; ok && i < n; i++)
        counts[uses[i].index].n += uses[i].counts;
    if (ok)
        qsort(counts, n_indices, sizeof(*counts), by_count);
    for (uint32_t i = 0; ok && i < n_slots && i < n_indices; i++)
        is_there[counts[i].index] = true;
    for (size_t i = 0; ok && i < n; i++) {
        uses[i].is_hit = is_there[uses[i].index];
        uses[i].is_upload = false;
    }
    free(counts);
    free(is_there);
    return ok || sc_fail_memory(e, "the optimum");
}
