/* SPDX-License-Identifier: Apache-2.0 */
/* A recorded routing trace (runtime/routing_trace.h has the format), read and checked. */
#ifndef SCORIA_ROUTING_FILE_H
#define SCORIA_ROUTING_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

struct routing_pass {
    uint32_t n_tokens;
    const uint8_t *tokens; /* (n_tokens) little-endian int32 */
    const uint8_t *ids;    /* (n_layers, n_tokens, n_used), each below n_experts, a token's distinct */
};

struct routing_file {
    uint32_t n_layers, n_experts, n_used;
    struct routing_pass *passes; /* (n_passes) */
    size_t n_passes;
    uint8_t *bytes; /* the whole file, into which the passes point */
};

/* Fails on anything but a whole trace. */
bool routing_file_init(struct routing_file *r, const char *path, struct sc_error *e) SC_CHECK;
void routing_file_finish(struct routing_file *r); /* accepts a zeroed struct */

/* How many of the pass's tokens chose each expert of the layer. */
void routing_file_count(const struct routing_file *r, const struct routing_pass *pass, uint32_t layer,
                        uint32_t *n_uses);

#endif
