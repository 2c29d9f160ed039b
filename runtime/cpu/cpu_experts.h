/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Experts on the CPU: y = W_down (silu(W_gate x) * (W_up x)), straight from GGUF blocks in memory, all types of
 * types.h, in fp32 or as exact (cpu_kernels.h has the bounds). The result depends neither on the number of threads nor
 * on what else is in the call: equal input gives equal bits.
 */
#ifndef SCORIA_CPU_EXPERTS_H
#define SCORIA_CPU_EXPERTS_H

#include "config.h"
#include "cpu_pool.h"

/* Row i of the job goes from x row x_rows[i] to y row y_rows[i]; NULL: the rows 0 to n - 1. Borrowed for the call. */
struct cpu_job {
    const struct expert_weights *expert;
    uint32_t n;
    const uint32_t *x_rows;
    const uint32_t *y_rows; /* no two rows of a call are the same */
};

struct cpu_experts;

/*
 * Room for calls of at most max_rows rows in all their jobs, of experts with these widths (both multiples of 16).
 * level: "avx512_vnni", "avx512", "avx2", "portable", or NULL for the best that this processor has. Borrows the pool.
 */
struct cpu_experts *cpu_experts_create(struct cpu_pool *pool, uint32_t n_embd, uint32_t n_ff, uint32_t max_rows,
                                       const char *level, struct sc_error *e) SC_CHECK;
void cpu_experts_destroy(struct cpu_experts *c); /* accepts NULL */

/* The level in use. */
const char *cpu_experts_level(const struct cpu_experts *c);

/*
 * y[y_rows[i]] = expert(x[x_rows[i]]) for all jobs; rows of x and y have n_embd floats. Returns when it is done.
 * Allocates nothing. One call at a time.
 */
void cpu_experts_run(struct cpu_experts *c, const struct cpu_job *jobs, uint32_t n_jobs, const float *x, float *y);

#endif
