/* SPDX-License-Identifier: Apache-2.0 */
#include "measurement.h"

#include <stdlib.h>
#include <string.h>

static const uint64_t RING_BYTES = 32 << 20;

static struct tensor f32(VkDeviceAddress *at, uint32_t rows, uint32_t cols)
{
    const struct tensor t = {.address = *at, .type = SC_F32, .rows = rows, .cols = cols};
    *at += (tensor_size_bytes(&t) + 255) / 256 * 256;
    return t;
}

/* Lays the tensors out from `base` on; returns where they end. */
static VkDeviceAddress lay_out(struct measurement *m, VkDeviceAddress base)
{
    const struct sample *s = &m->sample;
    const uint32_t n = RATES_DEVICE_BATCH, n_pairs = n * s->n_used;
    VkDeviceAddress at = base;
    m->routing = (struct routing){.ids = f32(&at, n, s->n_used),
                                  .first = f32(&at, 1, s->n_used + 1),
                                  .pairs = f32(&at, 1, n_pairs),
                                  .tiles = f32(&at, 3 * op_max_tiles(n_pairs, s->n_used), 2),
                                  .grids = f32(&at, 3, 4),
                                  .grids_buffer = &m->values};
    m->x = f32(&at, n, s->n_embd);
    m->gate = f32(&at, n_pairs, s->n_ff);
    m->up = f32(&at, n_pairs, s->n_ff);
    m->down = f32(&at, n_pairs, s->n_embd);
    m->sums = f32(&at, 1, MEASURED_READERS);
    m->kernels.scratch = (struct access){.address = at};
    const uint64_t of_x = op_scratch_bytes(n, s->n_embd), of_gate = op_scratch_bytes(n_pairs, s->n_ff);
    m->kernels.scratch.size_bytes = of_x > of_gate ? of_x : of_gate;
    return at + m->kernels.scratch.size_bytes;
}

/* The routing of all tokens to all experts of a group, and an x, which may be anything small. */
static bool upload_values(struct measurement *m, struct sc_error *e)
{
    const struct sample *s = &m->sample;
    const uint32_t n = RATES_DEVICE_BATCH;
    const uint64_t size_bytes = m->gate.address - m->values.address;
    uint8_t *bytes = calloc(1, (size_t)size_bytes);
    if (!bytes)
        return sc_fail_memory(e, "the measurement of this machine");
    uint32_t *ids = (uint32_t *)(void *)(bytes + (m->routing.ids.address - m->values.address));
    float *x = (float *)(void *)(bytes + (m->x.address - m->values.address));
    for (uint32_t i = 0; i < n * s->n_used; i++)
        ids[i] = i % s->n_used;
    for (uint64_t i = 0; i < (uint64_t)n * s->n_embd; i++)
        x[i] = (float)(i % 17) / 8 - 1;
    memcpy(m->host_x, x, sizeof(float) * RATES_HOST_BATCH * s->n_embd);
    const bool ok = upload_bytes(&m->upload, &m->values, 0, bytes, size_bytes, e) && upload_flush(&m->upload, e);
    free(bytes);
    return ok;
}

bool measurement_init(struct measurement *m, struct gpu *gpu, struct cpu_pool *pool, const struct weights *w,
                      const struct config *c, struct sc_error *e)
{
    m->gpu = gpu;
    m->pool = pool;
    m->is_steady = true;
    static const char what[] = "the measurement of this machine";
    const uint64_t total = m->gpu->budget_bytes ? m->gpu->budget_bytes : gpu_free_bytes(m->gpu);
    const uint64_t left = total > m->gpu->allocated_bytes ? total - m->gpu->allocated_bytes : 0;
    const uint64_t ring = left / 16 < RING_BYTES ? left / 16 : RING_BYTES;
    if (!sample_init(&m->sample, m->gpu, m->pool, w, c, left / 2, e))
        return false;
    const struct sample *s = &m->sample;
    const uint32_t n_host = RATES_HOST_BATCH * s->n_used;
    m->host_x = calloc((size_t)RATES_HOST_BATCH * s->n_embd, sizeof(*m->host_x));
    m->host_y = calloc((size_t)n_host * s->n_embd, sizeof(*m->host_y));
    m->rows = calloc(n_host, sizeof(*m->rows));
    if (!m->host_x || !m->host_y || !m->rows)
        return sc_fail_memory(e, what);
    for (uint32_t i = 0; i < n_host; i++)
        m->rows[i] = i;
    if (!upload_init(&m->upload, m->gpu, m->pool, ring, e) ||
        !buffer_init(m->gpu, &m->staging, MEMORY_UPLOAD, ring / 256 * 256, what, e) ||
        !buffer_init(m->gpu, &m->seen, MEMORY_READBACK, s->n_embd * sizeof(float), what, e) ||
        !buffer_init(m->gpu, &m->values, MEMORY_DEVICE, lay_out(m, 0), what, e))
        return false;
    m->seen_x = (struct tensor){.address = m->seen.address, .type = SC_F32, .rows = 1, .cols = s->n_embd};
    memset(m->staging.mapped, 0, (size_t)m->staging.size_bytes);

    if (!commands_init(&m->kernels, m->gpu, e) || !commands_init_transfer(&m->copies, m->gpu, e))
        return false;
    lay_out(m, m->values.address);
    for (uint32_t i = 0; i <= MEASURED_TRIPS; i++) {
        m->trip_list[i] = &m->trips[i];
        if (!commands_init(&m->trips[i], m->gpu, e))
            return false;
        commands_begin(&m->trips[i], true);
        op_copy(&m->trips[i], m->seen_x, tensor_rows(m->x, 1));
        if (!commands_end(&m->trips[i], e))
            return false;
    }
    return upload_values(m, e);
}

void measurement_finish(struct measurement *m)
{
    m->gpu->vk.vkDeviceWaitIdle(m->gpu->device);
    cpu_experts_destroy(m->cpu);
    for (uint32_t i = 0; i <= MEASURED_TRIPS; i++)
        commands_finish(&m->trips[i]);
    commands_finish(&m->copies);
    commands_finish(&m->kernels);
    buffer_finish(m->gpu, &m->values);
    buffer_finish(m->gpu, &m->seen);
    buffer_finish(m->gpu, &m->staging);
    upload_finish(&m->upload);
    sample_finish(&m->sample);
    free(m->rows);
    free(m->host_y);
    free(m->host_x);
}
