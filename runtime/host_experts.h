/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Experts on both engines: for single tokens and small batches the GPU runs the experts that slots hold while the CPU
 * runs the others from RAM.
 */
#ifndef SCORIA_HOST_EXPERTS_H
#define SCORIA_HOST_EXPERTS_H

#include "cpu_experts.h"
#include "experts.h"
#include "session_memory.h"

struct host_experts;

/* For passes of at most max_tokens tokens. Borrows all it is given. */
struct host_experts *host_experts_create(struct experts *x, const struct config *c, struct cpu_pool *pool,
                                         uint32_t max_tokens, struct sc_error *e) SC_CHECK;
void host_experts_destroy(struct host_experts *h); /* accepts NULL */

/*
 * Computes the experts that the layer's router chose for the pass's n tokens and that the device's table does not list,
 * from memory->host_x into memory->host_y, and marks their pairs in memory->on_host. Fails if the
 * experts cannot be read.
 */
bool host_experts_run(struct host_experts *h, uint32_t layer, uint32_t n, struct session_memory *memory,
                      struct sc_error *e) SC_CHECK;

/* Since it was created; 0 for NULL. */
uint64_t host_experts_n_runs(const struct host_experts *h);
double host_experts_seconds(const struct host_experts *h);

#endif
