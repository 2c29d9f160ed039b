/* SPDX-License-Identifier: Apache-2.0 */
#include "placement.h"

#include "model.h"
#include "session_memory.h"

enum {
    MIN_BATCH = 16,
    MAX_BATCH = 512,
    MAX_BATCH_INTEGRATED = 128, /* a layer is one submission, and a driver's watchdog kills one that runs for seconds */
    MOST_BATCH = 8192,          /* what may be asked for: kernels count rows times columns in 32 bits */
};
static const uint64_t MIN_RING_BYTES = 1u << 20, MAX_RING_BYTES = 64u << 20;

uint64_t placement_used_bytes(const struct sc_placement *p)
{
    return p->dense_bytes + p->expert_bytes + p->kv_bytes + p->activation_bytes + p->staging_bytes;
}

/* Everything but the expert slots beyond the fewest and the ring beyond the smallest, with a micro-batch of n_batch. */
static bool measure(struct sc_placement *p, const struct sc_engine_params *params, uint32_t n_batch,
                    const struct weights *w, const struct config *c, struct sc_error *e)
{
    struct session_footprint session;
    if (!model_dense_footprint(w, c, &p->dense_bytes, e) ||
        !session_measure(&session, c, params->n_ctx, n_batch, params->kv_type, e))
        return false;
    p->kv_bytes = session.kv_bytes;
    p->activation_bytes = session.activation_bytes;
    p->staging_bytes = session.host_bytes + buffer_footprint(MIN_RING_BYTES);
    p->n_experts_total = c->n_layers * c->n_experts;
    p->n_slots = c->n_experts_used;
    p->slot_bytes = c->n_experts ? experts_slot_bytes(w, c) : 0;
    p->expert_bytes = 0;
    if (c->n_experts && !experts_footprint(p->slot_bytes, p->n_slots, p->n_experts_total, &p->expert_bytes, e))
        return false;
    p->minimum_bytes = placement_used_bytes(p);
    return true;
}

/* As many slots as fit into what is left of the budget. */
static bool fill_slots(struct sc_placement *p, struct sc_error *e)
{
    if (!p->n_experts_total)
        return true;
    const uint64_t available = p->budget_bytes - (placement_used_bytes(p) - p->expert_bytes);
    uint64_t n = available / p->slot_bytes, bytes;
    if (n > p->n_experts_total)
        n = p->n_experts_total;
    for (;; n--) {
        if (!experts_footprint(p->slot_bytes, (uint32_t)n, p->n_experts_total, &bytes, e))
            return false;
        if (bytes <= available)
            break;
    }
    p->n_slots = (uint32_t)n;
    p->expert_bytes = bytes;
    return true;
}

static bool fill(struct sc_placement *p, struct sc_error *e)
{
    uint64_t ring = (p->budget_bytes - placement_used_bytes(p)) / 8;
    ring = ring < MIN_RING_BYTES ? MIN_RING_BYTES : ring > MAX_RING_BYTES ? MAX_RING_BYTES : ring;
    const uint64_t grown = p->staging_bytes - buffer_footprint(MIN_RING_BYTES) + buffer_footprint(ring);
    if (placement_used_bytes(p) - p->staging_bytes + grown <= p->budget_bytes)
        p->staging_bytes = grown;
    else
        ring = MIN_RING_BYTES;
    p->ring_bytes = ring;
    return fill_slots(p, e);
}

/* The activations leave the budget to the weights. */
static bool leaves_room(const struct sc_placement *p)
{
    return p->activation_bytes <= p->budget_bytes / 8;
}

bool placement_make(struct sc_placement *placement, struct sc_engine_params *params, const struct weights *w,
                    const struct config *c, uint64_t budget_bytes, const struct sc_device_info *device,
                    struct sc_error *e)
{
    /* without a wish, the largest micro-batch whose activations leave the budget to the weights */
    const uint32_t usual = device->kind == SC_DEVICE_INTEGRATED ? MAX_BATCH_INTEGRATED : MAX_BATCH;
    uint32_t n_batch = params->n_batch ? params->n_batch : usual;
    if (n_batch > MOST_BATCH)
        return sc_fail(e, SC_INVALID_ARGUMENT, "a micro-batch of %u tokens is more than %d", n_batch, MOST_BATCH);
    if (!params->n_batch && params->max_batch && n_batch > params->max_batch)
        n_batch = params->max_batch;
    if (n_batch > params->n_ctx)
        n_batch = params->n_ctx;
    struct sc_placement p = {.budget_bytes = budget_bytes};
    for (;; n_batch /= 2) {
        if (!measure(&p, params, n_batch, w, c, e))
            return false;
        const bool fits = p.minimum_bytes <= budget_bytes;
        if (fits && !fill(&p, e))
            return false;
        const bool resident = fits && p.n_slots == p.n_experts_total;
        if (params->n_batch || n_batch / 2 < MIN_BATCH || (fits && (resident || leaves_room(&p))))
            break;
    }
    *placement = p;
    if (p.minimum_bytes > budget_bytes)
        return sc_fail(e, SC_OUT_OF_DEVICE_MEMORY,
                       "the model needs at least %llu MiB on %s (dense weights %.1f MB, KV cache of %u tokens %.1f MB, "
                       "activations %.1f MB, buffers %.1f MB, %u expert slots %.1f MB), and the budget is %.1f MB",
                       (unsigned long long)((p.minimum_bytes + (1 << 20) - 1) >> 20), device->name,
                       (double)p.dense_bytes / 1e6, params->n_ctx, (double)p.kv_bytes / 1e6,
                       (double)p.activation_bytes / 1e6, (double)p.staging_bytes / 1e6, p.n_slots,
                       (double)p.expert_bytes / 1e6, (double)budget_bytes / 1e6);
    params->n_batch = n_batch;
    return true;
}

void placement_enlarge_batch(struct sc_placement *placement, struct sc_engine_params *params, const struct weights *w,
                             const struct config *c, const struct sc_device_info *device, double wanted)
{
    const uint32_t wished = params->max_batch ? params->max_batch : MOST_BATCH;
    const uint32_t most = wished < params->n_ctx ? wished : params->n_ctx;
    while (2 * params->n_batch <= wanted && 2 * params->n_batch <= most && 2 * params->n_batch <= MOST_BATCH) {
        struct sc_engine_params larger_params = *params;
        struct sc_placement larger;
        struct sc_error ignored = {0};
        larger_params.n_batch *= 2;
        if (!placement_make(&larger, &larger_params, w, c, placement->budget_bytes, device, &ignored) ||
            !leaves_room(&larger))
            return;
        *params = larger_params;
        *placement = larger;
    }
}
