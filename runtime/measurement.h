/* SPDX-License-Identifier: Apache-2.0 */
/* What rates are measured with: a sample of experts, a token's or a batch's values, and the lists of commands. */
#ifndef SCORIA_MEASUREMENT_H
#define SCORIA_MEASUREMENT_H

#include "cpu_experts.h"
#include "rates.h"
#include "sample.h"

enum { MEASURED_TRIPS = 16, MEASURED_READERS = 1 << 16 };

struct measurement {
    struct gpu *gpu;
    struct cpu_pool *pool;
    struct sample sample;
    struct upload upload;
    struct buffer values, staging, seen; /* on the device, page-locked on the host, results on the host */
    struct tensor x, gate, up, down;     /* for RATES_DEVICE_BATCH tokens */
    struct routing routing;              /* each token uses every expert of a group */
    struct tensor sums, seen_x;          /* what op_read gives; (1, n_embd) in `seen` */
    struct commands kernels, copies, trips[MEASURED_TRIPS + 1]; /* what runs on the device; and to and fro */
    struct commands *trip_list[MEASURED_TRIPS + 1];
    struct cpu_experts *cpu; /* of experts n_ff wide */
    float *host_x, *host_y;  /* (RATES_HOST_BATCH, n_embd), and as many for each expert of a group */
    uint32_t *rows;          /* 0, 1, 2... */
    uint32_t n_ff, n_tokens; /* of the experts that run */
    uint32_t group;          /* that the CPU computes next */
    bool is_steady;          /* all runs so far */
};

/* Of a zeroed struct; measurement_finish takes it in any state after that. Borrows gpu and pool. */
bool measurement_init(struct measurement *m, struct gpu *gpu, struct cpu_pool *pool, const struct weights *w,
                      const struct config *c, struct sc_error *e) SC_CHECK;
void measurement_finish(struct measurement *m);

#endif
