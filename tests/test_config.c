/* SPDX-License-Identifier: Apache-2.0 */
/* From a file's metadata and tensors to a checked config and the weights' places. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "config.h"
#include "model_builder.h"

static const char path[] = "test_config.tmp.gguf";
static const struct model_spec small = {
    .d = 32, .ff = 48, .layers = 2, .heads = 4, .kv = 2, .type = "f16", .experts = 4};

struct model {
    struct sc_gguf *g;
    struct config c;
    struct weights w;
};

static bool load(struct model *m, struct sc_error *e)
{
    *m = (struct model){0};
    m->g = sc_gguf_open(path, e);
    return m->g && config_read(&m->c, m->g, e) && weights_init(&m->w, &m->c, m->g, e);
}

static void unload(struct model *m)
{
    weights_finish(&m->w);
    sc_gguf_close(m->g);
}

static struct model must_load(const struct model_spec *spec)
{
    struct sc_error e = {0};
    struct model m;
    assert_true(model_write(path, spec));
    if (!load(&m, &e))
        fail_msg("%s", e.text);
    return m;
}

static void test_mixture(void **state)
{
    (void)state;
    const struct model_spec spec = {.d = 256,
                                    .ff = 512,
                                    .layers = 3,
                                    .heads = 8,
                                    .kv = 2,
                                    .head_dim = 64,
                                    .experts = 5,
                                    .used = 3,
                                    .vocab = 300,
                                    .n_rot = 32,
                                    .rope_base = 12345,
                                    .rope_linear = 4,
                                    .n_ctx = 777};
    struct model m = must_load(&spec);
    const struct config *c = &m.c;
    assert_string_equal(c->name, "random model");
    assert_true(c->n_layers == 3 && c->n_embd == 256 && c->n_heads == 8 && c->n_kv_heads == 2 && c->head_dim == 64);
    assert_true(c->n_ff == 512 && c->n_experts == 5 && c->n_experts_used == 3 && c->n_vocab == 300 &&
                c->n_ctx_train == 777);
    assert_true(c->n_rot == 32 && c->rope_base == 12345 && c->rope_freq_scale == 0.25f && !c->rope_factors);
    assert_true(c->norm_eps == 1e-5f);

    const struct layer_weights *l = &m.w.layers[2];
    assert_true(l->attn_q.rows == 512 && l->attn_q.cols == 256 && l->attn_k.rows == 128 && l->attn_output.cols == 512);
    assert_true(l->attn_q.type == SC_Q4_K && l->attn_q.size_bytes == 512 * 144 && l->attn_norm.rows == 1);
    assert_true(l->router.rows == 5 && l->router.cols == 256 && l->router.type == SC_F32);
    assert_true(l->experts[4].down.rows == 256 && l->experts[4].down.cols == 512 && l->experts[4].down.type == SC_Q6_K);
    assert_ptr_equal(l->experts[3].up.data, l->experts[2].up.data + l->experts[2].up.size_bytes);
    assert_true(m.w.output.data != m.w.token_embd.data && m.w.output.type == SC_Q6_K);

    const struct sc_gguf_tensor *fused = sc_gguf_find_tensor(m.g, "blk.2.ffn_gate_exps.weight");
    assert_ptr_equal(l->experts[0].gate.data, fused->data);
    assert_int_equal(5 * l->experts[0].gate.size_bytes, fused->size_bytes);
    unload(&m);
}

static void test_layouts(void **state)
{
    (void)state;
    struct model_spec spec = small;
    spec.split_experts = true;
    struct model m = must_load(&spec);
    const struct sc_gguf_tensor *t = sc_gguf_find_tensor(m.g, "blk.1.ffn_down.3.weight");
    assert_non_null(t);
    assert_ptr_equal(m.w.layers[1].experts[3].down.data, t->data);
    assert_true(m.w.layers[1].experts[3].down.rows == 32 && m.w.layers[1].experts[3].down.cols == 48);
    unload(&m);

    spec = small;
    spec.dense = true;
    spec.tied = true;
    spec.rope_factors = true;
    m = must_load(&spec);
    assert_true(m.c.n_experts == 0 && m.c.n_experts_used == 0 && !m.w.layers[0].router.data);
    assert_non_null(m.w.layers[1].experts[0].gate.data);
    assert_ptr_equal(m.w.output.data, m.w.token_embd.data);
    assert_int_equal(m.w.output.size_bytes, m.w.token_embd.size_bytes);
    assert_true(m.c.rope_factors && m.c.rope_factors[0] > 2 && m.c.rope_factors[m.c.n_rot / 2 - 1] > 2);
    unload(&m);
}

static void test_every_type(void **state)
{
    (void)state;
    size_t n;
    const struct sc_type_info *types = sc_types(&n);
    for (size_t i = 0; i < n; i++) {
        const struct model_spec spec = {.layers = 1, .type = types[i].name, .ff = 256};
        struct model m = must_load(&spec);
        assert_int_equal(m.w.layers[0].experts[1].up.type, types[i].type);

        /* the builder's promise: activations near 1 need weights near 1 / sqrt(columns), gain 2 */
        float row[256], sum = 0;
        const struct weight *w = &m.w.layers[0].experts[1].up;
        types[i].dequantize(w->data, row, 256 / types[i].block_size);
        for (int k = 0; k < 256; k++)
            sum += row[k] * row[k];
        if (!(sum > 1 && sum < 16))
            fail_msg("%s: a row's weights have a square sum of %g", types[i].name, (double)sum);
        unload(&m);
    }
}

static void u32_0(struct gguf_builder *b, const char *key)
{
    gguf_builder_u32(b, key, 0);
}

static void u32_3(struct gguf_builder *b, const char *key)
{
    gguf_builder_u32(b, key, 3);
}

static void u32_5(struct gguf_builder *b, const char *key)
{
    gguf_builder_u32(b, key, 5);
}

static void u32_24(struct gguf_builder *b, const char *key)
{
    gguf_builder_u32(b, key, 24);
}

static void u32_300(struct gguf_builder *b, const char *key)
{
    gguf_builder_u32(b, key, 300);
}

static void u32_huge(struct gguf_builder *b, const char *key)
{
    gguf_builder_u32(b, key, UINT32_MAX);
}

static void u64_wraps(struct gguf_builder *b, const char *key)
{
    gguf_builder_value(b, key, SC_GGUF_U64, (uint64_t[]){(UINT64_C(1) << 32) + 2}, 8);
}

static void i32_negative(struct gguf_builder *b, const char *key)
{
    gguf_builder_value(b, key, SC_GGUF_I32, (int32_t[]){-1}, 4);
}

static void f32_nan(struct gguf_builder *b, const char *key)
{
    gguf_builder_f32(b, key, NAN);
}

static void f32_infinity(struct gguf_builder *b, const char *key)
{
    gguf_builder_f32(b, key, INFINITY);
}

static void f32_0(struct gguf_builder *b, const char *key)
{
    gguf_builder_f32(b, key, 0);
}

static void f64_huge(struct gguf_builder *b, const char *key)
{
    gguf_builder_value(b, key, SC_GGUF_F64, (double[]){1e300}, 8);
}

static void text(struct gguf_builder *b, const char *key)
{
    gguf_builder_string(b, key, "yarn");
}

static void array_1_2(struct gguf_builder *b, const char *key)
{
    gguf_builder_array(b, key, SC_GGUF_I32, 2, (int32_t[]){1, 2}, 8);
}

static void array_2_2_2(struct gguf_builder *b, const char *key)
{
    gguf_builder_array(b, key, SC_GGUF_I32, 3, (int32_t[]){2, 2, 2}, 12);
}

static void no(struct gguf_builder *b, const char *key)
{
    gguf_builder_bool(b, key, false);
}

static void leave_out(struct gguf_builder *b, const char *key)
{
    b->omit = key;
}

static void tensor_iq1_m(struct gguf_builder *b, const char *name)
{
    gguf_builder_tensor(b, name, 29, 2, (uint64_t[]){32, 32});
}

static void tensor_type_77(struct gguf_builder *b, const char *name)
{
    gguf_builder_tensor(b, name, 77, 2, (uint64_t[]){32, 32});
}

static void tensor_16x32(struct gguf_builder *b, const char *name)
{
    gguf_builder_tensor(b, name, SC_F32, 2, (uint64_t[]){16, 32});
}

static void tensor_320x16(struct gguf_builder *b, const char *name)
{
    gguf_builder_tensor(b, name, SC_F32, 2, (uint64_t[]){320, 16});
}

static void tensor_32(struct gguf_builder *b, const char *name)
{
    gguf_builder_tensor(b, name, SC_F32, 1, (uint64_t[]){32});
}

static void tensor_f16_32(struct gguf_builder *b, const char *name)
{
    gguf_builder_tensor(b, name, SC_F16, 1, (uint64_t[]){32});
}

static void factors_with_zero(struct gguf_builder *b, const char *name)
{
    gguf_builder_tensor(b, name, SC_F32, 1, (uint64_t[]){4});
}

static void test_contradictions(void **state)
{
    (void)state;
    static const struct {
        const char *name; /* of a key or tensor */
        void (*change)(struct gguf_builder *b, const char *name);
        enum sc_code code;
        const char *text;
    } cases[] = {
        {"general.architecture", text, SC_UNSUPPORTED, "architecture yarn is not supported; Scoria runs llama"},
        {"general.architecture", leave_out, SC_BAD_FILE, "key general.architecture is missing"},
        {"general.architecture", u32_3, SC_BAD_FILE, "key general.architecture is missing"},
        {"general.type", text, SC_UNSUPPORTED, "is of type yarn, not a whole model"},
        {"llama.block_count", leave_out, SC_BAD_FILE, "key llama.block_count is missing"},
        {"llama.block_count", u32_0, SC_BAD_FILE, "key llama.block_count is 0, which must be 1 to 500"},
        {"llama.block_count", u32_huge, SC_UNSUPPORTED,
         "key llama.block_count is 4294967295, Scoria takes at most 500"},
        {"llama.block_count", u64_wraps, SC_UNSUPPORTED, "key llama.block_count is 4294967298"},
        {"llama.block_count", u32_3, SC_BAD_FILE, "tensor blk.2.attn_norm.weight is missing"},
        {"llama.embedding_length", u32_0, SC_BAD_FILE, "key llama.embedding_length is 0"},
        {"llama.embedding_length", u32_3, SC_BAD_FILE, "an embedding of 3 does not divide into 4 heads"},
        {"llama.embedding_length", text, SC_BAD_FILE, "key llama.embedding_length must be an unsigned integer"},
        {"llama.embedding_length", f32_0, SC_BAD_FILE, "key llama.embedding_length must be an unsigned integer"},
        {"llama.embedding_length", u32_300, SC_UNSUPPORTED, "heads of 75 values are not supported"},
        {"llama.embedding_length", u32_24, SC_UNSUPPORTED, "heads of 6 values are not supported, only multiples of 4"},
        {"llama.feed_forward_length", leave_out, SC_BAD_FILE, "key llama.feed_forward_length is missing"},
        {"llama.feed_forward_length", u32_300, SC_UNSUPPORTED,
         "the width of the feed-forward is 300, Scoria needs a multiple of 16"},
        {"llama.attention.head_count", u32_0, SC_BAD_FILE, "key llama.attention.head_count is 0"},
        {"llama.attention.head_count", i32_negative, SC_BAD_FILE,
         "key llama.attention.head_count must be an unsigned integer"},
        {"llama.attention.head_count", u32_3, SC_BAD_FILE, "3 attention heads cannot share 2 key-value heads"},
        {"llama.attention.head_count_kv", u32_0, SC_BAD_FILE, "key llama.attention.head_count_kv is 0"},
        {"llama.attention.head_count_kv", array_1_2, SC_UNSUPPORTED, "differs from layer to layer (1 and 2)"},
        {"llama.attention.head_count_kv", array_2_2_2, SC_BAD_FILE, "head_count_kv has 3 values for 2 layers"},
        {"llama.attention.key_length", u32_0, SC_BAD_FILE, "key llama.attention.key_length is 0"},
        {"llama.attention.key_length", u32_300, SC_UNSUPPORTED,
         "key llama.attention.key_length is 300, Scoria takes at most 256"},
        {"llama.attention.value_length", u32_3, SC_UNSUPPORTED, "keys have 8 values a head, values 3"},
        {"llama.attention.scale", f64_huge, SC_UNSUPPORTED, "key llama.attention.scale is 1e+300"},
        {"llama.attention.causal", no, SC_UNSUPPORTED, "key llama.attention.causal is 0"},
        {"llama.logit_scale", u32_3, SC_UNSUPPORTED, "key llama.logit_scale is 3, which Scoria does not support"},
        {"llama.attention.layer_norm_rms_epsilon", leave_out, SC_BAD_FILE, "layer_norm_rms_epsilon is missing"},
        {"llama.attention.layer_norm_rms_epsilon", f32_nan, SC_BAD_FILE,
         "layer_norm_rms_epsilon is not a finite number"},
        {"llama.attention.layer_norm_rms_epsilon", f32_0, SC_BAD_FILE,
         "layer_norm_rms_epsilon is 0, which must be more than 0"},
        {"llama.attention.layer_norm_rms_epsilon", text, SC_BAD_FILE, "layer_norm_rms_epsilon must be a number"},
        {"llama.rope.freq_base", f32_infinity, SC_BAD_FILE, "key llama.rope.freq_base is not a finite number"},
        {"llama.rope.freq_base", f64_huge, SC_BAD_FILE, "key llama.rope.freq_base is 1e+300"},
        {"llama.rope.freq_base", f32_0, SC_BAD_FILE, "key llama.rope.freq_base is 0"},
        {"llama.rope.dimension_count", u32_3, SC_BAD_FILE, "rope turns 3 dimensions"},
        {"llama.rope.dimension_count", u32_300, SC_UNSUPPORTED, "llama.rope.dimension_count is 300"},
        {"llama.rope.scaling.type", text, SC_UNSUPPORTED,
         "rope scaling of type yarn is not supported, only none and linear"},
        {"llama.rope.scaling.type", u32_0, SC_BAD_FILE, "key llama.rope.scaling.type must be a string"},
        {"llama.rope.scaling.factor", f32_0, SC_BAD_FILE, "key llama.rope.scaling.factor is 0"},
        {"llama.rope.scale_linear", f32_nan, SC_BAD_FILE, "key llama.rope.scale_linear is not a finite number"},
        {"llama.expert_count", u32_300, SC_UNSUPPORTED, "key llama.expert_count is 300, Scoria takes at most 256"},
        {"llama.expert_count", u32_0, SC_BAD_FILE, "tensor blk.0.ffn_gate.weight is missing"},
        {"llama.expert_count", u32_3, SC_BAD_FILE,
         "tensor blk.0.ffn_gate_inp.weight has shape (4, 32), expected (3, 32)"},
        {"llama.expert_used_count", leave_out, SC_BAD_FILE, "key llama.expert_used_count is missing"},
        {"llama.expert_used_count", u32_0, SC_BAD_FILE, "key llama.expert_used_count is 0"},
        {"llama.expert_used_count", u32_300, SC_UNSUPPORTED,
         "key llama.expert_used_count is 300, Scoria takes at most 16"},
        {"llama.expert_used_count", u32_5, SC_BAD_FILE, "a token uses 5 experts, but there are 4"},
        {"llama.context_length", u32_0, SC_BAD_FILE, "key llama.context_length is 0"},
        {"llama.context_length", u32_huge, SC_UNSUPPORTED, "key llama.context_length is 4294967295"},
        {"tokenizer.ggml.tokens", array_1_2, SC_BAD_FILE,
         "the vocabulary has 2 tokens, tensor token_embd.weight has 320 rows"},
        {"token_embd.weight", leave_out, SC_BAD_FILE, "tensor token_embd.weight is missing"},
        {"token_embd.weight", tensor_32, SC_BAD_FILE, "tensor token_embd.weight must have a row for each token"},
        {"output_norm.weight", leave_out, SC_BAD_FILE, "tensor output_norm.weight is missing"},
        {"output_norm.weight", tensor_f16_32, SC_UNSUPPORTED, "tensor output_norm.weight is f16, norms must be f32"},
        {"output.weight", tensor_16x32, SC_BAD_FILE, "tensor output.weight has shape (16, 32), expected (320, 32)"},
        {"output.weight", tensor_320x16, SC_BAD_FILE, "tensor output.weight has shape (320, 16), expected (320, 32)"},
        {"blk.1.attn_q.weight", leave_out, SC_BAD_FILE, "tensor blk.1.attn_q.weight is missing"},
        {"blk.1.attn_q.weight", tensor_iq1_m, SC_UNSUPPORTED,
         "tensor blk.1.attn_q.weight is iq1_m, which has no kernel yet"},
        {"blk.1.attn_q.weight", tensor_type_77, SC_UNSUPPORTED,
         "tensor blk.1.attn_q.weight is of type 77, which Scoria does not know"},
        {"blk.1.attn_k.weight", tensor_32, SC_BAD_FILE, "tensor blk.1.attn_k.weight has shape (32), expected (16, 32)"},
        {"blk.0.attn_q.bias", tensor_32, SC_UNSUPPORTED,
         "tensor blk.0.attn_q.bias has no place in a llama model of 2 layers and 4 experts"},
        {"blk.2.attn_norm.weight", tensor_32, SC_UNSUPPORTED, "tensor blk.2.attn_norm.weight has no place"},
        {"blk.0.ffn_up_exps.weight", leave_out, SC_BAD_FILE, "tensor blk.0.ffn_up_exps.weight is missing"},
        {"blk.0.ffn_gate_inp.weight", leave_out, SC_BAD_FILE, "tensor blk.0.ffn_gate_inp.weight is missing"},
        {"rope_freqs.weight", factors_with_zero, SC_BAD_FILE,
         "tensor rope_freqs.weight holds 0 at 0, which must be more than 0"},
        {"rope_freqs.weight", tensor_32, SC_BAD_FILE, "tensor rope_freqs.weight must be f32 of shape (4)"},
        {"rope_freqs.weight", tensor_iq1_m, SC_BAD_FILE, "tensor rope_freqs.weight must be f32 of shape (4)"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gguf_builder b = {0};
        cases[i].change(&b, cases[i].name);
        model_fill(&b, &small);
        assert_true(gguf_builder_write(&b, path));
        gguf_builder_finish(&b);

        struct sc_error e = {0};
        struct model m;
        bool ok = load(&m, &e);
        if (ok || e.code != cases[i].code || !strstr(e.text, cases[i].text) || strncmp(e.text, path, strlen(path)) != 0)
            fail_msg("case %zu, %s: expected code %d and \"%s\", got %d and \"%s\"", i, cases[i].name, cases[i].code,
                     cases[i].text, e.code, e.text);
        unload(&m);
    }
}

static void test_mixed_experts(void **state)
{
    (void)state;
    struct gguf_builder b = {0};
    struct model_spec spec = small;
    spec.split_experts = true;
    gguf_builder_tensor(&b, "blk.0.ffn_up.2.weight", SC_F32, 2, (uint64_t[]){48, 32});
    model_fill(&b, &spec);
    assert_true(gguf_builder_write(&b, path));
    gguf_builder_finish(&b);
    struct sc_error e = {0};
    struct model m;
    assert_false(load(&m, &e));
    assert_int_equal(e.code, SC_UNSUPPORTED);
    assert_non_null(strstr(e.text, "tensor blk.0.ffn_up.2.weight is f32, but that of expert 0 is f16"));
    unload(&m);
}

/* What a file may say in more than one way, or leave out. */
static void test_tolerance(void **state)
{
    (void)state;
    struct gguf_builder b = {0};
    gguf_builder_array(&b, "llama.attention.head_count_kv", SC_GGUF_U32, 2, (uint32_t[]){2, 2}, 8);
    gguf_builder_value(&b, "llama.block_count", SC_GGUF_I64, (int64_t[]){2}, 8);
    gguf_builder_value(&b, "llama.rope.freq_base", SC_GGUF_U32, (uint32_t[]){500000}, 4);
    gguf_builder_value(&b, "llama.attention.layer_norm_rms_epsilon", SC_GGUF_F64, (double[]){1e-6}, 8);
    gguf_builder_u32(&b, "llama.attention.sliding_window", 1000);
    gguf_builder_f32(&b, "llama.rope.scale_linear", 2);
    gguf_builder_f32(&b, "llama.attention.scale", 1 / sqrtf(8));
    gguf_builder_f32(&b, "llama.logit_scale", 1);
    gguf_builder_bool(&b, "llama.attention.causal", true);
    gguf_builder_string(&b, "general.name", "\x1B[2Jevil\xFF");
    b.omit = "llama.rope.dimension_count";
    model_fill(&b, &small);
    assert_true(gguf_builder_write(&b, path));
    gguf_builder_finish(&b);

    struct sc_error e = {0};
    struct model m;
    if (!load(&m, &e))
        fail_msg("%s", e.text);
    assert_true(m.c.n_kv_heads == 2 && m.c.n_layers == 2 && m.c.rope_base == 500000 && m.c.norm_eps == 1e-6f);
    assert_true(m.c.n_ctx_train == 4096 && m.c.window == 1000 && m.c.rope_freq_scale == 0.5f && m.c.n_rot == 8);
    assert_string_equal(m.c.name, "\\x1b[2Jevil\\xff");
    unload(&m);

    /* type none switches a factor off */
    gguf_builder_string(&b, "llama.rope.scaling.type", "none");
    gguf_builder_f32(&b, "llama.rope.scaling.factor", 4);
    b.omit = "llama.attention.head_count_kv";
    struct model_spec spec = small;
    spec.kv = 4;
    model_fill(&b, &spec);
    assert_true(gguf_builder_write(&b, path));
    gguf_builder_finish(&b);
    if (!load(&m, &e))
        fail_msg("%s", e.text);
    assert_true(m.c.rope_freq_scale == 1 && m.c.window == 0 && m.c.n_kv_heads == 4);
    unload(&m);
}

static int remove_file(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixture),        cmocka_unit_test(test_layouts),       cmocka_unit_test(test_every_type),
        cmocka_unit_test(test_contradictions), cmocka_unit_test(test_mixed_experts), cmocka_unit_test(test_tolerance),
    };
    return cmocka_run_group_tests(tests, NULL, remove_file);
}
