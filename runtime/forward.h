/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The forward pass, as commands: each function records a piece of it for n tokens. The pieces are cut where the host
 * may have to act: after a layer's router has chosen, before its experts run.
 *
 *     embed   layer 0: attention, experts   layer 1: attention, experts   ...   output
 */
#ifndef SCORIA_FORWARD_H
#define SCORIA_FORWARD_H

#include "model.h"

/* The activations of a session, for up to n_batch tokens. Written n x cols below, n the tokens of a step. */
struct activations {
    uint32_t n_batch;
    uint32_t n_host;             /* the host may compute experts of passes of so many tokens; 0: of none */
    bool is_merged;              /* a single token's experts all have slots: their down adds to x, nothing to combine */
    struct tensor x;             /* (n, n_embd) the residual stream */
    struct tensor normed;        /* (n, n_embd) */
    struct tensor q;             /* (n, n_heads * head_dim) */
    struct tensor k, v;          /* (n, n_kv_heads * head_dim) */
    struct tensor att;           /* (n, n_heads * head_dim) */
    struct tensor partial, done; /* (n_heads * splits, head_dim + 4), (1, any) u32: attention's pieces of the cache */
    struct tensor router_logits; /* (n, n_experts) */
    struct routing routing;
    struct tensor gate, up;    /* (n * n_used, n_ff); dense: (n, n_ff) */
    struct tensor host_x;      /* (n, n_embd) what the host's experts start from, in host memory */
    struct tensor down;        /* (n * n_used, n_embd) */
    struct tensor tokens;      /* (n, 1) u32 */
    struct tensor angles;      /* (n, n_rot) cosines and sines */
    struct tensor step;        /* struct step */
    struct tensor scratch;     /* (1, any) for the streams' operations */
    struct tensor logits;      /* (1, n_vocab) of a token whose best are wanted */
    struct top top;            /* these, the list in host memory */
    struct tensor host_logits; /* (n_logit_rows, n_vocab), in host memory */
};

void forward_embed(struct commands *c, const struct model *m, const struct activations *a, uint32_t n);

/*
 * x += attention(x); then, in a mixture of experts, the router's choice, and what the host needs if it has experts of
 * its own to compute.
 */
void forward_attention(struct commands *c, const struct model *m, const struct activations *a, struct kv_cache kv,
                       uint32_t l, uint32_t n);

/* The chosen experts that the layer's table lists (once per wave of them), or the dense feed-forward's first half. */
void forward_experts(struct commands *c, const struct model *m, const struct activations *a, uint32_t l, uint32_t n);

/* x += the weighted sum of the experts, or the feed-forward's second half. */
void forward_combine(struct commands *c, const struct model *m, const struct activations *a, uint32_t l, uint32_t n);

/* host_logits = output(norm(x)) of n tokens, from the step's token `first` on. */
void forward_logits(struct commands *c, const struct model *m, const struct activations *a, uint32_t first, uint32_t n);

/* The best of the logits of the step's token `first`. */
void forward_top(struct commands *c, const struct model *m, const struct activations *a, uint32_t first);

#endif
