/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The optimum that pays for uploads is a flow of least cost. Each slot walks through time, from before the first use to
 * behind the last, and at use i it is idle (node 2i) or holds that use's expert (node 2i + 1):
 *
 *     idle:  2i -> 2i + 2          0, any number of slots
 *     fetch: 2i -> 2i + 1      price, the use is the miss that brings it in
 *     hold:  2i + 1 -> 2 next(i) + 1   -1, its next use is a hit
 *     drop:  2i + 1 -> 2i + 2      0
 *
 * Slot after slot takes the cheapest way that is left, and may undo steps of those before (the residual graph).
 */
#include <limits.h>
#include <stdlib.h>

#include "belady.h"

enum step { IDLE, FETCH, HOLD, DROP, N_STEPS };

struct flow {
    const struct belady_use *uses;
    size_t n;
    int price;
    size_t *next, *before;      /* (n) the expert's next use and the one before, SIZE_MAX: none */
    uint32_t *through[N_STEPS]; /* (n) slots that take this step at use i */
    long *cost;                 /* (2n + 1) cheapest way from the start */
    size_t *from;               /* (2n + 1) the node before on that way */
};

static bool flow_init(struct flow *f, const struct belady_use *uses, size_t n, uint32_t n_indices, int price)
{
    *f = (struct flow){.uses = uses, .n = n, .price = price, .next = belady_next(uses, n, n_indices)};
    f->before = malloc((n + 1) * sizeof(*f->before));
    f->cost = malloc((2 * n + 1) * sizeof(*f->cost));
    f->from = malloc((2 * n + 1) * sizeof(*f->from));
    bool ok = f->next && f->before && f->cost && f->from;
    for (enum step s = 0; s < N_STEPS; s++) {
        f->through[s] = calloc(n + 1, sizeof(*f->through[s]));
        ok = ok && f->through[s];
    }
    for (size_t i = 0; ok && i < n; i++)
        f->before[i] = SIZE_MAX;
    for (size_t i = 0; ok && i < n; i++)
        if (f->next[i] != SIZE_MAX)
            f->before[f->next[i]] = i;
    return ok;
}

static void flow_finish(struct flow *f)
{
    free(f->next);
    free(f->before);
    free(f->cost);
    free(f->from);
    for (enum step s = 0; s < N_STEPS; s++)
        free(f->through[s]);
}

static long fetch_cost(const struct flow *f, size_t i)
{
    return f->uses[i].counts ? f->price : 0;
}

static long hold_gain(const struct flow *f, size_t i)
{
    return f->uses[f->next[i]].counts ? 1 : 0;
}

static bool relax(struct flow *f, size_t from, size_t to, long cost)
{
    if (f->cost[from] == LONG_MAX || f->cost[from] + cost >= f->cost[to])
        return false;
    f->cost[to] = f->cost[from] + cost;
    f->from[to] = from;
    return true;
}

/* The steps at use i that are left, and those that can be undone. */
static bool relax_use(struct flow *f, size_t i)
{
    uint32_t *const *t = f->through;
    const size_t idle = 2 * i, held = 2 * i + 1, later = 2 * i + 2;
    bool changed = relax(f, idle, later, 0);
    changed |= t[IDLE][i] && relax(f, later, idle, 0);
    changed |= t[FETCH][i] ? relax(f, held, idle, -fetch_cost(f, i)) : relax(f, idle, held, fetch_cost(f, i));
    changed |= t[DROP][i] ? relax(f, later, held, 0) : relax(f, held, later, 0);
    if (f->next[i] != SIZE_MAX) {
        const size_t again = 2 * f->next[i] + 1;
        changed |= t[HOLD][i] ? relax(f, again, held, hold_gain(f, i)) : relax(f, held, again, -hold_gain(f, i));
    }
    return changed;
}

/* Sweeps to and fro until no way gets cheaper. */
static long cheapest_way(struct flow *f)
{
    for (size_t v = 0; v <= 2 * f->n; v++)
        f->cost[v] = LONG_MAX;
    f->cost[0] = 0;
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t i = 0; i < f->n; i++)
            changed |= relax_use(f, i);
        for (size_t i = f->n; changed && i-- > 0;)
            relax_use(f, i);
    }
    return f->cost[2 * f->n];
}

static void take_way(struct flow *f)
{
    for (size_t to = 2 * f->n, from; to != 0; to = from) {
        from = f->from[to];
        const size_t low = from < to ? from : to, high = from < to ? to : from, i = low / 2;
        const enum step s = low % 2 == 0 ? (high == low + 1 ? FETCH : IDLE) : high % 2 == 0 ? DROP : HOLD;
        if (from < to)
            f->through[s][i]++;
        else
            f->through[s][i]--;
    }
}

bool belady_priced(struct belady_use *uses, size_t n, uint32_t n_indices, uint32_t n_slots, int price,
                   struct sc_error *e)
{
    struct flow f;
    const bool ok = flow_init(&f, uses, n, n_indices, price);
    for (uint32_t slot = 0; ok && slot < n_slots && cheapest_way(&f) < 0; slot++)
        take_way(&f);
    for (size_t i = 0; ok && i < n; i++) {
        uses[i].is_upload = f.through[FETCH][i] > 0;
        uses[i].is_hit = f.before[i] != SIZE_MAX && f.through[HOLD][f.before[i]] > 0;
    }
    flow_finish(&f);
    return ok || sc_fail_memory(e, "the optimum");
}
