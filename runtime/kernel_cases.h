/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operations of the forward pass, one by one, at the shapes of models that people run: what `scoria bench
 * --kernels` times. An operation is recorded as forward.c does it, with weights and values that lie where the trial
 * says.
 */
#ifndef SCORIA_KERNEL_CASES_H
#define SCORIA_KERNEL_CASES_H

#include "ops.h"

struct kernel_shape {
    const char *name;
    uint32_t n_embd, n_ff, n_heads, n_kv_heads, head_dim;
    uint32_t n_experts, n_used; /* 0: dense */
    uint32_t n_vocab, n_ctx;
};

const struct kernel_shape *kernel_shapes(size_t *n);

enum { KERNEL_MAX_VALUES = 10, KERNEL_MAX_TOKENS = 4096, KERNEL_MAX_TABLES = 64 };

/* One operation to record: where everything lies, and what recording it tells. */
struct kernel_trial {
    struct commands *commands;
    const struct kernel_shape *shape;
    enum sc_type type;               /* of the weights, or of the cache */
    uint32_t n;                      /* tokens */
    uint32_t n_beside;               /* kernel_products: matrices */
    uint32_t depth;                  /* attention: tokens in the cache before these */
    uint32_t n_hit;                  /* different experts that the tokens chose */
    VkDeviceAddress weights, values; /* where the next matrix and the next activations go */
    VkDeviceAddress slots;           /* (n_experts) addresses of the experts' slots */
    struct tensor tokens, step, done;
    struct routing routing; /* all but the probabilities, which are values */

    /* what recording tells */
    struct tensor used[KERNEL_MAX_VALUES]; /* (n_used) the activations */
    uint32_t n_used;
    uint64_t weight_bytes; /* the room that the matrices take, or one expert's slot, or a cache that is read */
    uint64_t value_bytes;  /* and the activations */
    double bytes, flop;    /* that cannot be avoided: each byte read or written counts once */
    char size[48];         /* for people */
    struct tensor matrix;  /* that variants are chosen by: the weights', or attention_key; and the family of kernels */
    enum family family;    /* that takes them; N_FAMILIES: none does */
};

/* What the trial's type is of: nothing, the weights (F32: of that type only), the KV cache. */
enum kernel_weights { WEIGHTS_NONE, WEIGHTS_F32, WEIGHTS_TYPED, WEIGHTS_CACHE };

struct kernel_op {
    const char *name;
    enum kernel_weights weights;
    bool has_depth;
    uint32_t least, most; /* tokens */
    bool (*is_in)(const struct kernel_shape *s);
    void (*record)(struct kernel_trial *t);
};

const struct kernel_op *kernel_ops(size_t *n);

/*
 * What stands for a family when its variants are timed: attention, and products (n_ff, n_embd) with n columns, n_beside
 * of them side by side.
 */
extern const struct kernel_op kernel_attention, kernel_products;

/* What recording the operation would tell, without recording it. */
void kernel_measure(const struct kernel_op *op, struct kernel_trial *t);

/* What forward.c records ahead of the experts of several tokens. */
void kernel_group(const struct kernel_trial *t);

/* Matrices and slots begin at multiples of this: whole blocks, so that any piece of a memory full of blocks is valid.
 */
uint64_t kernel_unit(enum sc_type type);

#endif
