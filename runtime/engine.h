/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine is made of, for the files that make it. */
#ifndef SCORIA_ENGINE_H
#define SCORIA_ENGINE_H

#include "config.h"
#include "expert_cost.h"
#include "gpu.h"
#include "model.h"
#include "upload.h"

struct sc_engine {
    struct sc_engine_params params; /* with defaults filled in; its strings are not kept */
    struct sc_gguf *gguf;
    struct config config;
    struct weights weights;
    struct sc_tokenizer *tokenizer; /* NULL: see tokenizer_error */
    struct sc_error tokenizer_error;
    struct gpu *gpu;
    struct upload upload;
    struct store *store;
    struct model model;
    struct hot_set hot_set;
    struct cpu_pool *pool; /* NULL: the CPU computes no experts */
    struct rates rates;    /* measured where there is a pool, if has_rates */
    bool has_rates;
    bool reads_in_place; /* the device reads experts in the mapped files, as far as it can: at the rate of a transfer */
    double in_ram;       /* the part of all experts that RAM has room for, 0 to 1 */
    double disk;         /* bytes/s of experts that RAM has no room for; 0: not measured, where there is room for all */
    struct host_experts *host_experts; /* NULL: PATH_DEVICE */
    enum expert_path path;             /* of single tokens and small batches */
    uint32_t n_host_tokens;      /* it does so for passes of at most so many tokens; session_host_tokens bounds it */
    struct routing_trace *trace; /* NULL: nobody asked for one */
    struct sc_placement placement;
    uint64_t synthetic_bytes; /* of distinct memory that made-up weights lie in; 0: they are the file's */
    uint32_t wished_batch;    /* of the caller's params; 0: none */
    bool is_placed;           /* upload, model and what follows from them are there */
    uint32_t n_sessions;
};

/* With the params and nothing else; sc_engine_destroy takes it in any state. */
struct sc_engine *engine_new(const struct sc_engine_params *params, struct sc_error *e) SC_CHECK;

/* The model's file and what follows from it. header_only: see sc_gguf_open_header. */
bool engine_open_model(struct sc_engine *engine, bool header_only, struct sc_error *e) SC_CHECK;

/* The caller's bound of device memory, or what the device has free, less a reserve. */
uint64_t engine_budget(const struct sc_engine *engine);

/*
 * Which variant of each family the device uses for the model's weights: tested, and measured unless params say no. What
 * was found out is kept.
 */
bool engine_choose_kernels(struct sc_engine *engine, struct sc_error *e) SC_CHECK;

bool engine_shares_ram(const struct sc_engine *engine); /* the device's memory is the host's */

/* Bytes of RAM that are free beside what the placement takes of them; and for experts, as --ram says or leaving some.
 */
uint64_t engine_free_ram(const struct sc_engine *engine);
uint64_t engine_ram_for_experts(const struct sc_engine *engine);

/* The part of the experts' bytes that lie on the device as they do in the file, 0 to 1: those alone are read in place.
 */
double engine_plain_share(const struct sc_engine *engine);

/* By the rates, for the placement. Borrows the engine. */
struct expert_cost engine_cost(const struct sc_engine *engine);

/* Placement, rates where experts are staged, micro-batch and path, for this budget. Leaves nothing on the device. */
bool engine_decide(struct sc_engine *engine, uint64_t budget_bytes, struct sc_error *e) SC_CHECK;

/* Who computes the experts of single tokens and small batches: part of it, again once it is known how uploads go. */
void engine_choose_path(struct sc_engine *engine);

/* The same as engine_decide, and puts the model on the device. */
bool engine_place(struct sc_engine *engine, uint64_t budget_bytes, struct sc_error *e) SC_CHECK;

/*
 * The driver granted less than was planned, as *why says: gives back what the model took and places it anew with less,
 * again and again until it fits. For engines without sessions. False if there is no smaller way.
 */
bool engine_step_down(struct sc_engine *engine, const struct sc_error *why, struct sc_error *e) SC_CHECK;

/* Calls params.log; `format` makes one sentence. */
void engine_log(const struct sc_engine *engine, enum sc_log_level level, const char *format, ...) SC_PRINTF(3, 4);

#endif
