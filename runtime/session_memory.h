/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session's memory: KV cache, activations, and the host-visible buffers through which a step's inputs come and its
 * results go. It can be measured before anything is allocated, so that the placement sets it aside first.
 */
#ifndef SCORIA_SESSION_MEMORY_H
#define SCORIA_SESSION_MEMORY_H

#include "forward.h"

struct session_footprint {
    uint64_t kv_bytes;
    uint64_t activation_bytes;
    uint64_t host_bytes;
};

struct session_memory {
    struct gpu *gpu;
    struct activations a;
    struct kv_cache *kv; /* (n_layers) */
    struct slabs kv_slabs, activation_slabs;
    struct buffer inputs;        /* host: what a step reads, laid out like device_inputs */
    struct buffer device_inputs; /* struct step, attention's counters (zeros), tokens, angles */
    struct buffer results;       /* host: logits, then the routers' choices */
    struct step *step;           /* in inputs */
    uint32_t *tokens;            /* in inputs: (n_batch) */
    float *angles;               /* in inputs: (n_batch, n_rot) */
    uint64_t angles_offset;      /* in inputs */
    const float *logits;         /* in results: (n_logit_rows, n_vocab) */
    const uint32_t *choices;     /* in results: (n_layers, n_batch, n_used) what the routers chose */
    uint32_t n_choices;          /* of a layer: n_batch * n_used */
    uint32_t n_logit_rows;       /* logits that can be computed at once */
    const float *host_x;         /* in results: (n_host, n_embd) what the host's experts start from */
    float *host_y;               /* in results: (n_host * n_used, n_embd) what they give */
    uint32_t *on_host;           /* in results: (n_host * n_used) which pairs the host computes */
};

/* Passes of more tokens than this are never the host's: n_host of a micro-batch of n_batch. */
uint32_t session_host_tokens(uint32_t n_batch);

/* What the layer's router chose, (n_tokens, n_used), once the device has written it. */
const uint32_t *session_choice(const struct session_memory *s, uint32_t layer);

/* What session_memory_init takes off the budget. */
bool session_measure(struct session_footprint *f, const struct config *c, uint32_t n_ctx, uint32_t n_batch,
                     enum sc_kv_type kv_type, struct sc_error *e) SC_CHECK;

bool session_memory_init(struct session_memory *s, struct gpu *gpu, const struct config *c, uint32_t n_ctx,
                         uint32_t n_batch, enum sc_kv_type kv_type, struct sc_error *e) SC_CHECK;
void session_memory_finish(struct session_memory *s); /* accepts a zeroed struct; the device must be idle */

#endif
