/* SPDX-License-Identifier: Apache-2.0 */
#include "host_experts.h"

#include <stdlib.h>

#include "clock.h"

struct host_experts {
    struct experts *x;
    const struct config *c;
    struct cpu_experts *cpu;
    struct cpu_job *jobs;           /* (n_experts) */
    uint32_t *indices;              /* (n_experts) of the jobs' experts */
    struct expert_weights *experts; /* (n_experts) of the jobs */
    uint32_t *x_rows, *y_rows;      /* (max_tokens * n_used) of all jobs, one after the other */
    uint64_t n_runs;
    double seconds;
};

struct host_experts *host_experts_create(struct experts *x, const struct config *c, struct cpu_pool *pool,
                                         uint32_t max_tokens, struct sc_error *e)
{
    struct host_experts *h = calloc(1, sizeof(*h));
    if (!h) {
        sc_fail_memory(e, "the experts on the CPU");
        return NULL;
    }
    const uint32_t max_pairs = max_tokens * c->n_experts_used;
    h->x = x;
    h->c = c;
    h->jobs = calloc(c->n_experts, sizeof(*h->jobs));
    h->indices = calloc(c->n_experts, sizeof(*h->indices));
    h->experts = calloc(c->n_experts, sizeof(*h->experts));
    h->x_rows = calloc(max_pairs, sizeof(*h->x_rows));
    h->y_rows = calloc(max_pairs, sizeof(*h->y_rows));
    if (!h->jobs || !h->indices || !h->experts || !h->x_rows || !h->y_rows)
        sc_fail_memory(e, "the experts on the CPU");
    else
        h->cpu = cpu_experts_create(pool, c->n_embd, c->n_ff, max_pairs, NULL, e);
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
    free(h->jobs);
    free(h->indices);
    free(h->experts);
    free(h->x_rows);
    free(h->y_rows);
    free(h);
}

/*
 * The layer's experts that no slot holds, as jobs: rows of x are tokens, rows of y are pairs. Marks the jobs' pairs.
 * Returns how many jobs there are.
 */
static uint32_t make_jobs(struct host_experts *h, uint32_t layer, const uint32_t *choice, uint32_t n_pairs,
                          uint32_t *on_host)
{
    struct cpu_job *job_of[SC_MAX_EXPERTS] = {NULL};
    bool hit[SC_MAX_EXPERTS], seen[SC_MAX_EXPERTS] = {false};
    uint32_t n_jobs = 0, first = 0;
    for (uint32_t pair = 0; pair < n_pairs; pair++) {
        const uint32_t id = choice[pair];
        if (!seen[id]) {
            seen[id] = true;
            hit[id] = experts_find(h->x, layer, id);
            if (!hit[id]) {
                h->indices[n_jobs] = layer * h->c->n_experts + id;
                h->jobs[n_jobs] = (struct cpu_job){.expert = &h->experts[n_jobs]};
                job_of[id] = &h->jobs[n_jobs++];
            }
        }
        on_host[pair] = !hit[id];
        if (!hit[id])
            job_of[id]->n++;
    }
    for (uint32_t i = 0; i < n_jobs; i++) {
        h->jobs[i].x_rows = h->x_rows + first;
        h->jobs[i].y_rows = h->y_rows + first;
        first += h->jobs[i].n;
        h->jobs[i].n = 0;
    }
    for (uint32_t pair = 0; pair < n_pairs; pair++) {
        struct cpu_job *job = job_of[choice[pair]];
        if (!job)
            continue;
        const size_t row = (size_t)(job->x_rows - h->x_rows) + job->n++;
        h->x_rows[row] = pair / h->c->n_experts_used;
        h->y_rows[row] = pair;
    }
    return n_jobs;
}

/* n jobs from the one at `first` on, whose experts RAM holds meanwhile. */
static bool run_jobs(struct host_experts *h, uint32_t first, uint32_t n, struct session_memory *memory,
                     struct sc_error *e)
{
    uint32_t n_pinned = 0;
    while (n_pinned < n && store_pin(h->x->store, h->indices[first + n_pinned], &h->experts[first + n_pinned], e))
        n_pinned++;
    if (n_pinned == n)
        cpu_experts_run(h->cpu, h->jobs + first, n, memory->host_x, memory->host_y);
    for (uint32_t i = 0; i < n_pinned; i++)
        store_unpin(h->x->store, h->indices[first + i]);
    return n_pinned == n;
}

bool host_experts_run(struct host_experts *h, uint32_t layer, uint32_t n, struct session_memory *memory,
                      struct sc_error *e)
{
    const double start = clock_seconds();
    const uint32_t n_jobs =
        make_jobs(h, layer, session_choice(memory, layer), n * h->c->n_experts_used, memory->on_host);
    const uint32_t most = store_n_pins(h->x->store);
    if (!n_jobs)
        return true;
    store_want(h->x->store, h->indices, n_jobs);
    for (uint32_t first = 0; first < n_jobs; first += most)
        if (!run_jobs(h, first, n_jobs - first < most ? n_jobs - first : most, memory, e))
            return false;
    h->n_runs += n_jobs;
    h->seconds += clock_seconds() - start;
    return true;
}

uint64_t host_experts_n_runs(const struct host_experts *h)
{
    return h ? h->n_runs : 0;
}

double host_experts_seconds(const struct host_experts *h)
{
    return h ? h->seconds : 0;
}
