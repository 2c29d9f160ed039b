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

/* What a recorded pass and the host tell each other, in memory of the host that no other pass uses. */
struct exchange {
    struct step *step;            /* in inputs, attention's counters (zeros) behind it */
    uint32_t *tokens;             /* behind these: (n) */
    float *angles;                /* in inputs: (n, n_rot) */
    uint64_t offset, angles_from; /* of step and angles in inputs */
    const uint32_t *top;          /* in results: (SC_MAX_CANDIDATES, 2) as op_top_k writes it */
    VkDeviceAddress top_address;
};

/* Single tokens take turns with two, so that the host reads and fills one while the device works with the other. */
enum { EXCHANGE_BATCH = 2, N_EXCHANGES };

struct session_memory {
    struct gpu *gpu;
    struct activations a;
    struct kv_cache *kv; /* (n_layers) */
    struct slabs kv_slabs, activation_slabs;
    struct exchange exchanges[N_EXCHANGES];
    struct buffer inputs;        /* host: what the exchanges bring */
    struct buffer device_inputs; /* struct step, attention's counters (zeros), tokens, angles */
    struct buffer results; /* host: logits, candidates, the routers' choices, what the host's experts read and give */
    uint64_t tokens_to, angles_to; /* in device_inputs */
    const float *logits;           /* in results: (n_logit_rows, n_vocab) */
    const uint32_t *choices;       /* in results: (n_layers, n_batch, n_used) what the routers chose */
    uint32_t n_choices;            /* of a layer: n_batch * n_used */
    uint32_t n_logit_rows;         /* logits that can be computed at once */
    const float *host_x;           /* in results: (n_host, n_embd) what the host's experts start from */
    float *host_y;                 /* in results: (n_host * n_used, n_embd) what they give */
    uint32_t *on_host;             /* in results: (n_host * n_used) which pairs the host computes */
};

enum sc_type session_kv_type(enum sc_kv_type kv_type);

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
