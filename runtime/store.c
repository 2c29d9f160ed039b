/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"

#include <stdlib.h>

#include "clock.h"
#include "ram_pool.h"

/* Left to others, beside an eighth: drivers compile kernels after this has been decided. */
static const uint64_t RESERVE_BYTES = 64u << 20;
/* Slots beyond those that a token pins at once: so many experts can be read ahead. */
enum { MIN_AHEAD = 2 };

static const struct policy nobody; /* has a slot */

struct store {
    struct store_params params;
    struct ram_pool *pool; /* NULL: mapped */
    bool *was_wanted;      /* (n_layers * n_experts) mapped: since it was dropped */
    bool is_locked;
    double wait_seconds;
};

static bool check_wish(uint64_t ram_bytes, uint64_t fewest, uint64_t slot_bytes, struct sc_error *e)
{
    const uint64_t minimum = fewest * slot_bytes, mib = 1u << 20;
    return ram_bytes >= minimum ||
           sc_fail(e, SC_INVALID_ARGUMENT,
                   "the experts of this model need at least %llu MiB of RAM (%u of %.1f MB), and --ram is %.1f MB",
                   (unsigned long long)((minimum + mib - 1) / mib), (unsigned)fewest, (double)slot_bytes / 1e6,
                   (double)ram_bytes / 1e6);
}

static uint64_t clamp(uint64_t n, uint64_t least, uint64_t most)
{
    return n < least ? least : n > most ? most : n;
}

bool store_place(struct sc_placement *placement, struct store_params *params, const struct sc_engine_params *engine,
                 uint64_t available_bytes, struct sc_error *e)
{
    const struct config *c = params->config;
    const uint64_t n_total = (uint64_t)c->n_layers * c->n_experts;
    const uint64_t outside = params->host_computes_all ? n_total : n_total - placement->n_slots;
    placement->n_ram_slots = params->n_ram_slots = 0;
    placement->ram_bytes = 0;
    params->is_short = params->fills = false;
    const uint64_t slot_bytes = n_total ? ram_pool_slot_bytes(params->weights, c) : 0;
    const uint64_t reserve = available_bytes / 8 + RESERVE_BYTES;
    const uint64_t fewest = clamp(c->n_experts_used + MIN_AHEAD, 0, n_total);
    if (engine->ram_bytes && !check_wish(engine->ram_bytes, fewest, slot_bytes, e))
        return false;
    if (!n_total || sc_gguf_is_header(params->gguf)) /* made-up weights are in RAM or nowhere */
        return true;
    const uint64_t room = available_bytes > reserve ? (available_bytes - reserve) / slot_bytes : 0;
    params->is_short = engine->ram_bytes || n_total > room;
    if (!engine->ram_bytes && !engine->no_mmap && outside <= room)
        return true;

    /* if all go to the device, they only pass through; if there is no room, it is tried anyway */
    const uint64_t most = engine->ram_bytes ? engine->ram_bytes / slot_bytes : room;
    params->n_ram_slots = (uint32_t)clamp(outside ? most : fewest, fewest, n_total);
    params->fills = engine->no_mmap && outside;
    placement->n_ram_slots = params->n_ram_slots;
    placement->ram_bytes = params->n_ram_slots * slot_bytes;
    return true;
}

static bool lock_files(const struct sc_gguf *g)
{
    bool ok = true;
    for (size_t i = 0; ok && i < sc_gguf_n_files(g); i++)
        ok = sc_gguf_lock(g, i);
    return ok;
}

struct store *store_create(const struct store_params *params, struct sc_error *e)
{
    const struct config *c = params->config;
    struct store *s = calloc(1, sizeof(*s));
    if (s)
        s->was_wanted = calloc((size_t)c->n_layers * c->n_experts + 1, sizeof(*s->was_wanted));
    if (!s || !s->was_wanted) {
        store_destroy(s);
        sc_fail_memory(e, "the store of experts");
        return NULL;
    }
    s->params = *params;
    if (params->host_computes_all)
        s->params.device = &nobody;
    if (!params->n_ram_slots) {
        s->is_locked = params->lock && lock_files(params->gguf);
        return s;
    }
    const struct ram_pool_params pool = {.gguf = params->gguf,
                                         .weights = params->weights,
                                         .config = c,
                                         .device = s->params.device,
                                         .n_slots = params->n_ram_slots,
                                         .lock = params->lock,
                                         .cached = !params->is_short};
    s->pool = ram_pool_create(&pool, e);
    if (!s->pool) {
        store_destroy(s);
        return NULL;
    }
    s->is_locked = ram_pool_is_locked(s->pool);
    return s;
}

void store_destroy(struct store *s)
{
    if (!s)
        return;
    ram_pool_destroy(s->pool);
    free(s->was_wanted);
    free(s);
}

bool store_is_locked(const struct store *s)
{
    return s->is_locked;
}

bool store_is_steady(const struct store *s)
{
    return !s->pool && !s->params.is_short;
}

static void list_matrices(const struct store *s, uint32_t index, const struct weight *out[3])
{
    const uint32_t n_experts = s->params.config->n_experts;
    const struct expert_weights *x = &s->params.weights->layers[index / n_experts].experts[index % n_experts];
    out[0] = &x->gate;
    out[1] = &x->up;
    out[2] = &x->down;
}

static bool fill(struct store *s, const struct sc_engine_params *params, struct sc_error *e)
{
    enum { WINDOW = 16 }; /* experts that are being read */
    const uint32_t n_total = s->params.config->n_layers * s->params.config->n_experts;
    const uint32_t n_slots = s->params.n_ram_slots;
    uint32_t window[WINDOW], n_begun = 0, next = 0;
    for (uint32_t n_read = 0; n_read < n_slots; n_read++) {
        for (; n_begun < n_read + WINDOW && n_begun < n_slots && next < n_total; next++)
            if (!ram_pool_is_dropped(s->pool, next) && ram_pool_prefetch(s->pool, next))
                window[n_begun++ % WINDOW] = next;
        if (n_read == n_begun)
            break;
        struct expert_weights unused;
        const uint32_t index = window[n_read % WINDOW];
        if (!ram_pool_pin(s->pool, index, &unused, e))
            return false;
        ram_pool_unpin(s->pool, index);
        if (params->progress && !params->progress(params->user, SC_PHASE_LOAD, n_read + 1, n_slots))
            return sc_fail(e, SC_CANCELLED, "loading was cancelled");
    }
    return true;
}

bool store_load(struct store *s, const struct sc_engine_params *params, struct sc_error *e)
{
    for (size_t i = 0; s->params.is_short && i < sc_gguf_n_files(s->params.gguf); i++)
        sc_gguf_forget(s->params.gguf, i, 0, UINT64_MAX); /* what the device got passed through the system's cache */
    return !s->params.fills || fill(s, params, e);
}

void store_begin(struct store *s)
{
    if (s->pool)
        ram_pool_begin(s->pool);
}

/* Once is enough: then it is in RAM, or on its way there. */
static void prefetch_mapped(struct store *s, uint32_t index)
{
    const uint32_t *slot_of = s->params.device->slot_of;
    const struct weight *matrices[3];
    if (s->was_wanted[index] || (slot_of && slot_of[index] != POLICY_NONE))
        return;
    s->was_wanted[index] = true;
    list_matrices(s, index, matrices);
    for (uint32_t m = 0; m < 3; m++)
        sc_gguf_prefetch(s->params.gguf, matrices[m]->file, matrices[m]->offset, matrices[m]->size_bytes);
}

void store_want(struct store *s, const uint32_t *indices, uint32_t n)
{
    const struct config *c = s->params.config;
    for (uint32_t i = 0; i < n; i++)
        if (!s->pool)
            prefetch_mapped(s, indices[i]);
        else if (!ram_pool_is_dropped(s->pool, indices[i]))
            ram_pool_want(s->pool, indices[i]);
    const uint32_t layer = n ? indices[0] / c->n_experts + 1 : c->n_layers;
    if (!s->pool || layer == c->n_layers || 2 * n <= c->n_experts)
        return;
    for (uint32_t x = 0; x < c->n_experts; x++)
        if (!ram_pool_is_dropped(s->pool, layer * c->n_experts + x) &&
            !ram_pool_prefetch(s->pool, layer * c->n_experts + x))
            break;
}

bool store_pin(struct store *s, uint32_t index, struct expert_weights *out, struct sc_error *e)
{
    if (!s->pool) {
        const uint32_t n_experts = s->params.config->n_experts;
        *out = s->params.weights->layers[index / n_experts].experts[index % n_experts];
        return true;
    }
    const double start = clock_seconds();
    const bool ok = ram_pool_pin(s->pool, index, out, e);
    s->wait_seconds += clock_seconds() - start;
    return ok;
}

uint32_t store_n_pins(const struct store *s)
{
    return s->pool ? s->params.n_ram_slots : UINT32_MAX;
}

void store_unpin(struct store *s, uint32_t index)
{
    if (s->pool)
        ram_pool_unpin(s->pool, index);
}

void store_drop(struct store *s, uint32_t index)
{
    const struct weight *matrices[3];
    if (s->pool)
        ram_pool_drop(s->pool, index);
    if (s->pool || !s->params.is_short || s->params.host_computes_all)
        return;
    s->was_wanted[index] = false;
    list_matrices(s, index, matrices);
    for (uint32_t m = 0; m < 3; m++)
        sc_gguf_forget(s->params.gguf, matrices[m]->file, matrices[m]->offset, matrices[m]->size_bytes);
}

bool store_check(const struct store *s, struct sc_error *e)
{
    return sc_gguf_check(s->params.gguf, e);
}

uint64_t store_read_bytes(const struct store *s)
{
    return s && s->pool ? ram_pool_read_bytes(s->pool) : 0;
}

double store_wait_seconds(const struct store *s)
{
    return s ? s->wait_seconds : 0;
}
