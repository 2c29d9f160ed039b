/* SPDX-License-Identifier: Apache-2.0 */
#include "load_everything.h"

#include <stdlib.h>

#include "config.h"
#include "tokenizer.h"

/* The sanitizers see a read beyond the mapping only if it happens. */
static unsigned touch(const void *data, size_t size_bytes)
{
    const volatile uint8_t *p = data;
    unsigned sum = 0;
    for (size_t i = 0; i < size_bytes; i += 64)
        sum += p[i];
    return size_bytes > 0 ? sum + p[size_bytes - 1] : sum;
}

static bool touch_values(const struct sc_gguf *g, struct sc_error *e)
{
    for (size_t i = 0; i < sc_gguf_n_values(g); i++) {
        const struct sc_gguf_value *v = sc_gguf_value(g, i);
        struct sc_gguf_string text;
        uint64_t u;
        double d;
        int64_t s;
        bool b;
        touch(v->key.data, v->key.size_bytes);
        touch(v->data, v->size_bytes);
        (void)sc_gguf_read_u64(v, &u);
        (void)sc_gguf_read_f64(v, &d);
        (void)sc_gguf_read_bool(v, &b);
        if (sc_gguf_read_string(v, &text))
            touch(text.data, text.size_bytes);
        if (v->type == SC_GGUF_ARRAY && v->n_elements > 0) {
            (void)sc_gguf_array_f64(v, v->n_elements - 1, &d);
            (void)sc_gguf_array_i64(v, v->n_elements - 1, &s);
        }
        if (v->type == SC_GGUF_ARRAY && v->element_type == SC_GGUF_STRING) {
            struct sc_gguf_string *strings = malloc((v->n_elements + 1) * sizeof *strings);
            if (!strings)
                return sc_fail_memory(e, "the test");
            if (sc_gguf_array_strings(v, strings))
                for (uint64_t k = 0; k < v->n_elements; k++)
                    touch(strings[k].data, strings[k].size_bytes);
            free(strings);
        }
    }
    return true;
}

static void touch_weight(const struct weight *w)
{
    const struct sc_type_info *info = sc_type_info(w->type);
    if (!w->data)
        return;
    /* rows and columns must describe the bytes exactly */
    if ((uint64_t)w->rows * (w->cols / info->block_size) * info->block_bytes != w->size_bytes)
        abort();
    touch(w->data, w->size_bytes);
}

static void touch_weights(const struct config *c, const struct weights *w)
{
    touch_weight(&w->token_embd);
    touch_weight(&w->output_norm);
    touch_weight(&w->output);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const struct layer_weights *l = &w->layers[i];
        const struct weight *all[] = {&l->attn_norm,   &l->attn_q,   &l->attn_k, &l->attn_v,
                                      &l->attn_output, &l->ffn_norm, &l->router};
        for (size_t k = 0; k < sizeof all / sizeof all[0]; k++)
            touch_weight(all[k]);
        for (uint32_t x = 0; x == 0 || x < c->n_experts; x++) {
            touch_weight(&l->experts[x].gate);
            touch_weight(&l->experts[x].up);
            touch_weight(&l->experts[x].down);
        }
    }
    if (c->rope_factors)
        touch(c->rope_factors, c->n_rot / 2 * sizeof *c->rope_factors);
}

bool touch_everything(const struct sc_gguf *g, struct sc_error *e)
{
    struct config c;
    struct weights w;
    if (!touch_values(g, e))
        return false;
    for (size_t i = 0; i < sc_gguf_n_tensors(g); i++) {
        const struct sc_gguf_tensor *t = sc_gguf_tensor(g, i);
        touch(t->name.data, t->name.size_bytes);
        touch(t->data, (size_t)t->size_bytes);
    }

    if (!config_read(&c, g, e) || !weights_init(&w, &c, g, e))
        return false;
    touch_weights(&c, &w);
    weights_finish(&w);

    if (!sc_gguf_find_value(g, "tokenizer.ggml.tokens"))
        return true;
    struct sc_tokenizer *t = sc_tokenizer_create(g, e);
    bool ok = t;
    sc_tokenizer_destroy(t);
    return ok;
}

bool load_everything(const char *path, struct sc_error *e)
{
    struct sc_gguf *g = sc_gguf_open(path, e);
    bool ok = g && touch_everything(g, e);
    sc_gguf_close(g);
    return ok;
}
