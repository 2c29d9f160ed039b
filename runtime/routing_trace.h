/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file with what the routers chose, pass after pass, for tools/simulate-experts. All numbers are little-endian:
 *
 *     8 bytes "SCROUTE1", uint32 n_layers, n_experts (of a layer), n_used
 *     for each pass: uint32 n_tokens, int32 tokens[n_tokens], uint8 ids[n_layers][n_tokens][n_used]
 *
 * A pass of one token is a step of decode; one of several is a prompt's.
 */
#ifndef SCORIA_ROUTING_TRACE_H
#define SCORIA_ROUTING_TRACE_H

#include "config.h"
#include "tokenizer.h"

#define ROUTING_TRACE_MAGIC "SCROUTE1"

struct routing_trace;

/* Begins the file, over what is there. Room for passes of at most n_most tokens. */
struct routing_trace *routing_trace_create(const char *path, const struct config *c, uint32_t n_most,
                                           struct sc_error *e) SC_CHECK;

/* False: not all passes so far are in the file, and none will be from now on. Accepts NULL. */
bool routing_trace_flush(struct routing_trace *t, struct sc_error *e) SC_CHECK;

/* Accepts NULL. False: what was flushed is not in the file after all. */
bool routing_trace_destroy(struct routing_trace *t, struct sc_error *e);

/* Then every layer in turn, and the pass is written with the last. One that stops before leaves nothing. */
void routing_trace_begin(struct routing_trace *t, const sc_token *tokens, uint32_t n_tokens);
void routing_trace_layer(struct routing_trace *t, uint32_t layer, const uint32_t *ids); /* (n_tokens, n_used) */

#endif
