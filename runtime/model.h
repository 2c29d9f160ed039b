/* SPDX-License-Identifier: Apache-2.0 */
/* The model on the device: dense weights, expert slots, and how large everything is before anything is allocated. */
#ifndef SCORIA_MODEL_H
#define SCORIA_MODEL_H

#include "config.h"
#include "experts.h"
#include "hot_set.h"
#include "ops.h"
#include "slabs.h"
#include "upload.h"

struct layer {
    struct tensor attn_norm;
    struct tensor attn_q, attn_k, attn_v;
    struct tensor attn_output;
    struct tensor ffn_norm;
    struct tensor router;                     /* (n_experts, n_embd) */
    struct expert_tensor gate, up, down;      /* mixture of experts */
    struct tensor ffn_gate, ffn_up, ffn_down; /* dense */
};

struct model {
    const struct config *config;
    struct gpu *gpu;
    struct tensor token_embd; /* (n_vocab, n_embd) */
    struct tensor output_norm;
    struct tensor output; /* (n_vocab, n_embd) */
    struct layer *layers; /* (n_layers) */
    struct slabs slabs;   /* of the dense weights */
    struct experts experts;
    bool was_hot; /* the slots were filled with the hot set of a run before */
};

/* Bytes that the dense weights take off the budget. */
bool model_dense_footprint(const struct weights *w, const struct config *c, uint64_t *bytes,
                           struct sc_error *e) SC_CHECK;

/*
 * Uploads the dense weights, and experts into all slots: those that the hot set names, if there is one. Borrows all it
 * is given. `progress` as in sc_engine_params.
 */
bool model_init(struct model *m, struct gpu *gpu, const struct weights *w, const struct config *c, uint32_t n_slots,
                struct store *store, const struct hot_set *hot_set, struct upload *u,
                const struct sc_engine_params *params, struct sc_error *e) SC_CHECK;
void model_finish(struct model *m); /* accepts a zeroed struct; the device must be idle */

#endif
