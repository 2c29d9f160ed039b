/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long a token takes at least, from what it moves and what the links carry. Arithmetic, nothing else.
 *
 *     T = dense / device + sum over layers of max(hits / device, misses / host)
 *
 * Which experts a token uses is taken as chance, so that the number of hits in a layer follows the hypergeometric
 * distribution; a hit rate that is not a whole number of experts of a layer lies between the two next to it.
 */
#ifndef SCORIA_BOUND_H
#define SCORIA_BOUND_H

#include <stdint.h>

/* What a token of decode moves. */
struct token_work {
    uint32_t n_layers;
    uint32_t n_experts, n_used; /* of a layer; a dense feed-forward is 1 of 1 */
    double dense_bytes;         /* that the device reads besides the experts */
    double expert_bytes;        /* of one expert, on average over the layers */
};

/* Bytes per second, seconds; all more than 0 but round_trip, which may be 0. */
struct links {
    double device, host;               /* reads weights or computes with them, while the other rests */
    double device_beside, host_beside; /* while the other does not */
    double upload;                     /* host memory to the device */
    double round_trip;                 /* a layer's, where the host has a hand in it */
};

/* Seconds of a token. hit_rate is the share of the experts used that are on the device, 0 to 1. */
double bound_resident(const struct token_work *w, const struct links *l);
double bound_uploading(const struct token_work *w, const struct links *l, double hit_rate);
double bound_both(const struct token_work *w, const struct links *l, double hit_rate);
double bound_host(const struct token_work *w, const struct links *l);

/*
 * Two that begin at once, each with its seconds alone, and the share of its pace that it keeps while both run: when one
 * is done, the other goes on at its own.
 */
double bound_side_by_side(double device, double device_share, double host, double host_share);

#endif
