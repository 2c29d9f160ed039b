/* SPDX-License-Identifier: Apache-2.0 */
#include "engine.h"

#include <string.h>
#include <time.h>

#include "command.h"
#include "interrupt.h"
#include "terminal.h"

static void log_line(void *user, enum sc_log_level level, const char *text)
{
    const struct options *o = user;

    if ((int)level > o->log_level)
        return;
    if (level == SC_LOG_WARNING)
        terminal_warning("%s", text);
    else
        terminal_error("%s", text); /* the prefix alone: information is no error, and errors say so themselves */
}

static bool show_progress(void *user, enum sc_phase phase, uint64_t done, uint64_t total)
{
    static const char *const labels[] = {[SC_PHASE_LOAD] = "loading",
                                         [SC_PHASE_COMPILE] = "compiling kernels",
                                         [SC_PHASE_PREFILL] = "reading prompt",
                                         [SC_PHASE_TUNE] = "choosing kernels"};

    (void)user;
    terminal_progress(labels[phase], done, total);
    return !interrupt_requested();
}

struct sc_engine_params engine_params(const struct options *o, uint32_t n_ctx_wanted)
{
    const int64_t n_batch = o->batch && o->batch < o->ubatch ? o->batch : o->ubatch;

    return (struct sc_engine_params){
        .model_path = o->model,
        .device = o->device,
        .vram_bytes = o->vram_bytes,
        .ram_bytes = o->ram_bytes,
        .synthetic = o->synthetic,
        .no_mmap = o->no_mmap,
        .mlock = o->mlock,
        .n_ctx = o->context ? (uint32_t)o->context : n_ctx_wanted,
        .n_batch = (uint32_t)n_batch,
        .max_batch = (uint32_t)o->batch,
        .kv_type = (enum sc_kv_type)o->kv,
        .cpu_experts = (enum sc_cpu_experts)o->cpu_experts,
        .n_threads = (uint32_t)o->threads,
        .activations = (enum sc_activations)o->activations,
        .no_autotune = o->no_autotune,
        .no_hot_set = o->no_hot_set,
        .routing_trace = o->routing_trace,
        .log = log_line,
        .progress = show_progress,
        .user = (void *)o,
    };
}

struct sc_engine *engine_open(struct sc_engine_params params, struct sc_error *e)
{
    interrupt_catch();
    struct sc_engine *engine = sc_engine_create(&params, e);
    terminal_clear();
    return engine;
}

int engine_failed(const struct sc_error *e)
{
    if (e->code == SC_CANCELLED) {
        terminal_clear();
        return EXIT_INTERRUPTED;
    }
    terminal_error("%s", e->text);
    return EXIT_FAILED;
}

struct sc_gguf_string engine_model_name(const struct sc_engine *engine)
{
    const struct sc_gguf *g = sc_engine_gguf(engine);
    struct sc_gguf_string name;
    const char *path = sc_gguf_path(g), *slash = strrchr(path, '/');

    if (sc_gguf_read_string(sc_gguf_find_value(g, "general.name"), &name) && name.size_bytes > 0)
        return name;
    path = slash ? slash + 1 : path;
    return (struct sc_gguf_string){path, strlen(path)};
}

double engine_clock(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
