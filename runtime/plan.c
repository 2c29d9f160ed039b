/* SPDX-License-Identifier: Apache-2.0 */
#include "plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bound.h"
#include "disk_rate.h"
#include "engine.h"
#include "placement.h"
#include "store.h"

/* Those that have no experts have one, which is on the device. */
static struct token_work work_of(const struct sc_plan *p)
{
    return (struct token_work){.n_layers = p->n_layers,
                               .n_experts = p->n_experts ? p->n_experts : 1,
                               .n_used = p->n_experts ? p->n_experts_used : 1,
                               .dense_bytes = p->dense_token_bytes,
                               .expert_bytes = p->expert_bytes};
}

static struct links links_of(const struct sc_plan *p)
{
    const struct sc_plan_rates *r = &p->rates;
    return (struct links){.device = r->vram_read,
                          .host = r->ram_read,
                          .device_beside = r->vram_read * p->vram_beside,
                          .host_beside = r->ram_read * p->ram_beside,
                          .upload = r->transfer};
}

double sc_plan_bound(const struct sc_plan *plan, double hit_rate)
{
    const struct token_work w = work_of(plan);
    const struct links l = links_of(plan);
    if (hit_rate >= 1)
        return bound_resident(&w, &l);
    return fmin(fmin(bound_both(&w, &l, hit_rate), bound_host(&w, &l)), bound_uploading(&w, &l, hit_rate));
}

static void describe_model(struct sc_plan *p, const struct sc_engine *engine)
{
    const struct config *c = &engine->config;
    struct sc_error ignored = {0};
    struct sc_gguf *complete = sc_gguf_open(sc_gguf_path(engine->gguf), &ignored);
    p->has_weights = complete != NULL;
    sc_gguf_close(complete);
    memcpy(p->model_name, c->name, sizeof(p->model_name));
    p->model_bytes = sc_gguf_size_bytes(engine->gguf);
    p->n_parameters = sc_engine_n_parameters(engine, false);
    p->n_active_parameters = sc_engine_n_parameters(engine, true);
    p->n_layers = c->n_layers;
    p->n_experts = c->n_experts;
    p->n_experts_used = c->n_experts_used;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const struct expert_weights *x = &engine->weights.layers[l].experts[0];
        p->expert_bytes += (double)(x->gate.size_bytes + x->up.size_bytes + x->down.size_bytes) / c->n_layers;
    }
    p->dense_token_bytes = (double)sc_engine_token_bytes(engine) -
                           (double)(c->n_experts ? c->n_experts_used : 1) * c->n_layers * p->expert_bytes;
}

static const enum expert_path paths[] = {
    [SC_WAY_DEVICE] = PATH_DEVICE, [SC_WAY_BOTH] = PATH_BOTH, [SC_WAY_CPU] = PATH_HOST};

/* Bytes of the experts that the device does not compute with from its own memory. */
static double ram_needed(const struct sc_plan *p, enum sc_way way)
{
    const uint32_t all = p->placement.n_experts_total;
    return (all - (way == SC_WAY_CPU ? 0 : p->placement.n_slots)) * p->expert_bytes;
}

static void describe_machine(struct sc_plan *p, const struct sc_engine *engine)
{
    const struct rates *r = &engine->rates;
    p->device = engine->gpu->info;
    p->placement = engine->placement;
    p->n_ctx = engine->params.n_ctx;
    p->n_batch = engine->params.n_batch;
    p->n_threads = cpu_pool_threads(engine->pool);
    p->rates = (struct sc_plan_rates){.vram_read = r->device_read,
                                      .vram_experts = r->device_expert,
                                      .ram_read = r->host_read,
                                      .ram_experts = r->host_expert,
                                      .upload = r->upload,
                                      .transfer = r->transfer,
                                      .disk_read = engine->disk,
                                      .device_flops = r->device_batch,
                                      .host_flops = r->host_batch,
                                      .round_trip = r->round_trip};
    p->vram_beside = fmin(1, r->device_beside_host / r->device_expert);
    p->ram_beside = fmin(1, r->host_beside_device / r->host_expert);

    for (int way = 0; way < SC_N_WAYS; way++)
        if (paths[way] == engine->path)
            p->way = (enum sc_way)way;
    p->hit_rate = p->n_experts ? (double)p->placement.n_slots / p->placement.n_experts_total : 1;
    p->ram_needed_bytes = (uint64_t)ram_needed(p, p->way);
    p->ram_available_bytes = engine_ram_for_experts(engine);
}

static double used_bytes(const struct sc_plan *p)
{
    return (double)p->n_layers * (p->n_experts ? p->n_experts_used : 1) * p->expert_bytes;
}

/* Of what a token reads of experts outside the device on this way, that for which RAM has no room. */
static double disk_bytes(const struct sc_plan *p, enum sc_way way)
{
    const double needed = ram_needed(p, way), has = (double)p->ram_available_bytes;
    const double outside = way == SC_WAY_CPU ? 1 : 1 - p->hit_rate;
    return needed > has ? outside * used_bytes(p) * (1 - has / needed) : 0;
}

static void split_tiers(struct sc_plan *p)
{
    const double on_device = p->way == SC_WAY_CPU ? 0 : p->hit_rate;
    p->vram_token_bytes = p->dense_token_bytes + on_device * used_bytes(p);
    p->ram_token_bytes = (1 - on_device) * used_bytes(p);
    p->disk_token_bytes = disk_bytes(p, p->way);
}

/* The part of a token's time, or a micro-batch's, that takes the longest. */
static enum sc_link longest(double vram, double ram, double transfer, double disk, double round_trip)
{
    const double seconds[] = {vram, ram, transfer, disk, round_trip};
    enum sc_link link = SC_LINK_VRAM;
    for (int i = SC_LINK_RAM; i <= SC_LINK_ROUND_TRIP; i++)
        if (seconds[i] > seconds[link])
            link = (enum sc_link)i;
    return link;
}

static void predict_token(struct sc_plan *p, const struct expert_cost *cost)
{
    const struct sc_plan_rates *r = &p->rates;
    const struct token_work w = work_of(p);
    const struct links l = links_of(p);
    const double dense = p->dense_token_bytes / r->vram_experts;
    const bool is_resident = p->hit_rate >= 1;

    p->bound_seconds[SC_WAY_DEVICE] = bound_uploading(&w, &l, p->hit_rate);
    p->bound_seconds[SC_WAY_BOTH] = bound_both(&w, &l, p->hit_rate);
    p->bound_seconds[SC_WAY_CPU] = bound_host(&w, &l);
    for (int way = 0; way < SC_N_WAYS; way++) {
        p->seconds[way] = dense + p->n_layers * expert_cost_layer(cost, paths[way], 1);
        p->bound_seconds[way] += disk_bytes(p, (enum sc_way)way) / r->disk_read;
    }
    split_tiers(p);

    const double experts = p->vram_token_bytes + p->ram_token_bytes - p->dense_token_bytes;
    const double trips = is_resident && p->way == SC_WAY_DEVICE ? 0 : p->n_layers * r->round_trip;
    const double on_host = p->way == SC_WAY_DEVICE ? 0 : p->ram_token_bytes;
    p->link = longest(dense + (experts - on_host) / r->vram_experts, on_host / r->ram_experts,
                      p->way == SC_WAY_DEVICE ? p->ram_token_bytes / r->upload : 0, p->disk_token_bytes / r->disk_read,
                      trips);
    p->resident_seconds =
        dense + p->n_layers * (p->n_experts ? p->n_experts_used : 1) * p->expert_bytes / r->vram_experts;
}

static void predict_prompt(struct sc_plan *p, const struct sc_engine *engine, const struct expert_cost *cost)
{
    const bool on_device = p->n_batch > engine->n_host_tokens;
    const double dense_flop =
        2.0 * p->n_batch * ((double)p->n_active_parameters - cost->n_used * p->n_layers * cost->flops / 2);
    const double dense = dense_flop / p->rates.device_flops;
    const double missing = p->n_layers * (1 - p->hit_rate) * cost->n_experts * p->expert_bytes;
    const double disk =
        p->n_layers * cost->n_experts * fmax(0, 1 - cost->resident - cost->in_ram) * cost->bytes / cost->disk;
    const double experts = p->n_layers * expert_cost_layer(cost, on_device ? PATH_DEVICE : engine->path, p->n_batch);
    p->prompt_seconds = dense + experts;
    p->prompt_link =
        on_device ? longest(dense + p->n_layers * p->n_batch * cost->n_used * cost->flops / p->rates.device_flops, 0,
                            missing / p->rates.upload, disk, 0)
                  : longest(dense, experts - disk, 0, disk, 0);
}

/* The budget that holds everything. */
static bool measure_resident(struct sc_plan *p, const struct sc_engine *engine, struct sc_error *e)
{
    struct sc_engine_params params = engine->params;
    struct sc_placement all;
    params.n_batch = engine->wished_batch;
    if (!placement_make(&all, &params, &engine->weights, &engine->config, UINT64_MAX / 4, &engine->gpu->info, e))
        return false;
    p->resident_budget_bytes = placement_used_bytes(&all);
    return true;
}

/* As the engine does where the model is complete. */
static bool check_ram(const struct sc_engine *engine, struct sc_error *e)
{
    struct sc_placement unused = {0};
    struct store_params store = {.gguf = engine->gguf, .weights = &engine->weights, .config = &engine->config};
    return engine->params.synthetic || store_place(&unused, &store, &engine->params, UINT64_MAX, e);
}

static bool make(struct sc_plan *p, struct sc_engine *engine, struct sc_error *e)
{
    const struct sc_engine_params *params = &engine->params;
    if (!engine_open_model(engine, true, e) || !check_ram(engine, e) ||
        !(engine->gpu = gpu_create(params->device, params->cache_dir, e)) || !engine_choose_kernels(engine, e) ||
        !(engine->pool = cpu_pool_create(params->n_threads, e)))
        return false;
    const uint64_t budget = engine_budget(engine);
    struct sc_engine_params scratch = *params;
    struct sc_placement unused; /* told before all that takes time */
    if (!placement_make(&unused, &scratch, &engine->weights, &engine->config, budget, &engine->gpu->info, e))
        return false;
    engine->gpu->budget_bytes = budget;
    engine->has_rates = rates_get(&engine->rates, engine->gpu, &engine->weights, &engine->config, engine->pool,
                                  params->cache_dir, params->measure_anew, e);
    engine->disk = disk_rate(engine->gguf, &p->disk_is_measured);
    if (!engine->has_rates || !engine_decide(engine, budget, e))
        return false;
    describe_model(p, engine);
    describe_machine(p, engine);
    const struct expert_cost cost = engine_cost(engine);
    predict_token(p, &cost);
    predict_prompt(p, engine, &cost);
    return measure_resident(p, engine, e);
}

bool sc_plan_make(struct sc_plan *plan, const struct sc_engine_params *params, struct sc_error *e)
{
    memset(plan, 0, sizeof(*plan));
    struct sc_engine *engine = engine_new(params, e);
    const bool ok = engine && make(plan, engine, e);
    sc_engine_destroy(engine);
    return ok;
}
