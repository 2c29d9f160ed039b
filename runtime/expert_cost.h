/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a layer's experts cost, in seconds, by the rates of this machine: the arithmetic by which an engine chooses who
 * computes them, and by which a plan predicts. Routing is taken to be uniform, each slot's expert as likely as any
 * other.
 */
#ifndef SCORIA_EXPERT_COST_H
#define SCORIA_EXPERT_COST_H

#include "rates.h"

/* Who computes the experts of a pass. */
enum expert_path {
    PATH_DEVICE, /* the device: what no slot holds is uploaded */
    PATH_BOTH,   /* the device what slots hold, the CPU the rest */
    PATH_HOST,   /* the CPU */
};

struct expert_cost {
    const struct rates *rates;
    uint32_t n_experts, n_used; /* of a layer */
    double bytes;               /* of an expert */
    double flops;               /* of an expert for one token */
    double upload;              /* bytes/s of experts from RAM to the device: the rates' until told otherwise */
    double resident;            /* the part of all experts that have slots, 0 to 1 */
    double in_ram;              /* the part of all experts that RAM has room for, 0 to 1; the rest is read when used */
    double disk;                /* bytes/s of that, if there is some */
};

/* Experts of the model's mean size, which RAM has room for. Borrows the rates. */
struct expert_cost expert_cost_of(const struct rates *r, const struct weights *w, const struct config *c,
                                  double resident);

/* A layer's experts for n tokens, with what the path waits for. Whole layers are uploaded ahead, and
   read ahead from disk, where n is large. */
double expert_cost_layer(const struct expert_cost *cost, enum expert_path path, uint32_t n);

/* The cheapest for single tokens. */
enum expert_path expert_cost_path(const struct expert_cost *cost);

/* The largest n <= most up to which the path is no dearer than PATH_DEVICE; at least 1. */
uint32_t expert_cost_host_tokens(const struct expert_cost *cost, enum expert_path path, uint32_t most);

/*
 * The micro-batch from which on a long prompt is bound by the device and no longer by the upload of the experts that it
 * does not hold, as far as a layer's kernels take at most half a second; 0 if the device holds all.
 */
double expert_cost_batch(const struct expert_cost *cost);

/*
 * The micro-batch for long prompts where the path is taken for passes of up to host_tokens: these, or n_batch if the
 * device with passes of n_batch is faster.
 */
uint32_t expert_cost_prompt_batch(const struct expert_cost *cost, enum expert_path path, uint32_t host_tokens,
                                  uint32_t n_batch);

/* So many tokens choose nearly all experts of a layer: it pays to upload them before the router has chosen. */
bool expert_cost_upload_ahead(const struct config *c, uint32_t n);

#endif
