/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Submits a prompt's work in pieces of less than 100 ms, as far as the pieces of its streams allow: systems kill a
 * submission that runs for seconds, and a prompt is to be cancelled soon. What a piece takes is estimated from its
 * multiply-adds, by the rate of the pieces before it. At most two are under way when the host goes on, so that the
 * device computes while the host brings what comes next; before a third the host waits for the first, reports progress
 * and may cancel.
 */
#ifndef SCORIA_PACE_H
#define SCORIA_PACE_H

#include "gpu.h"

struct pace {
    struct gpu *gpu;
    bool (*progress)(void *user, enum sc_phase phase, uint64_t done, uint64_t total); /* may be NULL */
    void *user;
    double rate;    /* multiply-adds a second; 0: nothing was measured yet */
    double longest; /* seconds that a piece took; for the statistics */

    /* the prompt and the pass, set by pace_begin */
    uint64_t n_done, n_total; /* tokens before the pass, and of the prompt */
    uint32_t n;               /* of the pass */
    double pass_work, submitted_work;

    struct piece {
        uint64_t value; /* what gpu_wait takes; 0: none */
        double work, start;
        bool waits; /* for copies, which may take longer than the piece */
    } under_way[2]; /* the older one first */
    double ended;   /* when the host learned that the piece before them had ended */
    bool was_seen;  /* and saw it happen */
};

/* A pass of n tokens with these streams, after n_done of n_total. Nothing is under way. */
void pace_begin(struct pace *p, struct commands *const *streams, uint32_t n_streams, uint32_t n);

/* Submits the streams; *value is what waits for all of them. */
bool pace_submit(struct pace *p, struct commands *const *streams, uint32_t n_streams, uint64_t *value,
                 struct sc_error *e) SC_CHECK;

/* Waits for all that is under way, piece by piece. */
bool pace_wait(struct pace *p, struct sc_error *e) SC_CHECK;

/* After a failure: the device is idle. */
void pace_abandon(struct pace *p);

/* Tells how much of the pass has been seen to end; fails if that cancels it. */
bool pace_tell(struct pace *p, struct sc_error *e) SC_CHECK;

/* Tells that so much of the pass is done, 0 to 1; fails if that cancels it. */
bool pace_report(struct pace *p, double part, struct sc_error *e) SC_CHECK;

#endif
