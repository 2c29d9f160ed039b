/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory to try operations out in: weights that are more than caches hold, of which every run takes others;
 * activations; and a routing that spreads tokens over the experts.
 */
#ifndef SCORIA_KERNEL_TRIALS_H
#define SCORIA_KERNEL_TRIALS_H

#include "kernel_cases.h"

struct kernel_trials {
    struct gpu *gpu;
    struct commands commands;
    struct buffer staging;
    struct buffer weights; /* full of blocks of one type, or of a cache's values */
    struct buffer values;  /* activations; grows */
    struct buffer head;    /* what is small: the step, the routing, tables of slots */
    uint64_t n_runs;       /* so far: each takes the next copy of its weights */
};

/* How many bytes of weights kernel_trials_init gives to who wants so many: less where the device has not as much. */
uint64_t kernel_trials_bytes(const struct gpu *gpu, uint64_t wanted_bytes);

/* wanted_bytes: of weights. */
bool kernel_trials_init(struct kernel_trials *k, struct gpu *gpu, uint64_t wanted_bytes, struct sc_error *e) SC_CHECK;
void kernel_trials_finish(struct kernel_trials *k); /* accepts a zeroed struct; the device must be idle */

/* All weights are of this type from here on, or they are caches of it. */
bool kernel_trials_fill(struct kernel_trials *k, enum sc_type type, struct sc_error *e) SC_CHECK;
bool kernel_trials_fill_cache(struct kernel_trials *k, enum sc_type type, struct sc_error *e) SC_CHECK;

/* A trial, still without memory. */
struct kernel_trial kernel_trial_of(const struct kernel_shape *s, enum sc_type type, uint32_t n, uint32_t depth);

/* How much memory the activations of a trial take, once kernel_measure has told of it. */
uint64_t kernel_trials_value_bytes(const struct kernel_trial *measured);

/* Gives a trial its memory and fills it. Its weights, as kernel_measure tells, must fit. */
bool kernel_trials_prepare(struct kernel_trials *k, const struct kernel_op *op, struct kernel_trial *t,
                           struct sc_error *e) SC_CHECK;

/* Records a prepared trial `repeats` times into k->commands, with barriers between. */
void kernel_trials_record(struct kernel_trials *k, const struct kernel_op *op, const struct kernel_trial *t,
                          uint32_t repeats);

#endif
