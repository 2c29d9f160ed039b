/* SPDX-License-Identifier: Apache-2.0 */
#include "bound.h"

#include <math.h>

/* The number of ways to choose k of n, 0 where there is none. */
static double choose(uint32_t n, uint32_t k)
{
    double ways = k <= n;
    for (uint32_t i = 0; i < k && i < n; i++)
        ways *= (double)(n - i) / (i + 1);
    return ways;
}

/* That k of the n_used experts are among the n_resident of the layer that the device holds. */
static double probability(const struct token_work *w, uint32_t n_resident, uint32_t k)
{
    return choose(n_resident, k) * choose(w->n_experts - n_resident, w->n_used - k) / choose(w->n_experts, w->n_used);
}

double bound_side_by_side(double device, double device_share, double host, double host_share)
{
    const double device_end = device / device_share, host_end = host / host_share;
    if (device_end < host_end)
        return device_end + host - device_end * host_share;
    return host_end + device - host_end * device_share;
}

static double dense_seconds(const struct token_work *w, const struct links *l)
{
    return w->dense_bytes / l->device;
}

double bound_resident(const struct token_work *w, const struct links *l)
{
    return dense_seconds(w, l) + w->n_layers * (w->n_used * w->expert_bytes / l->device);
}

double bound_host(const struct token_work *w, const struct links *l)
{
    return dense_seconds(w, l) + w->n_layers * (w->n_used * w->expert_bytes / l->host + l->round_trip);
}

double bound_uploading(const struct token_work *w, const struct links *l, double hit_rate)
{
    const double misses = (1 - hit_rate) * w->n_used;
    return bound_resident(w, l) + w->n_layers * (misses * w->expert_bytes / l->upload + l->round_trip);
}

double bound_both(const struct token_work *w, const struct links *l, double hit_rate)
{
    const double resident = fmin(fmax(hit_rate, 0), 1) * w->n_experts;
    const uint32_t less = (uint32_t)resident, more = less < w->n_experts ? less + 1 : less;
    double layer = 0;
    for (uint32_t k = 0; k <= w->n_used; k++) {
        const double p = (less + 1 - resident) * probability(w, less, k) + (resident - less) * probability(w, more, k);
        const double device = k * w->expert_bytes / l->device, host = (w->n_used - k) * w->expert_bytes / l->host;
        layer += p * bound_side_by_side(device, l->device_beside / l->device, host, l->host_beside / l->host);
    }
    return dense_seconds(w, l) + w->n_layers * (layer + l->round_trip);
}
