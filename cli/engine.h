/* SPDX-License-Identifier: Apache-2.0 */
/* An engine as the flags describe it, with its messages and its progress on standard error. */
#ifndef SCORIA_CLI_ENGINE_H
#define SCORIA_CLI_ENGINE_H

#include "options.h"
#include "scoria.h"

/*
 * What the flags say. n_ctx_wanted: the least context that the command needs, where the user gave none (0: no wish).
 * Borrows from the options.
 */
struct sc_engine_params engine_params(const struct options *o, uint32_t n_ctx_wanted);

/* Catches Ctrl-C, which cancels loading and prefill. */
struct sc_engine *engine_open(struct sc_engine_params params, struct sc_error *e) SC_CHECK;

/* Prints the error and returns the exit status for it; for a cancelled one only that of Ctrl-C. */
int engine_failed(const struct sc_error *e);

/* The model's own name, or else its file's. Lives as long as the engine's gguf; size_bytes of text. */
struct sc_gguf_string engine_model_name(const struct sc_engine *engine);

/* Seconds of a clock that only moves forward. */
double engine_clock(void);

#endif
