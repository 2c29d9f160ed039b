/* SPDX-License-Identifier: Apache-2.0 */
/* Which bytes live on the device: decided before anything is allocated. */
#ifndef SCORIA_PLACEMENT_H
#define SCORIA_PLACEMENT_H

#include "config.h"
#include "scoria.h"

/*
 * Fills *placement for a budget of budget_bytes and picks the micro-batch if params->n_batch is 0: dense weights and
 * one session come first, then the upload ring, and expert slots take what is left. Fails with SC_OUT_OF_DEVICE_MEMORY
 * and the minimum in the sentence if the budget is too small; then *placement is that minimum.
 */
bool placement_make(struct sc_placement *placement, struct sc_engine_params *params, const struct weights *w,
                    const struct config *c, uint64_t budget_bytes, const struct sc_device_info *device,
                    struct sc_error *e) SC_CHECK;

/*
 * Enlarges the micro-batch that placement_make chose towards `wanted` tokens, a power of two times what it is, as far
 * as the activations leave the budget to the experts. For models whose prompts wait for uploads.
 */
void placement_enlarge_batch(struct sc_placement *placement, struct sc_engine_params *params, const struct weights *w,
                             const struct config *c, const struct sc_device_info *device, double wanted);

/* What the placement takes of its budget. */
uint64_t placement_used_bytes(const struct sc_placement *p);

#endif
