/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the model is: the numbers of its architecture, checked against each other, and where each weight lies.
 * Architecture "llama" of GGUF: Llama 2/3, Mistral, Mixtral (dense or mixture of experts).
 */
#ifndef SCORIA_CONFIG_H
#define SCORIA_CONFIG_H

#include "gguf.h"

enum { SC_MAX_EXPERTS = 256, SC_MAX_EXPERTS_USED = 16 };

struct config {
    char name[128]; /* general.name, cleaned for printing; "" if absent */
    uint32_t n_layers;
    uint32_t n_embd;
    uint32_t n_heads;
    uint32_t n_kv_heads; /* divides n_heads */
    uint32_t head_dim;   /* of q, k and v alike; a multiple of 4, at most 256 */
    uint32_t n_ff;       /* width of one expert, or of the dense feed-forward */
    uint32_t n_experts;  /* 0: dense */
    uint32_t n_experts_used;
    uint32_t n_vocab;
    uint32_t n_ctx_train;
    uint32_t window; /* positions that a token attends to, itself included; 0: all */
    float norm_eps;

    /* rotary position embedding: pair i of n_rot / 2 turns by pos * freq_scale * base^(-2i / n_rot) / factor[i] */
    uint32_t n_rot; /* even, at most head_dim */
    float rope_base;
    float rope_freq_scale;     /* 1, or 1 / factor of linear scaling */
    const float *rope_factors; /* (n_rot / 2), all > 0; NULL: all 1. Borrows until the gguf is closed. */
};

/* A matrix of rows x cols (a vector has 1 row), row after row in GGUF blocks. Borrows until the gguf is closed. */
struct weight {
    const uint8_t *data; /* NULL: the model has no such weight */
    enum sc_type type;
    uint32_t rows, cols;
    uint64_t size_bytes;
    uint32_t file; /* where data lies on disk: which file of the model, and the offset in it */
    uint64_t offset;
};

/* An expert's three matrices; also the one feed-forward of a dense layer. */
struct expert_weights {
    struct weight gate; /* (n_ff, n_embd) */
    struct weight up;   /* (n_ff, n_embd) */
    struct weight down; /* (n_embd, n_ff) */
};

struct layer_weights {
    struct weight attn_norm;        /* (1, n_embd) f32 */
    struct weight attn_q;           /* (n_heads * head_dim, n_embd) */
    struct weight attn_k;           /* (n_kv_heads * head_dim, n_embd) */
    struct weight attn_v;           /* (n_kv_heads * head_dim, n_embd) */
    struct weight attn_output;      /* (n_embd, n_heads * head_dim) */
    struct weight ffn_norm;         /* (1, n_embd) f32 */
    struct weight router;           /* (n_experts, n_embd); data is NULL in a dense model */
    struct expert_weights *experts; /* (max(n_experts, 1)); of one layer all gates share a type, all ups, all downs */
};

struct weights {
    struct weight token_embd;     /* (n_vocab, n_embd) */
    struct weight output_norm;    /* (1, n_embd) f32 */
    struct weight output;         /* (n_vocab, n_embd); the same bytes as token_embd when the embeddings are tied */
    struct layer_weights *layers; /* (n_layers) */
};

/* Fills *c. Fails on another architecture, a missing or contradicting value, or a model beyond the limits above. */
bool config_read(struct config *c, const struct sc_gguf *g, struct sc_error *e) SC_CHECK;

/*
 * Finds and checks every weight: presence, type, shape; columns a multiple of 16; no tensor that the forward pass would
 * silently ignore (a bias, an adapter): such a file is unsupported and the tensor is named. Both layouts of experts are
 * understood (fused ffn_gate_exps, and ffn_gate.3). weights_finish frees what init allocated; accepts a zeroed struct,
 * and init leaves one when it fails.
 */
bool weights_init(struct weights *w, const struct config *c, const struct sc_gguf *g, struct sc_error *e) SC_CHECK;
void weights_finish(struct weights *w);

#endif
