/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "printable.h"

/* Beyond these nothing exists; they keep every product of two of them in 32 bits or the shapes' check in 64. */
enum { MAX_LAYERS = 500, MAX_HEADS = 4096, MAX_HEAD_DIM = 256, MAX_EMBD = 1 << 20, MAX_FF = 1 << 24 };

struct reader {
    const struct sc_gguf *g;
    const char *path; /* printable */
    uint32_t n_layers;
    struct sc_error *e;
};

static bool is(struct sc_gguf_string s, const char *text)
{
    return s.size_bytes == strlen(text) && memcmp(s.data, text, s.size_bytes) == 0;
}

static bool missing(const struct reader *r, const char *key)
{
    return sc_fail(r->e, SC_BAD_FILE, "%s: key %s is missing", r->path, key);
}

/*
 * An unsigned number. Keys may hold an array with a number for each layer; it is taken if all are equal.
 */
static bool read_integer(const struct reader *r, const char *key, const struct sc_gguf_value *v, uint64_t *out)
{
    if (v->type != SC_GGUF_ARRAY) {
        if (sc_gguf_read_u64(v, out))
            return true;
        return sc_fail(r->e, SC_BAD_FILE, "%s: key %s must be an unsigned integer", r->path, key);
    }

    if (v->n_elements == 0 || (r->n_layers > 0 && v->n_elements != r->n_layers))
        return sc_fail(r->e, SC_BAD_FILE, "%s: key %s has %" PRIu64 " values for %u layers", r->path, key,
                       v->n_elements, r->n_layers);
    int64_t first = 0;
    for (uint64_t i = 0; i < v->n_elements; i++) {
        int64_t element;
        if (!sc_gguf_array_i64(v, i, &element) || element < 0)
            return sc_fail(r->e, SC_BAD_FILE, "%s: key %s must hold unsigned integers", r->path, key);
        first = i == 0 ? element : first;
        if (element != first)
            return sc_fail(r->e, SC_UNSUPPORTED,
                           "%s: key %s differs from layer to layer (%" PRId64 " and %" PRId64
                           "), which Scoria does not support",
                           r->path, key, first, element);
    }
    *out = (uint64_t)first;
    return true;
}

static bool read_count(const struct reader *r, const char *key, uint32_t min, uint32_t max, uint32_t *out)
{
    const struct sc_gguf_value *v = sc_gguf_find_value(r->g, key);
    uint64_t value;
    if (!v)
        return missing(r, key);
    if (!read_integer(r, key, v, &value))
        return false;
    if (value < min)
        return sc_fail(r->e, SC_BAD_FILE, "%s: key %s is %" PRIu64 ", which must be %u to %u", r->path, key, value, min,
                       max);
    if (value > max)
        return sc_fail(r->e, SC_UNSUPPORTED, "%s: key %s is %" PRIu64 ", Scoria takes at most %u", r->path, key, value,
                       max);
    *out = (uint32_t)value;
    return true;
}

static bool read_count_or(const struct reader *r, const char *key, uint32_t fallback, uint32_t min, uint32_t max,
                          uint32_t *out)
{
    *out = fallback;
    return !sc_gguf_find_value(r->g, key) || read_count(r, key, min, max, out);
}

/* A finite number, left as it is if the key is absent. */
static bool read_number(const struct reader *r, const char *key, double *inout)
{
    const struct sc_gguf_value *v = sc_gguf_find_value(r->g, key);
    if (!v)
        return true;
    if (!sc_gguf_read_f64(v, inout))
        return sc_fail(r->e, SC_BAD_FILE, "%s: key %s must be a number", r->path, key);
    if (!isfinite(*inout))
        return sc_fail(r->e, SC_BAD_FILE, "%s: key %s is not a finite number", r->path, key);
    return true;
}

/* A number that is positive also as a float. */
static bool read_positive(const struct reader *r, const char *key, double fallback, float *out)
{
    double value = fallback;
    if (!read_number(r, key, &value))
        return false;
    *out = (float)value;
    if (!(*out > 0) || !isfinite(*out))
        return sc_fail(r->e, SC_BAD_FILE, "%s: key %s is %g, which must be more than 0", r->path, key, value);
    return true;
}

static bool check_architecture(const struct reader *r)
{
    struct sc_gguf_string text;
    if (!sc_gguf_read_string(sc_gguf_find_value(r->g, "general.architecture"), &text))
        return missing(r, "general.architecture");
    if (!is(text, "llama"))
        return sc_fail(r->e, SC_UNSUPPORTED,
                       "%s: architecture %s is not supported; Scoria runs llama (Llama 2 and 3, Mistral, "
                       "Mixtral)",
                       r->path, sc_printable(text.data, text.size_bytes).text);
    if (sc_gguf_read_string(sc_gguf_find_value(r->g, "general.type"), &text) && !is(text, "model"))
        return sc_fail(r->e, SC_UNSUPPORTED, "%s is of type %s, not a whole model", r->path,
                       sc_printable(text.data, text.size_bytes).text);
    return true;
}

/*
 * Keys that other models of the family, or later ones, use to change the computation. The forward pass knows none of
 * them, so any but a neutral value would give wrong answers without a word.
 */
static bool check_switches(const struct reader *r)
{
    static const struct {
        const char *key;
        double neutral, also_neutral;
    } switches[] = {
        {"llama.attention.causal", 1, 1},
        {"llama.attention.clamp_kqv", 0, 0},
        {"llama.attention.max_alibi_bias", 0, 0},
        {"llama.attn_logit_softcapping", 0, 0},
        {"llama.embedding_scale", 0, 1},
        {"llama.expert_gating_func", 0, 1}, /* 1: softmax */
        {"llama.expert_group_count", 0, 1},
        {"llama.expert_shared_count", 0, 0},
        {"llama.expert_weights_scale", 0, 1},
        {"llama.final_logit_softcapping", 0, 0},
        {"llama.interleave_moe_layer_step", 0, 1},
        {"llama.leading_dense_block_count", 0, 0},
        {"llama.logit_scale", 0, 1},
        {"llama.nextn_predict_layers", 0, 0},
        {"llama.residual_scale", 0, 1},
        {"llama.rope.scaling.attn_factor", 0, 1},
        {"llama.use_parallel_residual", 0, 0},
    };

    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++) {
        const struct sc_gguf_value *v = sc_gguf_find_value(r->g, switches[i].key);
        double value = switches[i].neutral;
        bool yes;
        if (sc_gguf_read_bool(v, &yes))
            value = yes;
        else if (!read_number(r, switches[i].key, &value))
            return false;
        if (value != switches[i].neutral && value != switches[i].also_neutral)
            return sc_fail(r->e, SC_UNSUPPORTED, "%s: key %s is %g, which Scoria does not support", r->path,
                           switches[i].key, value);
    }
    return true;
}

static bool read_heads(struct config *c, const struct reader *r)
{
    if (!read_count(r, "llama.attention.head_count", 1, MAX_HEADS, &c->n_heads) ||
        !read_count_or(r, "llama.attention.head_count_kv", c->n_heads, 1, MAX_HEADS, &c->n_kv_heads))
        return false;
    if (c->n_heads % c->n_kv_heads != 0)
        return sc_fail(r->e, SC_BAD_FILE, "%s: %u attention heads cannot share %u key-value heads", r->path, c->n_heads,
                       c->n_kv_heads);

    uint32_t value_length;
    bool has_length = sc_gguf_find_value(r->g, "llama.attention.key_length");
    if (!has_length && c->n_embd % c->n_heads != 0)
        return sc_fail(r->e, SC_BAD_FILE, "%s: an embedding of %u does not divide into %u heads", r->path, c->n_embd,
                       c->n_heads);
    uint32_t share = c->n_embd / c->n_heads;
    if (!read_count_or(r, "llama.attention.key_length", share, 1, MAX_HEAD_DIM, &c->head_dim) ||
        !read_count_or(r, "llama.attention.value_length", share, 1, MAX_HEAD_DIM, &value_length))
        return false;
    if (value_length != c->head_dim)
        return sc_fail(r->e, SC_UNSUPPORTED, "%s: keys have %u values a head, values %u; Scoria needs them equal",
                       r->path, c->head_dim, value_length);
    if (c->head_dim == 0 || c->head_dim % 4 != 0 || c->head_dim > MAX_HEAD_DIM)
        return sc_fail(r->e, SC_UNSUPPORTED, "%s: heads of %u values are not supported, only multiples of 4 up to %d",
                       r->path, c->head_dim, MAX_HEAD_DIM);

    double scale = 0;
    if (!read_number(r, "llama.attention.scale", &scale))
        return false;
    if (scale != 0 && fabs(scale * sqrt((double)c->head_dim) - 1) > 1e-4)
        return sc_fail(r->e, SC_UNSUPPORTED, "%s: key llama.attention.scale is %g, Scoria supports 1/sqrt(%u) only",
                       r->path, scale, c->head_dim);
    return true;
}

static bool read_experts(struct config *c, const struct reader *r)
{
    if (!read_count_or(r, "llama.expert_count", 0, 0, SC_MAX_EXPERTS, &c->n_experts))
        return false;
    if (c->n_experts == 0)
        return true;
    if (!read_count(r, "llama.expert_used_count", 1, SC_MAX_EXPERTS_USED, &c->n_experts_used))
        return false;
    if (c->n_experts_used > c->n_experts)
        return sc_fail(r->e, SC_BAD_FILE, "%s: a token uses %u experts, but there are %u", r->path, c->n_experts_used,
                       c->n_experts);
    return true;
}

/* The factor of linear scaling stands in one of two keys; without a type, a factor means linear. */
static bool read_rope_scaling(struct config *c, const struct reader *r)
{
    struct sc_gguf_string type = {"linear", 6};
    const struct sc_gguf_value *v = sc_gguf_find_value(r->g, "llama.rope.scaling.type");
    if (v && !sc_gguf_read_string(v, &type))
        return sc_fail(r->e, SC_BAD_FILE, "%s: key llama.rope.scaling.type must be a string", r->path);

    c->rope_freq_scale = 1;
    if (is(type, "none"))
        return true;
    if (!is(type, "linear"))
        return sc_fail(r->e, SC_UNSUPPORTED, "%s: rope scaling of type %s is not supported, only none and linear",
                       r->path, sc_printable(type.data, type.size_bytes).text);

    bool old = !sc_gguf_find_value(r->g, "llama.rope.scaling.factor");
    float factor;
    if (!read_positive(r, old ? "llama.rope.scale_linear" : "llama.rope.scaling.factor", 1, &factor))
        return false;
    c->rope_freq_scale = 1 / factor;
    if (!(c->rope_freq_scale > 0) || !isfinite(c->rope_freq_scale))
        return sc_fail(r->e, SC_BAD_FILE, "%s: a rope scaling factor of %g is out of range", r->path, (double)factor);
    return true;
}

static bool read_rope_factors(struct config *c, const struct reader *r)
{
    const struct sc_gguf_tensor *t = sc_gguf_find_tensor(r->g, "rope_freqs.weight");
    if (!t)
        return true;
    if (t->type != SC_F32 || t->n_dims != 1 || t->shape[0] != c->n_rot / 2)
        return sc_fail(r->e, SC_BAD_FILE, "%s: tensor rope_freqs.weight must be f32 of shape (%u)", r->path,
                       c->n_rot / 2);

    /* the parser has checked that data is aligned to 8 bytes at least */
    const float *factors = (const float *)(const void *)t->data;
    for (uint32_t i = 0; i < c->n_rot / 2; i++)
        if (!isfinite(factors[i]) || !(factors[i] > 0))
            return sc_fail(r->e, SC_BAD_FILE, "%s: tensor rope_freqs.weight holds %g at %u, which must be more than 0",
                           r->path, (double)factors[i], i);
    c->rope_factors = factors;
    return true;
}

static bool read_rope(struct config *c, const struct reader *r)
{
    if (!read_count_or(r, "llama.rope.dimension_count", c->head_dim, 1, MAX_HEAD_DIM, &c->n_rot))
        return false;
    if (c->n_rot % 2 != 0 || c->n_rot > c->head_dim)
        return sc_fail(r->e, SC_BAD_FILE,
                       "%s: rope turns %u dimensions, which must be even and at most the %u of a head", r->path,
                       c->n_rot, c->head_dim);
    return read_positive(r, "llama.rope.freq_base", 10000, &c->rope_base) && read_rope_scaling(c, r) &&
           read_rope_factors(c, r);
}

static bool read_context(struct config *c, const struct reader *r)
{
    return read_count(r, "llama.context_length", 1, INT32_MAX, &c->n_ctx_train) &&
           read_count_or(r, "llama.attention.sliding_window", 0, 0, UINT32_MAX, &c->window);
}

static bool read_vocab(struct config *c, const struct reader *r)
{
    const struct sc_gguf_tensor *t = sc_gguf_find_tensor(r->g, "token_embd.weight");
    if (!t)
        return sc_fail(r->e, SC_BAD_FILE, "%s: tensor token_embd.weight is missing", r->path);
    if (t->n_dims != 2 || t->shape[0] > INT32_MAX)
        return sc_fail(r->e, SC_BAD_FILE, "%s: tensor token_embd.weight must have a row for each token", r->path);
    c->n_vocab = (uint32_t)t->shape[0];

    const struct sc_gguf_value *tokens = sc_gguf_find_value(r->g, "tokenizer.ggml.tokens");
    if (tokens && tokens->n_elements != c->n_vocab)
        return sc_fail(r->e, SC_BAD_FILE,
                       "%s: the vocabulary has %" PRIu64 " tokens, tensor token_embd.weight has %u rows", r->path,
                       tokens->n_elements, c->n_vocab);
    return true;
}

bool config_read(struct config *c, const struct sc_gguf *g, struct sc_error *e)
{
    *c = (struct config){0};
    struct printable_path path = sc_printable_path(sc_gguf_path(g));
    struct reader r = {.g = g, .path = path.text, .e = e};

    struct sc_gguf_string name;
    if (sc_gguf_read_string(sc_gguf_find_value(g, "general.name"), &name))
        sc_printable_into(c->name, sizeof c->name, name.data, name.size_bytes);

    if (!check_architecture(&r) || !read_count(&r, "llama.block_count", 1, MAX_LAYERS, &c->n_layers))
        return false;
    r.n_layers = c->n_layers;
    if (!sc_gguf_find_value(g, "llama.attention.layer_norm_rms_epsilon"))
        return missing(&r, "llama.attention.layer_norm_rms_epsilon");
    return read_count(&r, "llama.embedding_length", 1, MAX_EMBD, &c->n_embd) &&
           read_count(&r, "llama.feed_forward_length", 1, MAX_FF, &c->n_ff) && read_heads(c, &r) &&
           read_experts(c, &r) && read_positive(&r, "llama.attention.layer_norm_rms_epsilon", 0, &c->norm_eps) &&
           read_rope(c, &r) && read_context(c, &r) && check_switches(&r) && read_vocab(c, &r);
}
