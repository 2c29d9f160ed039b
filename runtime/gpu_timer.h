/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long a recorded stream takes on the device: by its own timestamps where the compute queue has them, by the
 * host's clock elsewhere, which adds what a submission costs.
 */
#ifndef SCORIA_GPU_TIMER_H
#define SCORIA_GPU_TIMER_H

#include "pace.h"

struct gpu_timer {
    struct gpu *gpu;
    struct pace pace; /* what runs for seconds on a slow device is several submissions, as elsewhere */
    VkQueryPool pool; /* VK_NULL_HANDLE: no timestamps */
    double seconds_per_tick;
    uint64_t mask; /* of the bits that count */
};

bool gpu_timer_init(struct gpu_timer *t, struct gpu *gpu, struct sc_error *e) SC_CHECK;
void gpu_timer_finish(struct gpu_timer *t); /* accepts a zeroed struct */

/* Recorded around what is to be timed, each of them a barrier. */
void gpu_timer_start(struct gpu_timer *t, struct commands *c);
void gpu_timer_stop(struct gpu_timer *t, struct commands *c);

/* Ends the recording, runs it, waits; *seconds is never 0. */
bool gpu_timer_run(struct gpu_timer *t, struct commands *c, double *seconds, struct sc_error *e) SC_CHECK;

#endif
