/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a model would do on this machine, without its weights: where its bytes would lie, what a token would move, how
 * long that takes by rates measured on the spot (and kept in the cache folder), and which link limits it. Public,
 * beside scoria.h.
 */
#ifndef SCORIA_PLAN_H
#define SCORIA_PLAN_H

#include "scoria.h"

/* Who computes the experts of a token. */
enum sc_way {
    SC_WAY_DEVICE, /* the device; those that it does not hold are uploaded */
    SC_WAY_BOTH,   /* the device those that it holds, the CPU the others, at the same time */
    SC_WAY_CPU,    /* the CPU */
    SC_N_WAYS
};

enum sc_link {
    SC_LINK_VRAM,       /* device memory and the kernels that read it */
    SC_LINK_RAM,        /* host memory and the CPU's kernels */
    SC_LINK_TRANSFER,   /* from host memory to the device */
    SC_LINK_DISK,       /* from the file to host memory */
    SC_LINK_ROUND_TRIP, /* the host waits for the device and the device for the host, in every layer */
};

/* Bytes and operations per second as measured; see rates.h. */
struct sc_plan_rates {
    double vram_read, vram_experts; /* plain reading; our kernels with experts of one token */
    double ram_read, ram_experts;
    double upload, transfer; /* as Scoria uploads; the link alone */
    double disk_read;
    double device_flops, host_flops;
    double round_trip; /* seconds */
};

struct sc_plan {
    struct sc_device_info device;
    struct sc_placement placement;
    struct sc_plan_rates rates;
    char model_name[128];
    uint64_t model_bytes, n_parameters, n_active_parameters;
    uint32_t n_layers, n_experts, n_experts_used; /* n_experts 0: dense */
    uint32_t n_ctx, n_batch, n_threads;
    bool has_weights;      /* the file is complete */
    bool disk_is_measured; /* else disk_read is what such drives usually give */

    uint64_t ram_needed_bytes;    /* for the experts that the device does not hold, or all if the CPU computes all */
    uint64_t ram_available_bytes; /* for them, now or by --ram */

    /* a token of decode, if every expert is as likely as any other */
    double hit_rate;                                            /* the part of the experts that the device holds */
    double vram_token_bytes, ram_token_bytes, disk_token_bytes; /* on the chosen way; RAM's include the disk's */
    double seconds[SC_N_WAYS];                                  /* predicted */
    double bound_seconds[SC_N_WAYS];                            /* what plain reading would allow */
    enum sc_way way;                                            /* the engine's choice */
    enum sc_link link;                                          /* that limits it */

    /* a prompt, in micro-batches of n_batch */
    double prompt_seconds; /* of one of them */
    enum sc_link prompt_link;

    /* with everything on the device */
    uint64_t resident_budget_bytes;
    double resident_seconds;

    double dense_token_bytes, expert_bytes; /* what the device reads besides experts; one expert of one layer */
    double vram_beside, ram_beside;         /* the part of its rate that each keeps while both are at work */
};

/* Needs only the file's header. Fails as sc_engine_create does, but for the weights. Measures within the budget. */
bool sc_plan_make(struct sc_plan *plan, const struct sc_engine_params *params, struct sc_error *e) SC_CHECK;

/* The least seconds of a token if this share of its experts is found on the device: what percentages are of. */
double sc_plan_bound(const struct sc_plan *plan, double hit_rate);

#endif
