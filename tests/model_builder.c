/* SPDX-License-Identifier: Apache-2.0 */
#include "model_builder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "split.h"

/* splitmix64 */
uint64_t random_u64(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Sum of eight 16-bit uniforms: near enough, and unlike log and cos the same bits on every machine. */
float random_normal(uint64_t *state)
{
    int64_t sum = 0;
    for (int i = 0; i < 2; i++) {
        uint64_t bits = random_u64(state);
        for (int k = 0; k < 4; k++)
            sum += (int64_t)(bits >> 16 * k & 0xFFFF) - 32768;
    }
    return (float)sum * (1.2247449f / 65536); /* variance of the sum: 8 / 12 of 65536^2 */
}

static uint32_t random_below(uint64_t *state, uint32_t n)
{
    return (uint32_t)(random_u64(state) % n);
}

static uint16_t half(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    float a = fabsf(f);
    if (a < 0x1p-14f)
        return (uint16_t)(sign | (uint16_t)lrintf(a * 0x1p24f));
    bits &= 0x7FFFFFFF;
    bits += 0xFFF + (bits >> 13 & 1); /* to nearest, ties to even */
    return (uint16_t)(sign | (bits - (112u << 23)) >> 13);
}

static void put_half(uint8_t *p, float f)
{
    uint16_t h = half(f);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

/* Twelve bytes of scales and mins of q4_k and q5_k, all from 20 to 63 so that no group of weights vanishes. */
static void put_scales(uint8_t *p, uint64_t *state)
{
    uint32_t s[8], m[8];
    for (int i = 0; i < 8; i++) {
        s[i] = 20 + random_below(state, 44);
        m[i] = 20 + random_below(state, 44);
    }
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(s[i] | s[i + 4] >> 4 << 6);
        p[i + 4] = (uint8_t)(m[i] | m[i + 4] >> 4 << 6);
        p[i + 8] = (uint8_t)((s[i + 4] & 15) | (m[i + 4] & 15) << 4);
    }
}

/* The block's bytes are random; puts scales into it that give the wanted deviation, from the deviation of the bare
 * values. */
static void put_block_scales(uint8_t *b, enum sc_type type, float sigma, uint64_t *state)
{
    float jitter = 0.8f + 0.4f * (float)random_below(state, 1024) / 1024;
    float s = sigma * jitter;
    switch (type) {
    case SC_Q4_0: put_half(b, s / 4.61f); break;
    case SC_Q4_1:
        put_half(b, s / 4.61f);
        put_half(b + 2, s / 4.61f * -7.5f);
        break;
    case SC_Q5_0: put_half(b, s / 9.23f); break;
    case SC_Q5_1:
        put_half(b, s / 9.23f);
        put_half(b + 2, s / 9.23f * -15.5f);
        break;
    case SC_Q8_0: put_half(b, s / 73.9f); break;
    case SC_Q2_K:
        put_half(b + 80, s / 1.75f / 8);
        put_half(b + 82, s / 1.75f / 8 * 1.5f);
        break;
    case SC_Q3_K: put_half(b + 108, s / 2.3f / 18.5f); break;
    case SC_Q4_K:
        put_half(b, s / 4.61f / 52);
        put_half(b + 2, s / 4.61f / 52 * 7.5f);
        put_scales(b + 4, state);
        break;
    case SC_Q5_K:
        put_half(b, s / 9.23f / 53);
        put_half(b + 2, s / 9.23f / 53 * 15.5f);
        put_scales(b + 4, state);
        break;
    case SC_Q6_K: put_half(b + 208, s / 18.5f / 73.9f); break;
    case SC_IQ4_NL: put_half(b, s / 67.4f); break;
    case SC_IQ4_XS: put_half(b, s / 67.4f / 18.5f); break;
    case SC_F32:
    case SC_F16:
    case SC_BF16: break;
    }
}

static void put_float(uint8_t *b, enum sc_type type, float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (type == SC_F32) {
        memcpy(b, &bits, sizeof bits);
    } else if (type == SC_F16) {
        put_half(b, f);
    } else {
        b[0] = (uint8_t)(bits >> 16);
        b[1] = (uint8_t)(bits >> 24);
    }
}

void random_blocks(uint8_t *blocks, enum sc_type type, size_t n_blocks, float sigma, uint64_t *state)
{
    const struct sc_type_info *info = sc_type_info(type);
    for (size_t i = 0; i < n_blocks; i++) {
        uint8_t *b = blocks + i * info->block_bytes;
        if (info->block_size == 1) {
            put_float(b, type, sigma * random_normal(state));
            continue;
        }
        for (uint32_t k = 0; k < info->block_bytes; k++)
            b[k] = (uint8_t)random_u64(state);
        put_block_scales(b, type, sigma, state);
    }
}

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

enum role { OUTPUT, VALUE_OR_DOWN, OTHER };

static enum sc_type choose_type(const struct filler *f, enum role role, uint32_t layer, uint64_t cols)
{
    const char *wanted = f->spec.type;
    if (strcmp(wanted, "mix") == 0)
        wanted = role == OUTPUT || (role == VALUE_OR_DOWN && layer % 2 == 0) ? "q6_k" : "q4_k";

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
    for (uint64_t i = 0; p && i < n; i++)
        put_float(p + 4 * i, SC_F32, mean + sigma * random_normal(&f->state));
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
    fill_matrix(f, NAME("blk.%u.attn_k.weight", layer), OTHER, layer, s->kv * head_dim, s->d, 2);
    fill_matrix(f, NAME("blk.%u.attn_v.weight", layer), VALUE_OR_DOWN, layer, s->kv * head_dim, s->d, 1);
    fill_matrix(f, NAME("blk.%u.attn_output.weight", layer), OTHER, layer, s->d, s->heads * head_dim, 1);
    if (!s->dense)
        fill_floats(f, NAME("blk.%u.ffn_gate_inp.weight", layer), 2, (uint64_t[]){s->experts, s->d}, 0,
                    2 / sqrtf((float)s->d));

    static const char *const parts[] = {"gate", "up", "down"};
    for (int i = 0; i < 3; i++) {
        bool down = i == 2;
        enum role role = down ? VALUE_OR_DOWN : OTHER;
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
    gguf_builder_string(b, "general.name", "random model");
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
