/* SPDX-License-Identifier: Apache-2.0 */
#include "host_experts.h"

#include <stdlib.h>

#include "clock.h"

struct host_experts {
    struct experts *x;
    const struct config *c;
    struct cpu_experts *cpu;
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
    free(h);
}

void host_experts_run(struct host_experts *h, uint32_t layer, struct session_memory *memory)
{
    const uint32_t n_used = h->c->n_experts_used, zero = 0;
    struct cpu_job jobs[SC_MAX_EXPERTS_USED];
    uint32_t rows[SC_MAX_EXPERTS_USED], n_jobs = 0;
    const double start = clock_seconds();
    for (uint32_t k = 0; k < n_used; k++) {
        const uint32_t expert = memory->host_ids[k];
        const bool hit = experts_find(h->x, layer, expert);
        memory->on_host[k] = !hit;
        if (hit)
            continue;
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
