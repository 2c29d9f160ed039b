/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the driver makes of our kernels, before it computes anything that matters: each variant that the device is about
 * to use computes small products whose answers are known. A variant that is wrong is not used, and the next one is
 * tried.
 */
#ifndef SCORIA_SELF_TEST_H
#define SCORIA_SELF_TEST_H

#include "gpu.h"

/* Who is warned of wrong variants, of each once. */
struct listener {
    void (*log)(void *user, enum sc_log_level level, const char *text); /* as in sc_engine_params */
    void *user;
};

/*
 * Makes sure that every family has a variant that computes rightly for weights of its types (bit t: type t), and tests
 * those that were the fastest when timed. What was found is kept in gpu->choices.findings, and what stands there
 * already is not tested again, unless it leaves a family without a right variant; that is an error. Nothing else may be
 * on the device.
 */
bool self_test(struct gpu *gpu, const uint32_t types[N_FAMILIES], struct listener listener,
               struct sc_error *e) SC_CHECK;

/* Whether one variant computes rightly, unless that is known. Only what has nothing to do with the kernel is an error.
 */
bool self_test_variant(struct gpu *gpu, enum family family, uint32_t variant, enum sc_type type,
                       struct listener listener, bool *is_right, struct sc_error *e) SC_CHECK;

#endif
