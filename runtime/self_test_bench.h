/* SPDX-License-Identifier: Apache-2.0 */
/* What the self-tests of all families compute with: memory of the device, what the host sees of it, and a stream. */
#ifndef SCORIA_SELF_TEST_BENCH_H
#define SCORIA_SELF_TEST_BENCH_H

#include "ops.h"

struct bench {
    struct gpu *gpu;
    struct commands upload, commands;
    struct buffer memory;  /* the device's own, as what kernels meet later */
    struct buffer staging; /* the same for the host */
    uint64_t used;
    uint8_t *blocks; /* scratch, as large as memory */
    uint64_t seed;   /* of what is random */
};

bool bench_init(struct bench *b, struct gpu *gpu, struct sc_error *e) SC_CHECK;
void bench_finish(struct bench *b); /* accepts a struct whose bench_init failed; waits for the device */

/* Poisoned memory for a matrix, with a guard behind it; and the same with random blocks, as layout.h lays them out. */
struct tensor bench_lay(struct bench *b, enum sc_type type, uint32_t rows, uint32_t cols);
struct tensor bench_lay_random(struct bench *b, enum sc_type type, uint32_t rows, uint32_t cols, float sigma);

/* A row of such random weights. */
void bench_weights(struct bench *b, struct tensor w, uint32_t row, float *values);

/* What the host sees of it: before bench_run what the device will get, then what it has made of it. */
void *bench_host(const struct bench *b, struct tensor t);

/* Whether nothing was written behind it. */
bool bench_is_guarded(const struct bench *b, struct tensor t);

/* Runs what is recorded and waits. */
bool bench_run(struct bench *b, struct sc_error *e) SC_CHECK;

/* ---- self_test_attention.c ---- */

/* As the tests in self_test.c: attention, of few queries or many, over a cache of this type. */
bool self_test_attention(struct bench *b, enum family family, const struct variant *v, enum sc_type type,
                         bool *is_right, struct sc_error *e) SC_CHECK;

/* ---- self_test_rows.c ---- */

/* Likewise: the operations without variants and types, together. */
bool self_test_rows(struct bench *b, enum family family, const struct variant *v, enum sc_type type, bool *is_right,
                    struct sc_error *e) SC_CHECK;

#endif
