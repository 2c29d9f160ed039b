/* SPDX-License-Identifier: Apache-2.0 */
#include "host_experts.h"

#include <stdlib.h>

#include "clock.h"

/* Uses count less the longer ago they were: by half after some 70 tokens. */
static const float DECAY = 0.99f;
/* How much hotter than its victim an expert must be: a promotion costs as much as it saves in several uses. */
static const float ADVANTAGE = 2;

struct host_experts {
    struct experts *x;
    const struct config *c;
    struct cpu_experts *cpu;
    float *heat;      /* (n_layers, n_experts) decayed count of uses */
    uint32_t *missed; /* (n_layers * n_used) the last token's misses: layer * n_experts + expert */
    uint32_t n_missed;
    uint64_t n_runs;
    double seconds;
};

struct host_experts *host_experts_create(struct experts *x, const struct config *c, struct cpu_pool *pool,
                                         struct sc_error *e)
{
    struct host_experts *h = calloc(1, sizeof(*h));
    if (!h) {
        sc_fail_memory(e, "the experts on the CPU");
        return NULL;
    }
    h->x = x;
    h->c = c;
    h->heat = calloc((size_t)c->n_layers * c->n_experts, sizeof(*h->heat));
    h->missed = calloc((size_t)c->n_layers * c->n_experts_used, sizeof(*h->missed));
    if (!h->heat || !h->missed)
        sc_fail_memory(e, "the experts on the CPU");
    else
        h->cpu = cpu_experts_create(pool, c->n_embd, c->n_ff, c->n_experts_used, NULL, e);
    if (h->cpu)
        return h;
    host_experts_destroy(h);
    return NULL;
}

void host_experts_destroy(struct host_experts *h)
{
    if (!h)
        return;
    cpu_experts_destroy(h->cpu);
    free(h->heat);
    free(h->missed);
    free(h);
}

/* The coldest expert in a slot. */
static uint32_t coldest(const struct host_experts *h)
{
    const struct experts *x = h->x;
    uint32_t slot = 0;
    for (uint32_t i = 1; i < x->n_slots; i++)
        if (h->heat[x->owner[i]] < h->heat[x->owner[slot]])
            slot = i;
    return slot;
}

static bool promote(struct host_experts *h, struct upload *u, struct sc_error *e)
{
    struct experts *x = h->x;
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < h->n_missed; i++) {
        const uint32_t expert = h->missed[i], slot = experts_free_slot(x);
        if (x->slot_of[expert] != UINT32_MAX)
            continue; /* a prompt came in between and brought it */
        if (slot != UINT32_MAX) {
            if (!experts_place(x, u, expert, slot, e))
                return false;
        } else if (best == UINT32_MAX || h->heat[expert] > h->heat[best])
            best = expert;
    }
    h->n_missed = 0;
    if (best == UINT32_MAX)
        return true;
    const uint32_t slot = coldest(h);
    return h->heat[best] < h->heat[x->owner[slot]] + ADVANTAGE || experts_place(x, u, best, slot, e);
}

bool host_experts_begin(struct host_experts *h, struct upload *u, struct sc_error *e)
{
    if (!promote(h, u, e))
        return false;
    for (uint32_t i = 0; i < h->c->n_layers * h->c->n_experts; i++)
        h->heat[i] *= DECAY;
    for (uint32_t l = 0; l < h->c->n_layers; l++)
        if (!experts_publish(h->x, u, l, e))
            return false;
    return true;
}

void host_experts_run(struct host_experts *h, uint32_t layer, struct session_memory *memory)
{
    const uint32_t n_used = h->c->n_experts_used, zero = 0;
    struct cpu_job jobs[SC_MAX_EXPERTS_USED];
    uint32_t rows[SC_MAX_EXPERTS_USED], n_jobs = 0;
    const double start = clock_seconds();
    for (uint32_t k = 0; k < n_used; k++) {
        const uint32_t expert = memory->host_ids[k], index = layer * h->c->n_experts + expert;
        h->heat[index] += 1;
        const bool hit = experts_use(h->x, index);
        memory->on_host[k] = !hit;
        if (hit)
            continue;
        h->missed[h->n_missed++] = index;
        rows[n_jobs] = k;
        jobs[n_jobs] = (struct cpu_job){
            .expert = &h->x->weights->layers[layer].experts[expert], .n = 1, .x_rows = &zero, .y_rows = &rows[n_jobs]};
        n_jobs++;
    }
    if (n_jobs) {
        cpu_experts_run(h->cpu, jobs, n_jobs, memory->host_x, memory->host_y);
        h->n_runs += n_jobs;
        h->seconds += clock_seconds() - start;
    }
}

uint64_t host_experts_n_runs(const struct host_experts *h)
{
    return h ? h->n_runs : 0;
}

double host_experts_seconds(const struct host_experts *h)
{
    return h ? h->seconds : 0;
}
