/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which variant is the fastest for a matrix of a model, and for its attention, by timing those that the device can run
 * and that compute rightly, on the device itself, with weights and KV caches that are more than its caches hold.
 */
#ifndef SCORIA_AUTOTUNE_H
#define SCORIA_AUTOTUNE_H

#include "ops.h"
#include "self_test.h"

enum { AUTOTUNE_MAX_MATRICES = 32 };

struct matrix_shape {
    enum sc_type type;
    uint32_t rows, cols;
    uint32_t n_columns; /* that a long prompt multiplies it by, an expert's by what it gets of them; 0: many */
};

struct autotune {
    const struct matrix_shape *matrices; /* those that matter most first */
    uint32_t n_matrices;
    struct heads heads; /* of attention; n 0: it is not timed */
    enum sc_type cache_type;
    uint32_t n_batch, n_seen; /* tokens that a long prompt's pass has; positions that a token may come to see */
    uint64_t max_bytes;       /* of device memory, all given back */
    double seconds;           /* no new variant is timed after so long; what is left stays open for the next call */
    bool (*progress)(void *user, enum sc_phase phase, uint64_t done, uint64_t total); /* may be NULL; false cancels */
    void *user;
    struct listener listener;
};

/*
 * Adds to gpu->choices.findings what is not known yet. A variant later in the table than another must be clearly faster
 * than that. Nothing else may be on the device. Not enough memory is no error: then nothing is found.
 */
bool autotune(struct gpu *gpu, const struct autotune *a, struct sc_error *e) SC_CHECK;

#endif
