/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Experts on both engines: for a single token the GPU runs the experts that slots hold while the CPU runs the others
 * from RAM.
 */
#ifndef SCORIA_HOST_EXPERTS_H
#define SCORIA_HOST_EXPERTS_H

#include "cpu_experts.h"
#include "experts.h"
#include "session_memory.h"

struct host_experts;

/* Borrows all it is given. */
struct host_experts *host_experts_create(struct experts *x, const struct config *c, struct cpu_pool *pool,
                                         struct sc_error *e) SC_CHECK;
void host_experts_destroy(struct host_experts *h); /* accepts NULL */

/*
 * Computes the experts of memory->host_ids that the device's table does not list, from memory->host_x into
 * memory->host_y, and marks them in memory->on_host.
 */
void host_experts_run(struct host_experts *h, uint32_t layer, struct session_memory *memory);

/* Since it was created; 0 for NULL. */
uint64_t host_experts_n_runs(const struct host_experts *h);
double host_experts_seconds(const struct host_experts *h);

#endif
