/* SPDX-License-Identifier: Apache-2.0 */
#include "model_builder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "split.h"

struct filler {
    struct model_spec spec; /* with defaults filled in */
    struct gguf_builder *builders;
    uint32_t next_file;
    uint64_t state;
};

static struct gguf_builder *next_builder(struct filler *f)
{
    struct gguf_builder *b = &f->builders[f->next_file];
    f->next_file = (f->next_file + 1) % f->spec.n_files;
    return b;
}

enum role { OUTPUT, KEY, VALUE, ATTENTION_OUTPUT, DOWN, OTHER };

/* In files named Q4_K_M, half of the layers, the first, the last and every third between, have better types. */
static bool has_more_bits(uint32_t layer, uint32_t n_layers)
{
    const uint32_t eighth = n_layers / 8;
    return layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2;
}

/* Mixtral's few attention weights are worth more bits than that. */
static const char *q4_k_m_type(const struct model_spec *s, enum role role, uint32_t layer)
{
    const bool is_mixtral = !s->dense && s->experts == 8;
    switch (role) {
    case OUTPUT: return "q6_k";
    case KEY: return is_mixtral ? "q8_0" : "q4_k";
    case VALUE:
        if (is_mixtral)
            return "q8_0";
        return has_more_bits(layer, s->layers) ? "q6_k" : "q4_k";
    case ATTENTION_OUTPUT: return is_mixtral ? "q5_k" : "q4_k";
    case DOWN: return has_more_bits(layer, s->layers) ? "q6_k" : "q4_k";
    case OTHER: break;
    }
    return "q4_k";
}

static const char *mix_type(enum role role, uint32_t layer)
{
    return role == OUTPUT || ((role == VALUE || role == DOWN) && layer % 2 == 0) ? "q6_k" : "q4_k";
}

static enum sc_type choose_type(const struct filler *f, enum role role, uint32_t layer, uint64_t cols)
{
    const char *wanted = f->spec.type;
    if (strcmp(wanted, "mix") == 0)
        wanted = mix_type(role, layer);
    else if (strcmp(wanted, "q4_k_m") == 0)
        wanted = q4_k_m_type(&f->spec, role, layer);

    size_t n;
    const struct sc_type_info *types = sc_types(&n);
    for (size_t i = 0; i < n; i++)
        if (strcmp(types[i].name, wanted) == 0 && cols % types[i].block_size == 0)
            return types[i].type;
    return cols % 32 == 0 ? SC_Q8_0 : SC_F32;
}

static void fill_matrices(struct filler *f, const char *name, enum role role, uint32_t layer, uint32_t n_dims,
                          const uint64_t *shape, float sigma)
{
    enum sc_type type = choose_type(f, role, layer, shape[n_dims - 1]);
    uint8_t *blocks = gguf_builder_tensor(next_builder(f), name, type, n_dims, shape);
    uint64_t n = 1;
    for (uint32_t i = 0; i < n_dims; i++)
        n *= shape[i];
    if (blocks)
        random_blocks(blocks, type, (size_t)(n / sc_type_info(type)->block_size), sigma, &f->state);
}

static void fill_matrix(struct filler *f, const char *name, enum role role, uint32_t layer, uint64_t rows,
                        uint64_t cols, float gain)
{
    fill_matrices(f, name, role, layer, 2, (uint64_t[]){rows, cols}, gain / sqrtf((float)cols));
}

static void fill_floats(struct filler *f, const char *name, uint32_t n_dims, const uint64_t *shape, float mean,
                        float sigma)
{
    uint8_t *p = gguf_builder_tensor(next_builder(f), name, SC_F32, n_dims, shape);
    uint64_t n = n_dims == 1 ? shape[0] : shape[0] * shape[1];
    for (uint64_t i = 0; p && i < n; i++) {
        const float value = mean + sigma * random_normal(&f->state);
        memcpy(p + 4 * i, &value, sizeof value);
    }
}

static void fill_norm(struct filler *f, const char *name)
{
    fill_floats(f, name, 1, (uint64_t[]){f->spec.d}, 1, 0.1f);
}

static void fill_layer(struct filler *f, uint32_t layer)
{
    const struct model_spec *s = &f->spec;
    uint64_t head_dim = s->head_dim ? s->head_dim : s->d / s->heads;
    char name[64];
#define NAME(...) (snprintf(name, sizeof name, __VA_ARGS__), name)

    fill_norm(f, NAME("blk.%u.attn_norm.weight", layer));
    fill_norm(f, NAME("blk.%u.ffn_norm.weight", layer));
    fill_matrix(f, NAME("blk.%u.attn_q.weight", layer), OTHER, layer, s->heads * head_dim, s->d, 2);
    fill_matrix(f, NAME("blk.%u.attn_k.weight", layer), KEY, layer, s->kv * head_dim, s->d, 2);
    fill_matrix(f, NAME("blk.%u.attn_v.weight", layer), VALUE, layer, s->kv * head_dim, s->d, 1);
    fill_matrix(f, NAME("blk.%u.attn_output.weight", layer), ATTENTION_OUTPUT, layer, s->d, s->heads * head_dim, 1);
    if (!s->dense)
        fill_floats(f, NAME("blk.%u.ffn_gate_inp.weight", layer), 2, (uint64_t[]){s->experts, s->d}, 0,
                    2 / sqrtf((float)s->d));

    static const char *const parts[] = {"gate", "up", "down"};
    for (int i = 0; i < 3; i++) {
        bool down = i == 2;
        enum role role = down ? DOWN : OTHER;
        uint64_t rows = down ? s->d : s->ff, cols = down ? s->ff : s->d;
        if (s->dense) {
            fill_matrix(f, NAME("blk.%u.ffn_%s.weight", layer, parts[i]), role, layer, rows, cols, 2);
        } else if (s->split_experts) {
            for (uint32_t e = 0; e < s->experts; e++)
                fill_matrix(f, NAME("blk.%u.ffn_%s.%u.weight", layer, parts[i], e), role, layer, rows, cols, 2);
        } else {
            fill_matrices(f, NAME("blk.%u.ffn_%s_exps.weight", layer, parts[i]), role, layer, 3,
                          (uint64_t[]){s->experts, rows, cols}, 2 / sqrtf((float)cols));
        }
    }
#undef NAME
}

static void fill_hyperparameters(struct gguf_builder *b, const struct model_spec *s)
{
    uint32_t head_dim = s->head_dim ? s->head_dim : s->d / s->heads;
    gguf_builder_string(b, "general.architecture", "llama");
    gguf_builder_string(b, "general.name", s->name);
    gguf_builder_u32(b, "llama.context_length", s->n_ctx);
    gguf_builder_u32(b, "llama.embedding_length", s->d);
    gguf_builder_u32(b, "llama.block_count", s->layers);
    gguf_builder_u32(b, "llama.feed_forward_length", s->ff);
    gguf_builder_u32(b, "llama.attention.head_count", s->heads);
    gguf_builder_u32(b, "llama.attention.head_count_kv", s->kv);
    gguf_builder_f32(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_builder_f32(b, "llama.rope.freq_base", s->rope_base);
    gguf_builder_u32(b, "llama.rope.dimension_count", s->n_rot ? s->n_rot : head_dim);
    gguf_builder_u32(b, "llama.vocab_size", s->vocab);
    if (s->window)
        gguf_builder_u32(b, "llama.attention.sliding_window", s->window);
    if (s->rope_linear != 0) {
        gguf_builder_string(b, "llama.rope.scaling.type", "linear");
        gguf_builder_f32(b, "llama.rope.scaling.factor", s->rope_linear);
    }
    if (s->head_dim) {
        gguf_builder_u32(b, "llama.attention.key_length", head_dim);
        gguf_builder_u32(b, "llama.attention.value_length", head_dim);
    }
    if (!s->dense) {
        gguf_builder_u32(b, "llama.expert_count", s->experts);
        gguf_builder_u32(b, "llama.expert_used_count", s->used);
    }
}

/* <unk>, <s>, </s>, the 256 bytes, then words */
static void fill_tokenizer(struct gguf_builder *b, uint32_t n)
{
    char(*text)[16] = calloc(n, sizeof *text);
    const char **tokens = calloc(n, sizeof *tokens);
    float *scores = calloc(n, sizeof *scores);
    int32_t *types = calloc(n, sizeof *types);
    if (!text || !tokens || !scores || !types) {
        b->values.failed = true;
        n = 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (i < 3)
            snprintf(text[i], sizeof text[i], "%s", (const char *const[]){"<unk>", "<s>", "</s>"}[i]);
        else if (i < 259)
            snprintf(text[i], sizeof text[i], "<0x%02X>", i - 3);
        else
            snprintf(text[i], sizeof text[i], "\xE2\x96\x81w%u", i);
        tokens[i] = text[i];
        types[i] = i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1;
        scores[i] = -(float)i;
    }
    gguf_builder_string(b, "tokenizer.ggml.model", "llama");
    gguf_builder_strings(b, "tokenizer.ggml.tokens", tokens, n);
    gguf_builder_array(b, "tokenizer.ggml.scores", SC_GGUF_F32, n, scores, n * sizeof *scores);
    gguf_builder_array(b, "tokenizer.ggml.token_type", SC_GGUF_I32, n, types, n * sizeof *types);
    gguf_builder_u32(b, "tokenizer.ggml.bos_token_id", 1);
    gguf_builder_u32(b, "tokenizer.ggml.eos_token_id", 2);
    gguf_builder_u32(b, "tokenizer.ggml.unknown_token_id", 0);
    free(types);
    free(scores);
    free(tokens);
    free(text);
}

static struct model_spec with_defaults(const struct model_spec *spec)
{
    struct model_spec s = *spec;
#define DEFAULT(field, value) s.field = s.field ? s.field : (value)
    DEFAULT(name, "random model");
    DEFAULT(d, 256);
    DEFAULT(ff, 512);
    DEFAULT(layers, 2);
    DEFAULT(heads, 4);
    DEFAULT(kv, 2);
    DEFAULT(experts, 4);
    DEFAULT(used, 2);
    DEFAULT(vocab, 320);
    DEFAULT(n_ctx, 4096);
    DEFAULT(type, "mix");
    DEFAULT(n_files, 1);
#undef DEFAULT
    s.rope_base = s.rope_base != 0 ? s.rope_base : 1e6f;
    return s;
}

void model_fill(struct gguf_builder *builders, const struct model_spec *spec)
{
    struct filler f = {.spec = with_defaults(spec), .builders = builders, .state = spec->seed};
    const struct model_spec *s = &f.spec;
    uint64_t head_dim = s->head_dim ? s->head_dim : s->d / s->heads;
    fill_hyperparameters(&builders[0], s);
    for (uint32_t i = 0; i < s->n_files; i++)
        builders[i].header_only = s->header_only;
    if (!s->header_only)
        fill_tokenizer(&builders[0], s->vocab);

    /* embeddings have a deviation of 1: the gain takes back the division by the root of the columns */
    fill_matrix(&f, "token_embd.weight", OTHER, 0, s->vocab, s->d, sqrtf((float)s->d));
    if (!s->tied)
        fill_matrix(&f, "output.weight", OUTPUT, 0, s->vocab, s->d, 4);
    fill_norm(&f, "output_norm.weight");
    if (s->rope_factors)
        fill_floats(&f, "rope_freqs.weight", 1, (uint64_t[]){(s->n_rot ? s->n_rot : head_dim) / 2}, 4, 0.5f);
    for (uint32_t i = 0; i < s->layers; i++)
        fill_layer(&f, i);

    uint32_t n_tensors = 0;
    for (uint32_t i = 0; i < s->n_files; i++)
        n_tensors += (uint32_t)builders[i].n_tensors;
    for (uint32_t i = 0; s->n_files > 1 && i < s->n_files; i++) {
        uint16_t number = (uint16_t)i, count = (uint16_t)s->n_files;
        gguf_builder_value(&builders[i], "split.no", SC_GGUF_U16, &number, sizeof number);
        gguf_builder_value(&builders[i], "split.count", SC_GGUF_U16, &count, sizeof count);
        gguf_builder_u32(&builders[i], "split.tensors.count", n_tensors);
    }
}

bool model_preset(struct model_spec *spec, const char *name)
{
    static const struct {
        const char *name;
        struct model_spec spec;
    } presets[] = {
        {"8x7b", {.d = 4096, .ff = 14336, .layers = 32, .heads = 32, .kv = 8, .experts = 8, .n_ctx = 32768}},
        {"8x22b", {.d = 6144, .ff = 16384, .layers = 56, .heads = 48, .kv = 8, .experts = 8, .n_ctx = 65536}},
        {"7b", {.d = 4096, .ff = 14336, .layers = 32, .heads = 32, .kv = 8, .dense = true, .n_ctx = 32768}},
        {"30b-a3b",
         {.d = 2048,
          .ff = 768,
          .layers = 48,
          .heads = 32,
          .kv = 4,
          .head_dim = 128,
          .experts = 128,
          .used = 8,
          .vocab = 151936,
          .n_ctx = 40960}},
    };
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
        if (strcmp(presets[i].name, name) == 0) {
            *spec = presets[i].spec;
            spec->name = presets[i].name;
            spec->type = "q4_k_m";
            spec->vocab = spec->vocab ? spec->vocab : 32000;
            return true;
        }
    return false;
}

bool model_write(const char *path, const struct model_spec *spec)
{
    uint32_t n_files = spec->n_files ? spec->n_files : 1;
    struct split_name name = {0};
    if (n_files > 1 && (!split_parse(path, &name) || name.count != n_files))
        return false;
    struct gguf_builder *builders = calloc(n_files, sizeof *builders);
    if (!builders)
        return false;

    model_fill(builders, spec);
    bool ok = true;
    for (uint32_t i = 0; i < n_files; i++) {
        char *part = n_files > 1 ? split_path(path, &name, i + 1) : NULL;
        ok = ok && gguf_builder_write(&builders[i], part ? part : path);
        free(part);
        gguf_builder_finish(&builders[i]);
    }
    free(builders);
    return ok;
}
