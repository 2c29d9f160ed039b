/* SPDX-License-Identifier: Apache-2.0 */
#include "engine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host_experts.h"
#include "placement.h"
#include "printable.h"
#include "ram.h"
#include "routing_trace.h"

static const uint32_t DEFAULT_CONTEXT = 4096;
static const uint64_t MIN_SYNTHETIC_BYTES = 512 << 20; /* more than caches hold */

void engine_log(const struct sc_engine *engine, enum sc_log_level level, const char *format, ...)
{
    if (!engine->params.log)
        return;
    char text[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    engine->params.log(engine->params.user, level, text);
}

static bool check_context(struct sc_engine *engine, struct sc_error *e)
{
    struct sc_engine_params *p = &engine->params;
    const uint32_t longest = engine->config.n_ctx_train;
    if (p->n_ctx > longest)
        return sc_fail(e, SC_INVALID_ARGUMENT, "a context of %u tokens is more than the %u that %s was made for",
                       p->n_ctx, longest, p->model_path);
    if (!p->n_ctx)
        p->n_ctx = longest < DEFAULT_CONTEXT ? longest : DEFAULT_CONTEXT;
    return true;
}

static bool check_kv_type(const struct sc_engine *engine, struct sc_error *e)
{
    const struct sc_engine_params *p = &engine->params;
    if (p->kv_type != SC_KV_F32 && p->kv_type != SC_KV_F16 && p->kv_type != SC_KV_Q8_0)
        return sc_fail(e, SC_INVALID_ARGUMENT, "there is no type %d of a KV cache", (int)p->kv_type);
    if (p->kv_type == SC_KV_Q8_0 && engine->config.head_dim % 32 != 0)
        return sc_fail(e, SC_UNSUPPORTED,
                       "a KV cache of type q8_0 needs heads of a multiple of 32 values, and those of %s have %u",
                       p->model_path, engine->config.head_dim);
    return true;
}

bool engine_open_model(struct sc_engine *engine, bool header_only, struct sc_error *e)
{
    const char *path = engine->params.model_path;
    engine->gguf = header_only ? sc_gguf_open_header(path, e) : sc_gguf_open(path, e);
    if (!engine->gguf || !config_read(&engine->config, engine->gguf, e) ||
        !weights_init(&engine->weights, &engine->config, engine->gguf, e))
        return false;
    hot_set_init(&engine->hot_set, engine->params.no_hot_set ? "" : engine->params.cache_dir, engine->gguf);
    engine->tokenizer = sc_tokenizer_create(engine->gguf, &engine->tokenizer_error);
    return check_context(engine, e) && check_kv_type(engine, e);
}

static bool show_fabrication(void *user, uint64_t done, uint64_t total)
{
    const struct sc_engine_params *p = user;
    return !p->progress || p->progress(p->user, SC_PHASE_LOAD, done, total);
}

/* Weights for a header: as much distinct memory as RAM has free beside what a device takes that has none of its own. */
static bool fabricate(struct sc_engine *engine, struct sc_error *e)
{
    struct sc_engine_params *p = &engine->params;
    if (!p->synthetic)
        return true;
    const uint64_t size_bytes = sc_gguf_size_bytes(engine->gguf), budget = engine_budget(engine);
    const uint64_t taken = !engine_shares_ram(engine) ? 0 : budget < size_bytes ? budget : size_bytes;
    const uint64_t available = ram_available() / 8 * 7, own = taken < available ? available - taken : 0;
    const uint64_t most = p->ram_bytes ? p->ram_bytes : own > MIN_SYNTHETIC_BYTES ? own : MIN_SYNTHETIC_BYTES;
    if (!sc_gguf_fabricate(engine->gguf, most, p->n_threads ? p->n_threads : cpu_count(), show_fabrication, p,
                           &engine->synthetic_bytes, e))
        return false;
    engine_log(engine, SC_LOG_INFO, "the model's %.1f GB of weights are made up, in %.1f GB of memory%s",
               (double)size_bytes / 1e9, (double)engine->synthetic_bytes / 1e9,
               most < size_bytes ? ": experts share it, and caches may seem better than they are" : "");
    return true;
}

static bool open_host_experts(struct sc_engine *engine, struct sc_error *e)
{
    if (engine->path == PATH_DEVICE)
        return true;
    engine->host_experts = host_experts_create(&engine->model.experts, &engine->config, engine->pool,
                                               session_host_tokens(engine->params.n_batch), e);
    return engine->host_experts != NULL;
}

/* Whether the path names one of the model's own files, which a trace would destroy. */
static bool is_own_file(const struct sc_engine *engine, const char *path)
{
    struct stat named, own;
    for (size_t i = 0; stat(path, &named) == 0 && i < sc_gguf_n_files(engine->gguf); i++)
        if (fstat(sc_gguf_file_descriptor(engine->gguf, i), &own) == 0 && own.st_dev == named.st_dev &&
            own.st_ino == named.st_ino)
            return true;
    return false;
}

/* Before all that takes time: a mistyped path is told at once. No pass is longer than the context, whatever the
   micro-batch will be. */
static bool open_trace(struct sc_engine *engine, struct sc_error *e)
{
    const struct sc_engine_params *p = &engine->params;
    if (!p->routing_trace)
        return true;
    if (!engine->config.n_experts)
        return sc_fail(e, SC_INVALID_ARGUMENT, "%s has no experts whose routing could be traced",
                       sc_printable_path(p->model_path).text);
    if (is_own_file(engine, p->routing_trace))
        return sc_fail(e, SC_INVALID_ARGUMENT, "%s is the model, no place for a trace",
                       sc_printable_path(p->routing_trace).text);
    engine->trace = routing_trace_create(p->routing_trace, &engine->config, p->n_ctx, e);
    return engine->trace != NULL;
}

/* RAM for the experts that the device does not hold. */
static bool open_store(struct sc_engine *engine, struct sc_error *e)
{
    const struct sc_engine_params *p = &engine->params;
    struct sc_placement *placement = &engine->placement;
    const uint64_t available = p->synthetic ? UINT64_MAX : engine_free_ram(engine); /* those are in RAM already */
    struct sc_engine_params wishes = *p;
    if (p->synthetic)
        wishes.ram_bytes = 0, wishes.no_mmap = false;
    struct store_params params = {.gguf = engine->gguf,
                                  .weights = &engine->weights,
                                  .config = &engine->config,
                                  .device = &engine->model.experts.policy,
                                  .host_computes_all = engine->path == PATH_HOST,
                                  .lock = p->mlock};
    if (!store_place(placement, &params, &wishes, available, e))
        return false;
    engine->store = store_create(&params, e);
    if (engine->store && p->mlock && !store_is_locked(engine->store))
        engine_log(
            engine, SC_LOG_WARNING,
            "the system does not let Scoria lock its memory (--mlock): RLIMIT_MEMLOCK is too low, see ulimit -l");
    return engine->store != NULL;
}

/* Experts that keep coming from the mapped files are read there by the device, if its driver can. True: all are that
   lie on the device as they do in the file. */
static bool import_files(struct sc_engine *engine)
{
    struct sc_error why = {0};
    uint64_t size_bytes;
    if (!store_is_steady(engine->store) || engine->placement.n_slots == engine->placement.n_experts_total ||
        engine_plain_share(engine) == 0)
        return false;
    for (size_t i = 0; i < sc_gguf_n_files(engine->gguf); i++) {
        const void *data = sc_gguf_file_data(engine->gguf, i, &size_bytes);
        if (!data || !upload_import(&engine->upload, data, size_bytes, &why)) {
            engine_log(engine, SC_LOG_INFO, "experts go to the device through a ring%s%s", why.text[0] ? ": " : "",
                       why.text);
            return false;
        }
    }
    return true;
}

static void unplace(struct sc_engine *engine)
{
    if (engine->gpu)
        engine->gpu->vk.vkDeviceWaitIdle(engine->gpu->device);
    host_experts_destroy(engine->host_experts);
    engine->host_experts = NULL;
    engine->n_host_tokens = 0;
    engine->path = PATH_DEVICE;
    model_finish(&engine->model);
    upload_finish(&engine->upload);
    store_destroy(engine->store);
    engine->store = NULL;
    engine->is_placed = false;
}

bool engine_place(struct sc_engine *engine, uint64_t budget_bytes, struct sc_error *e)
{
    const struct sc_engine_params *p = &engine->params;
    if (!engine_decide(engine, budget_bytes, e))
        return false;
    engine->is_placed = open_store(engine, e) &&
                        upload_init(&engine->upload, engine->gpu, engine->pool, engine->placement.ring_bytes, e) &&
                        model_init(&engine->model, engine->gpu, &engine->weights, &engine->config,
                                   engine->placement.n_slots, engine->store, &engine->hot_set, &engine->upload, p, e) &&
                        store_load(engine->store, p, e);
    if (engine->is_placed) {
        engine->reads_in_place = import_files(engine);
        engine_choose_path(engine); /* uploads may be slower than they promised to be */
    }
    engine->is_placed = engine->is_placed && open_host_experts(engine, e);
    if (!engine->is_placed)
        unplace(engine);
    return engine->is_placed;
}

/* Three quarters of what did not fit, or the least that the model runs with; 0: that was it already. */
static uint64_t smaller_budget(const struct sc_engine *engine)
{
    const uint64_t used = placement_used_bytes(&engine->placement);
    struct sc_engine_params params = engine->params;
    struct sc_placement smaller = {0};
    struct sc_error ignored = {0};
    params.n_batch = engine->wished_batch;
    if (placement_make(&smaller, &params, &engine->weights, &engine->config, used / 4 * 3, &engine->gpu->info,
                       &ignored))
        return used / 4 * 3;
    return smaller.minimum_bytes < used ? smaller.minimum_bytes : 0;
}

bool engine_step_down(struct sc_engine *engine, const struct sc_error *why, struct sc_error *e)
{
    struct sc_error failure = *why;
    uint64_t budget;
    while (failure.code == SC_OUT_OF_DEVICE_MEMORY && (budget = smaller_budget(engine)) != 0) {
        engine_log(engine, SC_LOG_WARNING, "%s; trying with %.1f MB", failure.text, (double)budget / 1e6);
        failure = (struct sc_error){0};
        unplace(engine);
        if (engine_place(engine, budget, &failure))
            return true;
    }
    return sc_fail(e, failure.code, "%s", failure.text);
}

static bool open_device(struct sc_engine *engine, struct sc_error *e)
{
    const struct sc_engine_params *p = &engine->params;
    engine->gpu = gpu_create(p->device, p->cache_dir, e);
    if (!engine->gpu)
        return false;
    const struct gpu *gpu = engine->gpu;
    if (gpu->info.kind == SC_DEVICE_CPU)
        engine_log(engine, SC_LOG_INFO,
                   "%s is the processor itself, through a Vulkan driver for tests: expect it to be slow",
                   gpu->info.name);
    struct sc_error failure = {0};
    return engine_choose_kernels(engine, e) && fabricate(engine, e) &&
           (engine_place(engine, engine_budget(engine), &failure) || engine_step_down(engine, &failure, e));
}

static void log_placement(const struct sc_engine *engine)
{
    const struct sc_placement *p = &engine->placement;
    engine_log(engine, SC_LOG_INFO,
               "%s: dense weights %.1f MB, KV cache %.1f MB, activations %.1f MB, buffers %.1f MB of %.1f MB",
               engine->gpu->info.name, (double)p->dense_bytes / 1e6, (double)p->kv_bytes / 1e6,
               (double)p->activation_bytes / 1e6, (double)p->staging_bytes / 1e6, (double)p->budget_bytes / 1e6);
    if (p->n_experts_total)
        engine_log(engine, SC_LOG_INFO, "%u of %u experts fit, %.1f MB each: %s", p->n_slots, p->n_experts_total,
                   (double)p->slot_bytes / 1e6,
                   p->n_slots == p->n_experts_total ? "all stay on the device"
                   : engine->model.was_hot          ? "those used most in earlier runs are on the device"
                                                    : "the others are uploaded when they are chosen");
    if (p->n_ram_slots)
        engine_log(engine, SC_LOG_INFO, "%u experts fit into RAM, %.1f MB: the others are read when they are chosen",
                   p->n_ram_slots, (double)p->ram_bytes / 1e6);
    if (engine->path != PATH_DEVICE)
        engine_log(engine, SC_LOG_INFO, "the CPU computes %s for up to %u tokens at once",
                   engine->path == PATH_HOST ? "all experts" : "the experts that do not fit", engine->n_host_tokens);
}

struct sc_engine *engine_new(const struct sc_engine_params *params, struct sc_error *e)
{
    struct sc_engine *engine = params->model_path ? calloc(1, sizeof(*engine)) : NULL;
    if (!params->model_path)
        sc_fail(e, SC_INVALID_ARGUMENT, "no model was named");
    else if (!engine)
        sc_fail_memory(e, "the engine");
    if (!engine)
        return NULL;
    engine->params = *params;
    engine->wished_batch = params->n_batch;
    return engine;
}

struct sc_engine *sc_engine_create(const struct sc_engine_params *params, struct sc_error *e)
{
    struct sc_engine *engine = engine_new(params, e);
    if (!engine)
        return NULL;
    if (!engine_open_model(engine, params->synthetic, e) || !open_trace(engine, e) || !open_device(engine, e) ||
        !sc_gguf_check(engine->gguf, e)) {
        sc_engine_destroy(engine);
        return NULL;
    }
    engine->params.model_path = engine->params.device = engine->params.routing_trace = NULL;
    engine->params.cache_dir = ""; /* what is measured later is not kept */
    log_placement(engine);
    return engine;
}

/* For the next start, if there was anything to learn. */
static void save_hot_set(const struct sc_engine *engine)
{
    const struct experts *x = &engine->model.experts;
    if (!engine->is_placed || !engine->hot_set.path[0] || experts_fit(x) || x->n_hits + x->n_misses == 0)
        return;
    if (!hot_set_save(&engine->hot_set, &x->policy))
        engine_log(engine, SC_LOG_WARNING, "which experts are used most could not be saved to %s",
                   engine->hot_set.path);
}

void sc_engine_destroy(struct sc_engine *engine)
{
    if (!engine)
        return;
    save_hot_set(engine);
    struct sc_error e = {0};
    if (!routing_trace_destroy(engine->trace, &e))
        engine_log(engine, SC_LOG_WARNING, "the routing trace is not complete: %s", e.text);
    unplace(engine);
    cpu_pool_destroy(engine->pool);
    gpu_destroy(engine->gpu);
    sc_tokenizer_destroy(engine->tokenizer);
    weights_finish(&engine->weights);
    sc_gguf_close(engine->gguf);
    free(engine);
}
