/* SPDX-License-Identifier: Apache-2.0 */
#include "expert_cost.h"

#include <math.h>

#include "bound.h"

struct expert_cost expert_cost_of(const struct rates *r, const struct weights *w, const struct config *c,
                                  double resident)
{
    double bytes = 0;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const struct expert_weights *x = &w->layers[l].experts[0];
        bytes += (double)(x->gate.size_bytes + x->up.size_bytes + x->down.size_bytes);
    }
    return (struct expert_cost){
        .rates = r,
        .n_experts = c->n_experts ? c->n_experts : 1,
        .n_used = c->n_experts ? c->n_experts_used : 1,
        .bytes = bytes / c->n_layers,
        .flops = 2.0 * 3 * c->n_embd * c->n_ff,
        .upload = r->upload,
        .resident = resident,
        .in_ram = 1,
    };
}

/* Experts of a layer that n tokens choose at least once. */
static double n_chosen(const struct expert_cost *c, uint32_t n)
{
    return c->n_experts * (1 - pow(1 - (double)c->n_used / c->n_experts, n));
}

static bool is_ahead(uint32_t n_experts, uint32_t n_used, uint32_t n)
{
    return pow(1 - (double)n_used / n_experts, n) < 1.0 / 8;
}

bool expert_cost_upload_ahead(const struct config *c, uint32_t n)
{
    return is_ahead(c->n_experts, c->n_experts_used, n);
}

static double between(double x, double x0, double y0, double x1, double y1)
{
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0);
}

/* One expert with so many tokens: bound by its bytes at first, by operations later. */
static double device_seconds(const struct expert_cost *c, double n_tokens)
{
    const struct rates *r = c->rates;
    const double one = c->bytes / r->device_expert, many = RATES_DEVICE_BATCH * c->flops / r->device_batch;
    return n_tokens <= 1 ? one : fmax(one, between(n_tokens, 1, one, RATES_DEVICE_BATCH, many));
}

static double host_seconds(const struct expert_cost *c, double n_tokens)
{
    const struct rates *r = c->rates;
    const double one = c->bytes / r->host_expert;
    const double few = RATES_SMALL_BATCH * c->flops / r->host_batch_small;
    const double many = RATES_HOST_BATCH * c->flops / r->host_batch;
    if (n_tokens <= 1)
        return one;
    return fmax(one, n_tokens <= RATES_SMALL_BATCH ? between(n_tokens, 1, one, RATES_SMALL_BATCH, few)
                                                   : between(n_tokens, RATES_SMALL_BATCH, few, RATES_HOST_BATCH, many));
}

static struct links links_of(const struct expert_cost *c)
{
    const struct rates *r = c->rates;
    return (struct links){.device = r->device_expert,
                          .host = r->host_expert,
                          .device_beside = r->device_beside_host,
                          .host_beside = r->host_beside_device,
                          .upload = c->upload,
                          .round_trip = r->round_trip};
}

/* Reading what neither the device holds nor RAM: the CPU alone has no use for what the device holds. */
static double disk_seconds(const struct expert_cost *c, enum expert_path path, double chosen)
{
    const double missing = 1 - (path == PATH_HOST ? 0 : c->resident) - c->in_ram;
    return missing > 0 ? chosen * missing * c->bytes / c->disk : 0;
}

double expert_cost_layer(const struct expert_cost *c, enum expert_path path, uint32_t n)
{
    const struct token_work one = {
        .n_layers = 1, .n_experts = c->n_experts, .n_used = c->n_used, .expert_bytes = c->bytes};
    const struct links l = links_of(c);
    const double chosen = n_chosen(c, n), rows = (double)n * c->n_used / chosen;
    const double missing = chosen * (1 - c->resident), upload = missing * c->bytes / c->upload;
    const double device = device_seconds(c, rows), host = host_seconds(c, rows);
    const bool ahead = path == PATH_DEVICE && is_ahead(c->n_experts, c->n_used, n);
    const double disk = disk_seconds(c, path, chosen);
    const double wait = (path == PATH_HOST || c->resident < 1 ? l.round_trip : 0) + disk;
    switch (path) {
    case PATH_HOST: return chosen * host + wait;
    case PATH_BOTH:
        return n == 1 ? bound_both(&one, &l, c->resident) - l.round_trip + wait
                      : bound_side_by_side((chosen - missing) * device, l.device_beside / l.device, missing * host,
                                           l.host_beside / l.host) +
                            wait;
    default: break;
    }
    return ahead ? fmax(fmax(upload, disk), chosen * device) : upload + chosen * device + wait;
}

enum expert_path expert_cost_path(const struct expert_cost *c)
{
    enum expert_path best = PATH_DEVICE;
    /* with nothing missing both engines are the device alone, but for a rounding */
    if (c->resident < 1 && expert_cost_layer(c, PATH_BOTH, 1) < expert_cost_layer(c, best, 1))
        best = PATH_BOTH;
    if (expert_cost_layer(c, PATH_HOST, 1) < expert_cost_layer(c, best, 1))
        best = PATH_HOST;
    return best;
}

uint32_t expert_cost_host_tokens(const struct expert_cost *c, enum expert_path path, uint32_t most)
{
    uint32_t n = 1;
    while (n < most && expert_cost_layer(c, path, n + 1) <= expert_cost_layer(c, PATH_DEVICE, n + 1))
        n++;
    return n;
}

double expert_cost_batch(const struct expert_cost *c)
{
    static const double longest_seconds = 0.5; /* drivers kill what runs for 2 s */
    const double upload = c->n_experts * (1 - c->resident) * c->bytes / c->upload;
    const double one_token = c->n_used * c->flops / c->rates->device_batch;
    return fmin(upload, longest_seconds) / one_token;
}

uint32_t expert_cost_prompt_batch(const struct expert_cost *c, enum expert_path path, uint32_t host_tokens,
                                  uint32_t n_batch)
{
    const bool is_host_faster =
        host_tokens > 1 && host_tokens < n_batch &&
        expert_cost_layer(c, path, host_tokens) / host_tokens < expert_cost_layer(c, PATH_DEVICE, n_batch) / n_batch;
    return is_host_faster ? host_tokens : n_batch;
}
