/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random models of architecture llama: complete files, tokenizer included, whose activations stay near 1, so that a
 * comparison of logits means something. The same spec gives the same bytes everywhere.
 */
#ifndef SCORIA_TESTS_MODEL_BUILDER_H
#define SCORIA_TESTS_MODEL_BUILDER_H

#include "gguf_builder.h"
#include "random_blocks.h"

/* {0} is a model of 2 layers with 4 experts. A 0 stands for the default in brackets. */
struct model_spec {
    const char *name;  /* general.name ["random model"] */
    uint32_t d;        /* n_embd [256] */
    uint32_t ff;       /* [512] */
    uint32_t layers;   /* [2] */
    uint32_t heads;    /* [4] */
    uint32_t kv;       /* [2] */
    uint32_t experts;  /* [4], unless dense */
    uint32_t used;     /* [2] */
    uint32_t vocab;    /* [320], at least 259 */
    uint32_t head_dim; /* written as attention.key_length [d / heads, not written] */
    uint32_t n_rot;    /* [head_dim] */
    uint32_t n_ctx;    /* [4096] */
    uint32_t window;   /* of attention [none] */
    float rope_base;   /* [1e6] */
    float rope_linear; /* factor of linear scaling [none] */
    const char *type;  /* of all matrices: "q4_k"; or "mix", a blend of q4_k and q6_k; or "q4_k_m", the blend of the
                          files  of that name ["mix"]. Where the columns are not a multiple of the type's block, q8_0 or
                          f32  takes its place. */
    bool dense;
    bool split_experts; /* ffn_gate.3.weight instead of ffn_gate_exps.weight */
    bool tied;          /* no output.weight */
    bool rope_factors;  /* with rope_freqs.weight */
    bool header_only;   /* no weights and no tokenizer: for measurements with made-up weights */
    uint64_t seed;
    uint32_t n_files; /* [1]; more: tensors are dealt out in turn, and the path must end like -00001-of-00003.gguf */
};

/* The shape of a known model in *spec, of type q4_k_m: "8x7b", "8x22b", "7b", "30b-a3b". False if there is none. */
bool model_preset(struct model_spec *spec, const char *name);

bool model_write(const char *path, const struct model_spec *spec);

/* The same into builders[n_files], to be changed and written by the caller, who may have put things in already. */
void model_fill(struct gguf_builder *builders, const struct model_spec *spec);

#endif
