/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads a model as a program would and touches all that a successful load promises. Frees everything again.
 */
#ifndef SCORIA_TESTS_LOAD_EVERYTHING_H
#define SCORIA_TESTS_LOAD_EVERYTHING_H

#include "gguf.h"

/* True if the file is good up to its weights and, where it has one, its tokenizer. */
bool load_everything(const char *path, struct sc_error *e) SC_CHECK;

/* The same for a model that is open. */
bool touch_everything(const struct sc_gguf *g, struct sc_error *e) SC_CHECK;

#endif
