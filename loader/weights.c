/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "config.h"
#include "printable.h"

/* Kernels read rows in steps of this many weights. */
enum { COLUMN_STEP = 16 };

/* Kernels count the bytes of a matrix in 32 bits, and those of an expert's three matrices together. */
static const uint64_t MAX_MATRIX_BYTES = UINT32_MAX - 64, MAX_EXPERT_MATRIX_BYTES = UINT64_C(1) << 30;

struct finder {
    const struct config *c;
    const struct sc_gguf *g;
    const char *path; /* printable */
    bool *used;       /* (n_tensors) */
    struct sc_error *e;
};

struct name {
    char text[64];
};

static struct name SC_PRINTF(1, 2) name(const char *format, ...)
{
    struct name n;
    va_list args;
    va_start(args, format);
    vsnprintf(n.text, sizeof n.text, format, args);
    va_end(args);
    return n;
}

struct shape_text {
    char text[96];
};

/* "(8, 14336, 4096)" */
static struct shape_text show(uint32_t n_dims, const uint64_t *shape)
{
    struct shape_text s = {"("};
    size_t used = 1;
    for (uint32_t i = 0; i < n_dims; i++)
        used += (size_t)snprintf(s.text + used, sizeof s.text - used, "%s%" PRIu64, i > 0 ? ", " : "", shape[i]);
    snprintf(s.text + used, sizeof s.text - used, ")");
    return s;
}

/* The tensor of that name, marked as used, or NULL and an error if it is not as expected. */
static const struct sc_gguf_tensor *take(struct finder *f, const char *tensor, uint32_t n_dims, const uint64_t *shape)
{
    const struct sc_gguf_tensor *t = sc_gguf_find_tensor(f->g, tensor);
    if (!t) {
        sc_fail(f->e, SC_BAD_FILE, "%s: tensor %s is missing", f->path, tensor);
        return NULL;
    }
    if (!sc_type_info(t->type)) {
        const char *type = sc_type_name(t->type);
        if (type)
            sc_fail(f->e, SC_UNSUPPORTED, "%s: tensor %s is %s, which has no kernel yet", f->path, tensor, type);
        else
            sc_fail(f->e, SC_UNSUPPORTED, "%s: tensor %s is of type %u, which Scoria does not know", f->path, tensor,
                    t->type);
        return NULL;
    }

    bool same = t->n_dims == n_dims;
    for (uint32_t i = 0; same && i < n_dims; i++)
        same = t->shape[i] == shape[i];
    if (!same) {
        sc_fail(f->e, SC_BAD_FILE, "%s: tensor %s has shape %s, expected %s", f->path, tensor,
                show(t->n_dims, t->shape).text, show(n_dims, shape).text);
        return NULL;
    }
    f->used[t - sc_gguf_tensor(f->g, 0)] = true;
    return t;
}

static bool check_size(struct finder *f, const char *tensor, uint64_t matrix_bytes, uint64_t most)
{
    return matrix_bytes <= most ||
           sc_fail(f->e, SC_UNSUPPORTED, "%s: tensor %s has a matrix of %.1f GB, Scoria takes at most %.1f GB", f->path,
                   tensor, (double)matrix_bytes / 1e9, (double)most / 1e9);
}

/* The matrix `index` of a tensor of n. */
static struct weight part_of(const struct sc_gguf_tensor *t, uint32_t index, uint32_t n, uint32_t rows, uint32_t cols)
{
    const uint64_t size_bytes = t->size_bytes / n;
    return (struct weight){.data = t->data + size_bytes * index,
                           .type = (enum sc_type)t->type,
                           .rows = rows,
                           .cols = cols,
                           .size_bytes = size_bytes,
                           .file = t->file,
                           .offset = t->offset + size_bytes * index};
}

static bool take_matrix(struct finder *f, struct weight *w, struct name tensor, uint32_t rows, uint32_t cols)
{
    const struct sc_gguf_tensor *t = take(f, tensor.text, 2, (uint64_t[]){rows, cols});
    if (!t || !check_size(f, tensor.text, t->size_bytes, MAX_MATRIX_BYTES))
        return false;
    *w = part_of(t, 0, 1, rows, cols);
    return true;
}

static bool take_norm(struct finder *f, struct weight *w, struct name tensor)
{
    uint32_t n = f->c->n_embd;
    const struct sc_gguf_tensor *t = take(f, tensor.text, 1, (uint64_t[]){n});
    if (!t)
        return false;
    if (t->type != SC_F32)
        return sc_fail(f->e, SC_UNSUPPORTED, "%s: tensor %s is %s, norms must be f32", f->path, tensor.text,
                       sc_type_name(t->type));
    *w = part_of(t, 0, 1, 1, n);
    return true;
}

/* Which of an expert's matrices. */
struct slot {
    const char *name;
    size_t offset; /* in struct expert_weights */
    uint32_t rows, cols;
};

static struct weight *weight_at(struct expert_weights *x, const struct slot *s)
{
    return (struct weight *)(void *)((char *)x + s->offset);
}

/* One tensor for all experts: (n_experts, rows, cols). */
static bool take_fused(struct finder *f, struct layer_weights *w, uint32_t layer, const struct slot *s)
{
    uint32_t n = f->c->n_experts;
    const struct name tensor = name("blk.%u.%s_exps.weight", layer, s->name);
    const struct sc_gguf_tensor *t = take(f, tensor.text, 3, (uint64_t[]){n, s->rows, s->cols});
    if (!t || !check_size(f, tensor.text, t->size_bytes / n, MAX_EXPERT_MATRIX_BYTES))
        return false;
    for (uint32_t x = 0; x < n; x++)
        *weight_at(&w->experts[x], s) = part_of(t, x, n, s->rows, s->cols);
    return true;
}

/* A tensor for each expert, as older files have them. */
static bool take_separate(struct finder *f, struct layer_weights *w, uint32_t layer, const struct slot *s)
{
    for (uint32_t x = 0; x < f->c->n_experts; x++) {
        struct name tensor = name("blk.%u.%s.%u.weight", layer, s->name, x);
        struct weight *weight = weight_at(&w->experts[x], s), *first = weight_at(&w->experts[0], s);
        if (!take_matrix(f, weight, tensor, s->rows, s->cols) ||
            !check_size(f, tensor.text, weight->size_bytes, MAX_EXPERT_MATRIX_BYTES))
            return false;
        if (weight->type != first->type)
            return sc_fail(f->e, SC_UNSUPPORTED,
                           "%s: tensor %s is %s, but that of expert 0 is %s; Scoria needs one type for all "
                           "experts of a layer",
                           f->path, tensor.text, sc_type_name(weight->type), sc_type_name(first->type));
    }
    return true;
}

static bool take_ffn(struct finder *f, struct layer_weights *w, uint32_t layer)
{
    const struct config *c = f->c;
    const struct slot slots[] = {
        {"ffn_gate", offsetof(struct expert_weights, gate), c->n_ff, c->n_embd},
        {"ffn_up", offsetof(struct expert_weights, up), c->n_ff, c->n_embd},
        {"ffn_down", offsetof(struct expert_weights, down), c->n_embd, c->n_ff},
    };

    if (c->n_experts > 0 &&
        !take_matrix(f, &w->router, name("blk.%u.ffn_gate_inp.weight", layer), c->n_experts, c->n_embd))
        return false;
    for (size_t i = 0; i < sizeof slots / sizeof slots[0]; i++) {
        const struct slot *s = &slots[i];
        bool ok;
        if (c->n_experts == 0)
            ok = take_matrix(f, weight_at(&w->experts[0], s), name("blk.%u.%s.weight", layer, s->name), s->rows,
                             s->cols);
        else if (sc_gguf_find_tensor(f->g, name("blk.%u.%s.0.weight", layer, s->name).text))
            ok = take_separate(f, w, layer, s);
        else
            ok = take_fused(f, w, layer, s);
        if (!ok)
            return false;
    }
    return true;
}

static bool take_layer(struct finder *f, struct layer_weights *w, uint32_t layer)
{
    const struct config *c = f->c;
    uint32_t n_q = c->n_heads * c->head_dim, n_kv = c->n_kv_heads * c->head_dim;
    return take_norm(f, &w->attn_norm, name("blk.%u.attn_norm.weight", layer)) &&
           take_matrix(f, &w->attn_q, name("blk.%u.attn_q.weight", layer), n_q, c->n_embd) &&
           take_matrix(f, &w->attn_k, name("blk.%u.attn_k.weight", layer), n_kv, c->n_embd) &&
           take_matrix(f, &w->attn_v, name("blk.%u.attn_v.weight", layer), n_kv, c->n_embd) &&
           take_matrix(f, &w->attn_output, name("blk.%u.attn_output.weight", layer), c->n_embd, n_q) &&
           take_norm(f, &w->ffn_norm, name("blk.%u.ffn_norm.weight", layer)) && take_ffn(f, w, layer);
}

static bool check_columns(const struct finder *f, const char *what, uint32_t n)
{
    if (n % COLUMN_STEP == 0)
        return true;
    return sc_fail(f->e, SC_UNSUPPORTED, "%s: %s is %u, Scoria needs a multiple of %d", f->path, what, n, COLUMN_STEP);
}

/* Anything left over would be part of the computation that Scoria does not make: a bias, an adapter, another layer. */
static bool check_leftovers(const struct finder *f)
{
    for (size_t i = 0; i < sc_gguf_n_tensors(f->g); i++) {
        const struct sc_gguf_tensor *t = sc_gguf_tensor(f->g, i);
        if (!f->used[i])
            return sc_fail(f->e, SC_UNSUPPORTED,
                           "%s: tensor %s has no place in a llama model of %u layers and %u experts, and Scoria "
                           "ignores none",
                           f->path, sc_printable(t->name.data, t->name.size_bytes).text, f->c->n_layers,
                           f->c->n_experts);
    }
    return true;
}

static bool take_all(struct finder *f, struct weights *w)
{
    const struct config *c = f->c;
    if (!check_columns(f, "the width of the embedding", c->n_embd) ||
        !check_columns(f, "the width of the feed-forward", c->n_ff) ||
        !check_columns(f, "the width of all attention heads", c->n_heads * c->head_dim))
        return false;

    if (!take_matrix(f, &w->token_embd, name("token_embd.weight"), c->n_vocab, c->n_embd) ||
        !take_norm(f, &w->output_norm, name("output_norm.weight")))
        return false;
    w->output = w->token_embd;
    if (sc_gguf_find_tensor(f->g, "output.weight") &&
        !take_matrix(f, &w->output, name("output.weight"), c->n_vocab, c->n_embd))
        return false;
    if (c->rope_factors && !take(f, "rope_freqs.weight", 1, (uint64_t[]){c->n_rot / 2}))
        return false;

    for (uint32_t l = 0; l < c->n_layers; l++)
        if (!take_layer(f, &w->layers[l], l))
            return false;
    return check_leftovers(f);
}

bool weights_init(struct weights *w, const struct config *c, const struct sc_gguf *g, struct sc_error *e)
{
    struct printable_path path = sc_printable_path(sc_gguf_path(g));
    struct finder f = {.c = c, .g = g, .path = path.text, .e = e};
    f.used = calloc(sc_gguf_n_tensors(g) + 1, sizeof *f.used);

    /* the experts of all layers are one array, which layers[0] begins */
    size_t n_experts = c->n_experts > 0 ? c->n_experts : 1;
    *w = (struct weights){.layers = calloc(c->n_layers, sizeof *w->layers)};
    if (w->layers)
        w->layers[0].experts = calloc(c->n_layers * n_experts, sizeof *w->layers[0].experts);

    bool ok = f.used && w->layers && w->layers[0].experts;
    if (!ok)
        sc_fail_memory(e, "the list of weights");
    for (uint32_t l = 1; ok && l < c->n_layers; l++)
        w->layers[l].experts = w->layers[0].experts + l * n_experts;
    ok = ok && take_all(&f, w);

    free(f.used);
    if (!ok)
        weights_finish(w);
    return ok;
}

void weights_finish(struct weights *w)
{
    if (w->layers)
        free(w->layers[0].experts);
    free(w->layers);
    *w = (struct weights){0};
}
