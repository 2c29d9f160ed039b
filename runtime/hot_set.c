/* SPDX-License-Identifier: Apache-2.0 */
#include "hot_set.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Then counts (n_layers, n_experts), and used_at as in the policy. */
struct header {
    uint64_t model;
    uint32_t n_layers, n_experts;
    uint32_t n_steps, zero;
};

static const char MAGIC[] = "SCHOTS01";
static const float MAX_HEAT = 1e9f;
/* The next text is about something else: what was learned is where to begin, and must not outweigh it for long. */
static const float RESTORED = 0.1f;

static uint64_t hash_string(uint64_t hash, struct sc_gguf_string s)
{
    return cache_hash(cache_hash(hash, &s.size_bytes, sizeof(s.size_bytes)), s.data, s.size_bytes);
}

static uint64_t hash_model(const struct sc_gguf *g)
{
    const uint64_t size_bytes = sc_gguf_size_bytes(g);
    uint64_t hash = cache_hash(CACHE_HASH_START, &size_bytes, sizeof(size_bytes));
    for (size_t i = 0; i < sc_gguf_n_values(g); i++) {
        const struct sc_gguf_value *v = sc_gguf_value(g, i);
        hash = hash_string(hash, v->key);
        hash = cache_hash(hash, v->data, v->size_bytes);
    }
    for (size_t i = 0; i < sc_gguf_n_tensors(g); i++) {
        const struct sc_gguf_tensor *t = sc_gguf_tensor(g, i);
        hash = hash_string(hash, t->name);
        hash = cache_hash(hash, &t->type, sizeof(t->type));
        hash = cache_hash(hash, t->shape, t->n_dims * sizeof(t->shape[0]));
    }
    /* two trainings of one architecture may differ in nothing else */
    const struct sc_gguf_tensor *router = sc_gguf_find_tensor(g, "blk.0.ffn_gate_inp.weight");
    return router && router->data ? cache_hash(hash, router->data, (size_t)router->size_bytes) : hash;
}

void hot_set_init(struct hot_set *h, const char *cache_dir, const struct sc_gguf *g)
{
    char name[40];
    memset(h, 0, sizeof(*h));
    if (sc_gguf_is_header(g))
        return;
    h->model = hash_model(g);
    snprintf(name, sizeof(name), "experts-%016llx.bin", (unsigned long long)h->model);
    cache_file_path(h->path, cache_dir, name);
}

static size_t n_experts(const struct policy *p)
{
    return (size_t)p->n_layers * p->n_experts;
}

static size_t file_bytes(const struct policy *p)
{
    return sizeof(struct header) + n_experts(p) * (sizeof(*p->heat) + sizeof(*p->used_at));
}

static bool is_sound(const struct header *head, const float *heat, const uint32_t *used_at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(heat[i] >= 0 && heat[i] <= MAX_HEAT) || used_at[i] > head->n_steps)
            return false;
    return head->n_steps < UINT32_MAX;
}

bool hot_set_restore(const struct hot_set *h, struct policy *p)
{
    const size_t n = n_experts(p);
    struct header head;
    size_t size_bytes = 0;
    uint8_t *bytes = cache_file_read(h->path, MAGIC, file_bytes(p), &size_bytes);
    bool ok = bytes && size_bytes == file_bytes(p);
    if (ok) {
        memcpy(&head, bytes, sizeof(head));
        const float *heat = (const float *)(const void *)(bytes + sizeof(head));
        const uint32_t *used_at = (const uint32_t *)(const void *)(heat + n);
        ok = head.model == h->model && head.n_layers == p->n_layers && head.n_experts == p->n_experts &&
             is_sound(&head, heat, used_at, n);
        if (ok) {
            p->n_steps = head.n_steps;
            duel_trust(p);
            memcpy(p->used_at, used_at, n * sizeof(*used_at));
            memcpy(p->learned, heat, n * sizeof(*heat));
            for (size_t i = 0; i < n; i++)
                p->heat[i] = heat[i] * RESTORED;
        }
    }
    free(bytes);
    return ok;
}

bool hot_set_save(const struct hot_set *h, const struct policy *p)
{
    const size_t n = n_experts(p);
    const struct header head = {
        .model = h->model, .n_layers = p->n_layers, .n_experts = p->n_experts, .n_steps = p->n_steps};
    uint8_t *bytes = malloc(file_bytes(p));
    if (!bytes)
        return false;
    memcpy(bytes, &head, sizeof(head));
    float *heat = (float *)(void *)(bytes + sizeof(head));
    /* a run of a few tokens must not undo a long one; sums would grow without end with runs that only prefill */
    for (size_t i = 0; i < n; i++)
        heat[i] = p->learned[i] > p->heat[i] ? p->learned[i] : p->heat[i];
    memcpy(heat + n, p->used_at, n * sizeof(*p->used_at));
    const bool ok = cache_file_write(h->path, MAGIC, bytes, file_bytes(p));
    free(bytes);
    return ok;
}
