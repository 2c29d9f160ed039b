/* SPDX-License-Identifier: Apache-2.0 */
/* The host's view of a KV cache of any type, laid out as shaders/kv.glsl says. */
#ifndef SCORIA_TESTS_OP_KV_H
#define SCORIA_TESTS_OP_KV_H

#include "op_device.h"

enum { OP_N_KV_TYPES = 3 };
extern const enum sc_type op_kv_types[OP_N_KV_TYPES];

/* Whether a cache of this type takes heads of so many values. */
bool op_kv_has_heads(enum sc_type type, uint32_t head_dim);

/* A poisoned cache for n values a position. */
struct tensor op_kv(struct op_device *d, enum sc_type type, uint32_t n_ctx, uint32_t n);

/* The value as a reader sees it; and, of q8_0, the scale of its block. */
float op_kv_value(const struct op_device *d, struct tensor cache, uint32_t position, uint32_t i);
float op_kv_scale(const struct op_device *d, struct tensor cache, uint32_t position, uint32_t i);

/* Random values for the first n positions, n_values each, deviation 1; returns them (n, n_values) as a reader sees
 * them. */
float *op_kv_fill(struct op_device *d, struct tensor cache, uint32_t n, uint32_t n_values);

#endif
