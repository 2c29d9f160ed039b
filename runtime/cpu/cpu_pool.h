/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that share out the items of a job among them, as they come free: a slow or busy core does not hold up the
 * rest. The thread that calls cpu_pool_run works too. Waiting threads spin for some 20 us, then sleep: threads that
 * spin longer take the processor from the ones that read from disk.
 */
#ifndef SCORIA_CPU_POOL_H
#define SCORIA_CPU_POOL_H

#include <stdint.h>

#include "error.h"

struct cpu_pool;

/* How many processors this process may use: its affinity and its cgroup's quota, at least 1. */
uint32_t cpu_count(void);

/* n_threads includes the caller's; 0: cpu_count(). NULL on failure. */
struct cpu_pool *cpu_pool_create(uint32_t n_threads, struct sc_error *e) SC_CHECK;
void cpu_pool_destroy(struct cpu_pool *p); /* accepts NULL */
uint32_t cpu_pool_threads(const struct cpu_pool *p);

/*
 * Calls work(context, i) for every i < n_items, in any order and from any of the threads, and returns when all calls
 * have returned. One caller at a time.
 */
void cpu_pool_run(struct cpu_pool *p, void (*work)(void *context, uint32_t item), void *context, uint32_t n_items);

#endif
