/* SPDX-License-Identifier: Apache-2.0 */
/* Caches that know the future: what no policy can beat, to measure policies against. */
#ifndef SCORIA_BELADY_H
#define SCORIA_BELADY_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

struct belady_use {
    uint32_t index;         /* who is used */
    uint32_t group;         /* uses of a group are needed at the same time; its members are distinct */
    bool counts;            /* as a use; the others only pass through */
    bool is_hit, is_upload; /* the answer: it was in a slot; it came into one, after a miss */
};

/*
 * The most hits that n_slots slots can have when a slot is filled only by a miss: the one needed last gives way. With
 * `bypass` a miss may stay outside; without, it must get a slot and a group's members may not push out each other (as
 * far as n_slots allows).
 */
bool belady_run(struct belady_use *uses, size_t n, uint32_t n_indices, uint32_t n_slots, bool bypass,
                struct sc_error *e) SC_CHECK;

/* (n) where each use's expert is used again, SIZE_MAX: nowhere. NULL: out of memory. The caller frees. */
size_t *belady_next(const struct belady_use *uses, size_t n, uint32_t n_indices);

/* The n_slots that are used most are there from the beginning and stay. */
bool belady_fixed(struct belady_use *uses, size_t n, uint32_t n_indices, uint32_t n_slots, struct sc_error *e) SC_CHECK;

/*
 * The most that hits less `price` for each upload can be, where a miss may stay outside: what an optimum does that has
 * to pay for the link to the device. Uses that do not count come in for nothing.
 */
bool belady_priced(struct belady_use *uses, size_t n, uint32_t n_indices, uint32_t n_slots, int price,
                   struct sc_error *e) SC_CHECK;

#endif
