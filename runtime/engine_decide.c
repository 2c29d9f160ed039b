/* SPDX-License-Identifier: Apache-2.0 */
/* What an engine decides before anything is on the device: what goes where, and who computes. */
#include <math.h>

#include "clock.h"
#include "disk_rate.h"
#include "engine.h"
#include "layout.h"
#include "placement.h"
#include "ram.h"
#include "session_memory.h"

/* Going over what the driver grants makes it spill silently, 2 to 5 times slower: stay below. */
uint64_t engine_budget(const struct sc_engine *engine)
{
    if (engine->params.vram_bytes)
        return engine->params.vram_bytes;
    const struct gpu *gpu = engine->gpu;
    const uint64_t free_bytes = gpu_free_bytes(gpu), least = 256u << 20;
    const uint64_t reserve = free_bytes / 16 > least ? free_bytes / 16 : least;
    return free_bytes > 2 * reserve ? free_bytes - reserve : free_bytes / 2;
}

bool engine_shares_ram(const struct sc_engine *engine)
{
    return engine->gpu->info.kind == SC_DEVICE_INTEGRATED || engine->gpu->info.kind == SC_DEVICE_CPU;
}

uint64_t engine_free_ram(const struct sc_engine *engine)
{
    const uint64_t free_bytes = ram_available();
    const uint64_t taken = engine_shares_ram(engine) ? placement_used_bytes(&engine->placement) : 0;
    return taken < free_bytes ? free_bytes - taken : 0;
}

uint64_t engine_ram_for_experts(const struct sc_engine *engine)
{
    const uint64_t wish = engine->params.ram_bytes;
    if (engine->params.synthetic)
        return UINT64_MAX;                                /* they are there */
    return wish ? wish : engine_free_ram(engine) / 8 * 7; /* as store_place leaves an eighth */
}

/*
 * There are experts that the device cannot hold, or the CPU is to have a part in it all the same. Where a driver only
 * lends the same processor, our own kernels may be the faster ones.
 */
static bool is_staged(const struct sc_engine *engine)
{
    const struct sc_placement *p = &engine->placement;
    const enum sc_cpu_experts wish = engine->params.cpu_experts;
    const bool asked = wish == SC_CPU_ON || wish == SC_CPU_ALL;
    const bool may_gain = wish == SC_CPU_AUTO && engine->gpu->info.kind == SC_DEVICE_CPU;
    return p->n_slots < p->n_experts_total || (p->n_experts_total && (asked || may_gain));
}

/* Threads, and what they and the device can do: once, while nothing else is on the device. */
static bool open_host(struct sc_engine *engine, struct sc_error *e)
{
    if (!is_staged(engine) || engine->pool)
        return true;
    engine->pool = cpu_pool_create(engine->params.n_threads, e);
    if (!engine->pool)
        return false;
    struct sc_error failure = {0};
    const double start = clock_seconds();
    engine->has_rates = rates_get(&engine->rates, engine->gpu, &engine->weights, &engine->config, engine->pool,
                                  engine->params.cache_dir, engine->params.measure_anew, &failure);
    if (engine->has_rates)
        engine_log(engine, SC_LOG_INFO, "what the device and the processor can do took %.2f s to find out",
                   clock_seconds() - start);
    else
        engine_log(engine, SC_LOG_INFO, "which way is the fastest could not be measured: %s", failure.text);
    return engine->has_rates || failure.code != SC_DEVICE_LOST || sc_fail(e, failure.code, "%s", failure.text);
}

double engine_plain_share(const struct sc_engine *engine)
{
    double plain = 0, all = 0;
    for (uint32_t l = 0; l < engine->config.n_layers; l++) {
        const struct expert_weights *x = &engine->weights.layers[l].experts[0];
        const struct weight *matrices[] = {&x->gate, &x->up, &x->down};
        for (uint32_t m = 0; m < 3; m++) {
            all += (double)matrices[m]->size_bytes;
            plain += layout_of(matrices[m]->type).scale_bytes ? 0 : (double)matrices[m]->size_bytes;
        }
    }
    return all > 0 ? plain / all : 0;
}

struct expert_cost engine_cost(const struct sc_engine *engine)
{
    const struct sc_placement *p = &engine->placement;
    const double n = p->n_experts_total;
    struct expert_cost cost =
        expert_cost_of(&engine->rates, &engine->weights, &engine->config, n > 0 ? p->n_slots / n : 1);
    const double in_place = engine->reads_in_place ? engine_plain_share(engine) : 0;
    if (engine->has_rates)
        cost.upload = 1 / (in_place / engine->rates.transfer + (1 - in_place) / engine->rates.upload);
    cost.in_ram = engine->in_ram;
    cost.disk = engine->disk;
    return cost;
}

/* Where prompts wait for uploads, larger micro-batches wait less often. */
static void fit_batch(struct sc_engine *engine)
{
    if (engine->wished_batch || !engine->has_rates || !is_staged(engine))
        return;
    const struct expert_cost cost = engine_cost(engine);
    placement_enlarge_batch(&engine->placement, &engine->params, &engine->weights, &engine->config, &engine->gpu->info,
                            expert_cost_batch(&cost));
}

void engine_choose_path(struct sc_engine *engine)
{
    const enum sc_cpu_experts wish = engine->params.cpu_experts;
    const uint32_t most = session_host_tokens(engine->params.n_batch);
    engine->path = PATH_DEVICE;
    engine->n_host_tokens = 0;
    if (!is_staged(engine) || wish == SC_CPU_OFF)
        return;
    const struct expert_cost cost = engine_cost(engine);
    engine->path = wish == SC_CPU_ALL ? PATH_HOST : engine->has_rates ? expert_cost_path(&cost) : PATH_BOTH;
    const bool by_rates = engine->has_rates && wish != SC_CPU_ALL;
    if (engine->path != PATH_DEVICE)
        engine->n_host_tokens = by_rates ? expert_cost_host_tokens(&cost, engine->path, most) : most;
}

/* Where the CPU is faster, as it is where a driver only lends the same processor, no pass is larger than its largest.
 */
static bool stay_with_host(struct sc_engine *engine, uint64_t budget_bytes, struct sc_error *e)
{
    struct sc_engine_params *p = &engine->params;
    if (engine->wished_batch || !engine->has_rates || engine->path == PATH_DEVICE)
        return true;
    const struct expert_cost cost = engine_cost(engine);
    const uint32_t n_batch = expert_cost_prompt_batch(&cost, engine->path, engine->n_host_tokens, p->n_batch);
    if (n_batch == p->n_batch)
        return true;
    p->n_batch = n_batch;
    return placement_make(&engine->placement, p, &engine->weights, &engine->config, budget_bytes, &engine->gpu->info,
                          e);
}

/*
 * The micro-batch hangs on how fast uploads are, and decides what is left for experts, so it must be known before
 * anything is placed whether the device will read them in the mapped files. Not every driver that can import memory
 * takes mapped files: this one is asked with a page of them. If it refuses the rest all the same, engine_place chooses
 * the path again; the micro-batch is larger than it would have been then.
 */
static bool may_read_in_place(const struct sc_engine *engine)
{
    const struct sc_engine_params *p = &engine->params;
    const bool is_mapped = p->synthetic || (!p->ram_bytes && !p->no_mmap && engine->in_ram >= 1);
    const uint64_t align = engine->gpu->import_alignment;
    uint64_t size_bytes;
    const uint8_t *data = sc_gguf_file_data(engine->gguf, 0, &size_bytes);
    if (!is_mapped || !align || !data || engine_plain_share(engine) == 0 ||
        engine->placement.n_slots == engine->placement.n_experts_total)
        return false;
    struct buffer page;
    struct sc_error ignored = {0};
    const bool ok = buffer_import(engine->gpu, &page, data - (uintptr_t)data % align, align, &ignored);
    buffer_finish(engine->gpu, &page);
    return ok;
}

/* In RAM, while nothing of the model is there yet. */
static void find_room(struct sc_engine *engine)
{
    const double bytes = engine_cost(engine).bytes * engine->placement.n_experts_total;
    engine->in_ram = bytes > 0 ? fmin(1, (double)engine_ram_for_experts(engine) / bytes) : 1;
    if (engine->in_ram < 1 && is_staged(engine) && engine->disk == 0)
        engine->disk = disk_rate(engine->gguf, NULL);
}

bool engine_decide(struct sc_engine *engine, uint64_t budget_bytes, struct sc_error *e)
{
    struct sc_engine_params *p = &engine->params;
    p->n_batch = engine->wished_batch;
    if (!placement_make(&engine->placement, p, &engine->weights, &engine->config, budget_bytes, &engine->gpu->info, e))
        return false;
    engine->gpu->budget_bytes = budget_bytes;
    if (!open_host(engine, e))
        return false;
    find_room(engine);
    engine->reads_in_place = may_read_in_place(engine);
    fit_batch(engine);
    engine_choose_path(engine);
    return stay_with_host(engine, budget_bytes, e);
}
