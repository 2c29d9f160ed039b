/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One function per operation of the forward pass: it checks the shapes, fills the kernel's arguments and records one
 * dispatch. Shapes are in comments, slowest dimension first; n is the number of tokens of the step. Activations are
 * fp32. Some variants of kernels (variants.h) want their input normed or rounded: then a dispatch before theirs makes
 * that in the stream's scratch memory, op_scratch_bytes() at most.
 */
#ifndef SCORIA_OPS_H
#define SCORIA_OPS_H

#include "config.h"
#include "gpu.h"

/* A matrix on the device. Weights are in GGUF blocks of `type`; token ids and expert ids are u32 in place of f32. */
struct tensor {
    VkDeviceAddress address;
    enum sc_type type;
    uint32_t rows, cols;
};

/* One of the three matrices of every expert of a layer. */
struct expert_tensor {
    VkDeviceAddress slots; /* (n_experts) addresses of the experts' slots, 0: not in this pass */
    uint32_t offset;       /* of the matrix in the slot, in bytes */
    uint32_t n_experts;
    uint32_t matrix; /* 0 gate, 1 up, 2 down */
    enum sc_type type;
    uint32_t rows, cols;
};

/* Which experts the tokens of a step chose. */
struct routing {
    struct tensor ids;        /* (n, n_used) u32 */
    struct tensor probs;      /* (n, n_used) */
    VkDeviceAddress host_ids; /* a copy of ids in host memory, or 0 */
    VkDeviceAddress on_host;  /* (n, n_used) u32 in host memory: not 0 for pairs that the host computes; or 0 */
    struct tensor host_y;     /* (n * n_used, n_embd) in host memory: what it computes */
    VkDeviceAddress counter;  /* u32, for op_router: 0 before and after */
    /* made by op_group: */
    struct tensor first;               /* (1, n_experts + 1) u32: where each expert's pairs begin */
    struct tensor pairs;               /* (1, n * n_used) u32: token * n_used + k, sorted by expert */
    struct tensor tiles;               /* (3 * op_max_tiles(), 2) u32: expert and first column */
    struct tensor grids;               /* (3, 4) u32: workgroups of gate, up and down */
    const struct buffer *grids_buffer; /* that grids lie in */
};

/* An RMSNorm that an operation of a single token applies to its input: norm(x) = x / rms(x) * w. */
struct norm {
    struct tensor w; /* (1, cols) */
    float eps;
};

/* One layer's keys and values: (n_ctx, n_kv_heads, head_dim) each, of type SC_F32, SC_F16 or SC_Q8_0. */
struct kv_cache {
    struct tensor k, v; /* rows: n_ctx, cols: kv_cols of n_kv_heads * head_dim */
};

struct heads {
    uint32_t n, n_kv, dim, n_rot;
    uint32_t window; /* positions that a token attends to, itself included; 0: all */
};

/* The columns of a cache for n values a position: rows of q8_0 are filled up to whole 16 bytes. */
uint32_t kv_cols(enum sc_type type, uint32_t n);

uint64_t tensor_size_bytes(const struct tensor *t);

/* The scratch memory that an operation on activations (rows, cols) may take. */
uint64_t op_scratch_bytes(uint32_t rows, uint32_t cols);

/* The first `rows` rows of t. */
struct tensor tensor_rows(struct tensor t, uint32_t rows);

/* y = the rows `tokens` of w, NO_TOKEN being the one that op_top_k left in `best`, if that has an address */
void op_embed(struct commands *c, struct tensor y /* (n, n_embd) */, struct tensor w /* (n_vocab, n_embd) */,
              struct tensor tokens /* (n, 1) u32 */, struct tensor best /* (1, 1) u32 */);

/* y = x / rms(x) * w */
void op_rms_norm(struct commands *c, struct tensor y /* (n, cols) */, struct tensor x /* (n, cols) */,
                 struct tensor w /* (1, cols) */, float eps);

/* y = x, or if norm is not NULL norm(x), rounded to 8 bits */
void op_quantize(struct commands *c, struct tensor y /* (n, ROUNDED_WORDS(cols)) u32 */,
                 struct tensor x /* (n, cols) */, const struct norm *norm);

/* y = x W^T; op_linear_add: y += x W^T */
void op_linear(struct commands *c, struct tensor y /* (n, rows) */, struct tensor w /* (rows, cols) */,
               struct tensor x /* (n, cols) */);
void op_linear_add(struct commands *c, struct tensor y, struct tensor w, struct tensor x);

/* The same as op_linear by kernels that never round x: a choice of experts should not hang on that. */
void op_linear_exact(struct commands *c, struct tensor y, struct tensor w, struct tensor x);

/* Turns q in place and k on its way into the cache, at positions step.n_past and on; v goes there as it is. */
void op_rope_store(struct commands *c, struct kv_cache kv, struct tensor q /* (n, n_heads * dim) */,
                   struct tensor k /* (n, n_kv * dim) */, struct tensor v,
                   struct tensor angles /* (n, n_rot) cos, sin pairs */, struct tensor step, struct heads h);

/*
 * y = softmax(q k^T / sqrt(dim), each token seeing itself and what is before it in the window) v. A long cache is cut
 * into as many pieces as `partial` holds, (n * n_heads * pieces, dim + 4), which are computed at once and merged by the
 * last of them; `done` counts them and is 0 before and after. Without rows they are not needed: one piece. The last
 * rows of the cache are the tokens' own, or later ones: by the rows, several tokens' queries become several dispatches.
 */
void op_attention(struct commands *c, struct tensor y /* (n, n_heads * dim) */, struct tensor q, struct kv_cache kv,
                  struct tensor partial, struct tensor done /* (1, attention_tiles(n, h) * n_kv) u32 at least */,
                  struct tensor step, struct heads h);

enum { ATTENTION_MAX_PIECES = 64 };

/* The kernels for n tokens. */
enum family op_attention_family(uint32_t n, uint32_t n_pieces, struct heads h);

/* Type, rows and columns that a variant is chosen by, as products' are by their matrix; it has no address. */
struct tensor attention_key(enum sc_type cache_type, struct heads h);

/* The most workgroups of n tokens for each KV head and piece. */
uint32_t attention_tiles(uint32_t n, struct heads h);

/* ---- of a single token, fused: what separate operations above and below compute, in one dispatch ---- */

/*
 * q, k, v = norm(x) W^T for each of their matrices, then op_rope_store: in one dispatch where the matrices have one
 * type, else one for each run of equal types. The tensors k and v are used only where the cache's type has no fused
 * store.
 */
void op_qkv(struct commands *c, struct kv_cache kv, struct tensor q, struct tensor k, struct tensor v,
            const struct tensor w[3], struct tensor x, struct norm norm, struct tensor angles, struct tensor step,
            struct heads h);

/* op_route of the logits norm(x) W^T; norm(x) also goes to `normed` unless its address is 0. */
void op_router(struct commands *c, struct routing r, struct tensor logits, struct tensor w, struct tensor x,
               struct norm norm, struct tensor normed);

/* y = silu(norm(x) gate^T) * (norm(x) up^T), gate and up of one type */
void op_gate_up(struct commands *c, struct tensor y /* (1, n_ff) */, struct tensor gate, struct tensor up,
                struct tensor x, struct norm norm);

/* The same by each chosen expert; those without a slot leave y alone. */
void op_expert_gate_up(struct commands *c, struct tensor y /* (n_used, n_ff) */, struct expert_tensor gate,
                       struct expert_tensor up, struct tensor x, struct norm norm, struct routing r);

/* x += sum over k of probs[k] * y[k] W^T, all experts having slots */
void op_expert_down(struct commands *c, struct tensor x /* (1, n_embd) */, struct expert_tensor w,
                    struct tensor y /* (n_used, n_ff) */, struct routing r);

/* ---- experts ---- */

/* The n_used best experts of each token by its router logits, and their softmax. */
void op_route(struct commands *c, struct routing r, struct tensor logits /* (n, n_experts) */);

/* The most tiles that so many pairs make for a matrix. */
uint32_t op_max_tiles(uint32_t n_pairs, uint32_t n_experts);

/*
 * Sorts the pairs by expert and cuts them into tiles, for op_expert_linear with more than one token and the layer's
 * gate, up and down.
 */
void op_group(struct commands *c, struct routing r, const struct expert_tensor matrices[3]);

/* The kernels for experts of several tokens, whose pairs are taken to be spread evenly over the experts. */
enum family op_expert_family(uint32_t n_pairs, uint32_t n_experts);

/* y[pair] = W[its expert] x[pair, or its token, as the rows of x say]; experts without a slot leave y alone. */
void op_expert_linear(struct commands *c, struct tensor y /* (n * n_used, rows) */, struct expert_tensor w,
                      struct tensor x /* (n or n * n_used, cols) */, struct routing r);

/* gate = silu(gate) * up */
void op_silu_mul(struct commands *c, struct tensor gate /* (n, n_ff) */, struct tensor up);

/* x += sum over k of probs[k] * y[k], or r.host_y[k] where r.on_host marks the pair */
void op_combine(struct commands *c, struct tensor x /* (n, n_embd) */, struct tensor y /* (n * n_used, n_embd) */,
                struct routing r);

/* Where op_top_k leaves what it finds. */
struct top {
    struct tensor list;      /* (n, 2): logit, id u32, for the step's n_top up to n */
    struct tensor best;      /* (1, 1) u32 */
    struct tensor heads;     /* (TOP_K_HEADS, 2) scratch */
    VkDeviceAddress counter; /* u32: 0 before and after */
};

/* The step's n_top highest logits, best first, the lowest id of equals; NO_TOKEN ends the list if they are fewer. */
void op_top_k(struct commands *c, struct top top, struct tensor logits /* (1, n_vocab) */, struct tensor step);

/* to = from, for the host to read */
void op_copy(struct commands *c, struct tensor to, struct tensor from);

/* to[i] = the exclusive or of some of the words of from: all that reads them, to see how fast the memory is */
void op_read(struct commands *c, struct tensor to /* (1, n) u32, n a multiple of 64 */, struct tensor from);

#endif
