/* SPDX-License-Identifier: Apache-2.0 */
#include "op_kv.h"

#include <stdlib.h>
#include <string.h>

#include "dequantize.h"
#include "model_builder.h"
#include "op_reference.h"

const enum sc_type op_kv_types[OP_N_KV_TYPES] = {SC_F32, SC_F16, SC_Q8_0};

bool op_kv_has_heads(enum sc_type type, uint32_t head_dim)
{
    return type != SC_Q8_0 || head_dim % 32 == 0;
}

struct tensor op_kv(struct op_device *d, enum sc_type type, uint32_t n_ctx, uint32_t n)
{
    return op_tensor(d, type, n_ctx, kv_cols(type, n));
}

static uint8_t *row_of(const struct op_device *d, struct tensor cache, uint32_t position)
{
    const struct tensor row = tensor_rows(cache, 1);
    return (uint8_t *)op_host(d, cache.address) + position * tensor_size_bytes(&row);
}

static uint16_t *scale_of(const struct op_device *d, struct tensor cache, uint32_t position, uint32_t i)
{
    return (uint16_t *)(void *)(row_of(d, cache, position) + cache.cols) + i / 32;
}

float op_kv_scale(const struct op_device *d, struct tensor cache, uint32_t position, uint32_t i)
{
    return sc_half_to_float(*scale_of(d, cache, position, i));
}

float op_kv_value(const struct op_device *d, struct tensor cache, uint32_t position, uint32_t i)
{
    const uint8_t *row = row_of(d, cache, position);
    float f;
    uint16_t half;
    if (cache.type == SC_Q8_0)
        return (float)(int8_t)row[i] * op_kv_scale(d, cache, position, i);
    if (cache.type == SC_F16) {
        memcpy(&half, row + 2 * i, sizeof half);
        return sc_half_to_float(half);
    }
    memcpy(&f, row + 4 * i, sizeof f);
    return f;
}

static void put_random(struct op_device *d, struct tensor cache, uint32_t position, uint32_t i)
{
    uint8_t *row = row_of(d, cache, position);
    const float f = random_normal(&d->seed);
    const uint16_t half = half_of(f);
    if (cache.type == SC_F32)
        memcpy(row + 4 * i, &f, sizeof f);
    if (cache.type == SC_F16)
        memcpy(row + 2 * i, &half, sizeof half);
    if (cache.type != SC_Q8_0)
        return;
    row[i] = (uint8_t)random_u64(&d->seed);
    if (i % 32 == 0) /* 127 of them are 1.7 deviations: a flat distribution of deviation 1 */
        *scale_of(d, cache, position, i) = half_of((1 + f / 8) * 1.7f / 127);
}

float *op_kv_fill(struct op_device *d, struct tensor cache, uint32_t n, uint32_t n_values)
{
    float *values = malloc((size_t)n * n_values * sizeof *values);
    if (!values)
        abort();
    for (uint32_t position = 0; position < n; position++) {
        for (uint32_t i = 0; i < n_values; i++)
            put_random(d, cache, position, i);
        for (uint32_t i = 0; i < n_values; i++)
            values[(size_t)position * n_values + i] = op_kv_value(d, cache, position, i);
    }
    return values;
}
