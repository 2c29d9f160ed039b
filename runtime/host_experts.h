/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Experts on both engines: for a single token the GPU runs the experts that slots hold while the CPU runs the others
 * from RAM. What is missed often is promoted into a slot between tokens: into a free one at once, in the place of
 * another only when it has been used clearly more often of late, one a token, so that a token never waits for long.
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

/* Before a token: queues promotions, and what brings the device's table up to date. */
bool host_experts_begin(struct host_experts *h, struct upload *u, struct sc_error *e) SC_CHECK;

/*
 * Computes the experts of memory->host_ids that the device's table does not list, from memory->host_x into
 * memory->host_y, and marks them in memory->on_host.
 */
void host_experts_run(struct host_experts *h, uint32_t layer, struct session_memory *memory);

/* Since it was created; 0 for NULL. */
uint64_t host_experts_n_runs(const struct host_experts *h);
double host_experts_seconds(const struct host_experts *h);

#endif
