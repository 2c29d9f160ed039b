/* SPDX-License-Identifier: Apache-2.0 */
/* How a pass runs whose experts are not all in slots: its streams are p->list, filled in and not yet submitted. */
#ifndef SCORIA_PASS_STAGED_H
#define SCORIA_PASS_STAGED_H

#include "pass.h"

/*
 * Each layer's experts are uploaded before they run: of a long prompt all of them, a layer while the ones before
 * compute; else those that the router chose, for which the host waits.
 */
bool pass_run_uploading(struct pass *p, uint32_t n, uint32_t n_streams, struct sc_error *e) SC_CHECK;

/*
 * A single token or a few: everything is submitted at once, and each layer's combine waits for the host, which computes
 * the experts that no slot holds while the GPU runs the others.
 */
bool pass_run_with_host(struct pass *p, uint32_t n, uint32_t n_streams, struct sc_error *e) SC_CHECK;

/* After a failure: what was on its way to the slots may not have arrived. Returns false. */
bool pass_lose_uploads(struct pass *p);

/* ---- of pass.c, for the above ---- */

/* Streams `from` to `to` - 1 of p->list. */
bool pass_submit(struct pass *p, uint32_t from, uint32_t to, struct sc_error *e) SC_CHECK;

/* What the layer's router chose for n tokens, once the device has written it. */
bool pass_take_choice(struct pass *p, uint32_t layer, uint32_t n, struct sc_error *e) SC_CHECK;

#endif
