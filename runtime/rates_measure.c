/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "cpu_experts.h"
#include "host_read.h"
#include "rates.h"
#include "sample.h"

enum { MIN_RUNS = 3, MAX_RUNS = 7, MAX_REPEATS = 200, N_TRIPS = 16, N_READERS = 1 << 16, CACHE_LINE = 64 };

static const uint64_t RING_BYTES = 32 << 20;
static const double ENOUGH_SECONDS = 0.05, /* for one rate, once there are MIN_RUNS runs */
    BATCH_SECONDS = 0.01,                  /* a batch of experts this long is as good as a longer one */
    BOTH_SECONDS = 0.02;                   /* the least for the device and the CPU side by side */

struct measurement {
    struct gpu *gpu;
    struct cpu_pool *pool;
    struct sample sample;
    struct upload upload;
    struct buffer values, staging, seen; /* on the device, page-locked on the host, results on the host */
    struct tensor x, gate, up, down;     /* for RATES_DEVICE_BATCH tokens */
    struct routing routing;              /* each token uses every expert of a group */
    struct tensor sums, seen_x;          /* what op_read gives; (1, n_embd) in `seen` */
    struct commands kernels, copies, trips[N_TRIPS + 1]; /* what runs on the device; and to and fro */
    struct commands *trip_list[N_TRIPS + 1];
    struct cpu_experts *cpu; /* of experts n_ff wide */
    float *host_x, *host_y;  /* (RATES_HOST_BATCH, n_embd), and as many for each expert of a group */
    uint32_t *rows;          /* 0, 1, 2... */
    uint32_t n_ff, n_tokens; /* of the experts that run */
    uint32_t group;          /* that the CPU computes next */
};

/* ---- time ---- */

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of a run. */
struct timing {
    double least, median;
};

/* How long `run` takes, the first time not counted. */
static bool time_runs(struct measurement *m, bool (*run)(struct measurement *, struct sc_error *),
                      struct timing *timing, struct sc_error *e)
{
    double times[MAX_RUNS], all = 0;
    uint32_t n = 0;
    if (!run(m, e))
        return false;
    while (n < MIN_RUNS || (n < MAX_RUNS && all < ENOUGH_SECONDS)) {
        const double start = clock_seconds();
        if (!run(m, e))
            return false;
        times[n] = clock_seconds() - start;
        all += times[n++];
    }
    qsort(times, n, sizeof(times[0]), compare_doubles);
    *timing = (struct timing){times[0], times[n / 2]};
    return true;
}

/* ---- the device ---- */

static bool run_kernels(struct measurement *m, struct sc_error *e)
{
    struct commands *list = &m->kernels;
    uint64_t value = 0;
    return gpu_submit(m->gpu, &list, 1, &value, e) && gpu_wait(m->gpu, value, e);
}

static bool run_copies(struct measurement *m, struct sc_error *e)
{
    struct commands *list = &m->copies;
    uint64_t value = 0;
    return gpu_submit(m->gpu, &list, 1, &value, e) && gpu_wait_transfer(m->gpu, value, e);
}

static void record_read(struct measurement *m)
{
    commands_begin(&m->kernels, true);
    for (uint32_t i = 0; i < m->sample.slabs.n; i++) {
        const struct buffer *b = &m->sample.slabs.buffers[i];
        op_read(&m->kernels, m->sums,
                (struct tensor){
                    .address = b->address, .type = SC_F32, .rows = (uint32_t)(b->size_bytes / CACHE_LINE), .cols = 16});
    }
}

/* The experts of groups `first` to `end` - 1, `repeats` times. */
static void record_experts(struct measurement *m, uint32_t first, uint32_t end, uint32_t repeats)
{
    const struct sample *s = &m->sample;
    const uint32_t n = m->n_tokens, n_pairs = n * s->n_used;
    struct tensor gate = tensor_rows(m->gate, n_pairs), up = tensor_rows(m->up, n_pairs);
    gate.cols = up.cols = m->n_ff;
    const struct tensor x = tensor_rows(m->x, n), down = tensor_rows(m->down, n_pairs);
    struct routing r = m->routing;
    r.ids.rows = n;
    struct commands *c = &m->kernels;
    commands_begin(c, true);
    if (n > 1)
        op_group(c, r,
                 (const struct expert_tensor[]){sample_tensor(s, 0, 0, m->n_ff), sample_tensor(s, 0, 1, m->n_ff),
                                                sample_tensor(s, 0, 2, m->n_ff)});
    for (uint32_t i = 0; i < repeats; i++)
        for (uint32_t g = first; g < end; g++) {
            op_expert_linear(c, gate, sample_tensor(s, g, 0, m->n_ff), x, r);
            op_expert_linear(c, up, sample_tensor(s, g, 1, m->n_ff), x, r);
            op_silu_mul(c, gate, up);
            op_expert_linear(c, down, sample_tensor(s, g, 2, m->n_ff), gate, r);
        }
}

static void record_experts_again(struct measurement *m, uint32_t repeats)
{
    record_experts(m, 0, m->sample.n_groups, repeats);
}

/* Copies from the staging buffer to all slabs, `repeats` times. */
static void record_transfer(struct measurement *m, uint32_t repeats)
{
    const struct slabs *slabs = &m->sample.slabs;
    commands_begin(&m->copies, true);
    for (uint32_t i = 0; i < repeats; i++)
        for (uint32_t s = 0; s < slabs->n; s++)
            for (uint64_t at = 0; at < slabs->sizes[s]; at += m->staging.size_bytes) {
                const uint64_t left = slabs->sizes[s] - at, most = m->staging.size_bytes;
                commands_copy(&m->copies, &m->staging, 0, &slabs->buffers[s], at, left < most ? left : most);
            }
}

static double slab_bytes(const struct measurement *m)
{
    double sum = 0;
    for (uint32_t i = 0; i < m->sample.slabs.n; i++)
        sum += (double)m->sample.slabs.sizes[i];
    return sum;
}

static bool run_upload(struct measurement *m, struct sc_error *e)
{
    return sample_upload(&m->sample, &m->upload, e) && gpu_wait_transfer(m->gpu, m->gpu->transfer.submitted, e);
}

/* Work that waits for the host, which waits for the work before: as in a layer whose experts the CPU computes. */
static bool run_trips(struct measurement *m, struct sc_error *e)
{
    struct submission chain[N_TRIPS + 1];
    const uint64_t signalled = m->gpu->host_signalled;
    for (uint32_t i = 0; i <= N_TRIPS; i++)
        chain[i] = (struct submission){.streams = &m->trip_list[i], .n_streams = 1, .wait_host = i ? signalled + i : 0};
    if (!gpu_submit_chain(m->gpu, chain, N_TRIPS + 1, e))
        return false;
    bool ok = true;
    for (uint32_t i = 0; i < N_TRIPS; i++) { /* what waits must be let go, also after a failure */
        ok = ok && gpu_wait(m->gpu, chain[i].value, e);
        ok = gpu_signal(m->gpu, signalled + i + 1, e) && ok;
    }
    return ok && gpu_wait(m->gpu, chain[N_TRIPS].value, e);
}

/* ---- the host ---- */

static bool run_host_read(struct measurement *m, struct sc_error *e)
{
    (void)e;
    /* the sum goes where it can be seen, lest the compiler leave the reading away */
    memcpy(m->host_y, &(uint64_t){host_read(m->pool, m->sample.memory, (size_t)m->sample.memory_bytes)}, sizeof(float));
    return true;
}

static void run_host_group(struct measurement *m, uint32_t group)
{
    const struct sample *s = &m->sample;
    struct expert_weights experts[SC_MAX_EXPERTS_USED];
    struct cpu_job jobs[SC_MAX_EXPERTS_USED];
    for (uint32_t k = 0; k < s->n_used; k++) {
        experts[k] = sample_expert(s, group, k, m->n_ff);
        jobs[k] = (struct cpu_job){.expert = &experts[k], .n = m->n_tokens, .y_rows = m->rows + k * m->n_tokens};
    }
    cpu_experts_run(m->cpu, jobs, s->n_used, m->host_x, m->host_y);
}

static bool run_host_experts(struct measurement *m, struct sc_error *e)
{
    (void)e;
    for (uint32_t g = 0; g < m->sample.n_groups; g++)
        run_host_group(m, g);
    return true;
}

static bool run_host_batch(struct measurement *m, struct sc_error *e)
{
    (void)e;
    run_host_group(m, 0);
    return true;
}

/* Makes the CPU ready for experts of this width. */
static bool resize_host(struct measurement *m, uint32_t n_ff, struct sc_error *e)
{
    cpu_experts_destroy(m->cpu);
    m->n_ff = n_ff;
    m->cpu = cpu_experts_create(m->pool, m->sample.n_embd, n_ff, m->sample.n_used * RATES_HOST_BATCH, NULL, e);
    return m->cpu != NULL;
}

/* ---- batches: the width grows until it takes long enough to be believed ---- */

static uint32_t narrow(const struct measurement *m)
{
    return sample_half(sample_half(sample_half(m->sample.n_ff)));
}

static double batch_flop(const struct measurement *m)
{
    return 6.0 * m->n_tokens * m->sample.n_used * m->sample.n_embd * m->n_ff;
}

static bool measure_device_batch(struct measurement *m, double *rate, struct sc_error *e)
{
    m->n_tokens = RATES_DEVICE_BATCH;
    struct timing t;
    for (m->n_ff = narrow(m);; m->n_ff = m->sample.n_ff) {
        record_experts(m, 0, 1, 1);
        if (!commands_end(&m->kernels, e) || !time_runs(m, run_kernels, &t, e))
            return false;
        if (t.median >= BATCH_SECONDS || m->n_ff == m->sample.n_ff)
            break;
    }
    *rate = batch_flop(m) / t.median;
    return true;
}

static bool measure_host_batch(struct measurement *m, uint32_t n_tokens, double *rate, struct sc_error *e)
{
    m->n_tokens = n_tokens;
    struct timing t;
    for (uint32_t n_ff = narrow(m);; n_ff = m->sample.n_ff) {
        if (!resize_host(m, n_ff, e) || !time_runs(m, run_host_batch, &t, e))
            return false;
        if (t.median >= BATCH_SECONDS || n_ff == m->sample.n_ff)
            break;
    }
    *rate = batch_flop(m) / t.median;
    return true;
}

/* ---- side by side ---- */

/*
 * The device runs what `record` records while the CPU computes experts, for so many repeats that neither waits for the
 * other to begin: `alone` are the seconds of one of them alone. One group more or less is the error.
 */
static bool measure_beside(struct measurement *m, struct commands *c, void (*record)(struct measurement *, uint32_t),
                           double alone, double host_alone, double bytes, double *device_rate, double *host_rate,
                           struct sc_error *e)
{
    const double group_seconds = host_alone / m->sample.n_groups;
    const double wanted = 8 * group_seconds > BOTH_SECONDS ? 8 * group_seconds : BOTH_SECONDS;
    const uint32_t repeats = wanted / alone < MAX_REPEATS ? 1 + (uint32_t)(wanted / alone) : MAX_REPEATS;
    uint64_t value = 0, n_groups = 0;
    bool reached = false;
    record(m, repeats);
    if (!commands_end(c, e))
        return false;
    const double start = clock_seconds();
    if (!gpu_submit(m->gpu, &c, 1, &value, e))
        return false;
    while (!reached) {
        run_host_group(m, m->group);
        m->group = (m->group + 1) % m->sample.n_groups;
        n_groups++;
        if (!gpu_poll(m->gpu, c->queue, value, &reached, e))
            return false;
    }
    const double seconds = clock_seconds() - start;
    *device_rate = repeats * bytes / seconds;
    *host_rate = (double)n_groups * (double)m->sample.weight_bytes / m->sample.n_groups / seconds;
    return c == &m->copies ? gpu_wait_transfer(m->gpu, value, e) : gpu_wait(m->gpu, value, e);
}

/* ---- all of it ---- */

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
    m->sums = f32(&at, 1, N_READERS);
    return at;
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

static bool init(struct measurement *m, const struct weights *w, const struct config *c, struct sc_error *e)
{
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
    lay_out(m, m->values.address);
    m->seen_x = (struct tensor){.address = m->seen.address, .type = SC_F32, .rows = 1, .cols = s->n_embd};
    memset(m->staging.mapped, 0, (size_t)m->staging.size_bytes);

    if (!commands_init(&m->kernels, m->gpu, e) || !commands_init_transfer(&m->copies, m->gpu, e))
        return false;
    for (uint32_t i = 0; i <= N_TRIPS; i++) {
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

static void finish(struct measurement *m)
{
    m->gpu->vk.vkDeviceWaitIdle(m->gpu->device);
    cpu_experts_destroy(m->cpu);
    for (uint32_t i = 0; i <= N_TRIPS; i++)
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

static bool measure(struct measurement *m, struct rates *r, struct sc_error *e)
{
    const double weights = (double)m->sample.weight_bytes, memory = (double)m->sample.memory_bytes;
    const double slabs = slab_bytes(m);
    struct timing upload, device_read, host_read, host, device, transfer, trips;
    if (!time_runs(m, run_upload, &upload, e))
        return false;
    record_read(m);
    if (!commands_end(&m->kernels, e) || !time_runs(m, run_kernels, &device_read, e) ||
        !measure_device_batch(m, &r->device_batch, e) ||
        !measure_host_batch(m, RATES_SMALL_BATCH, &r->host_batch_small, e) ||
        !measure_host_batch(m, RATES_HOST_BATCH, &r->host_batch, e))
        return false;

    m->n_tokens = 1;
    if (!resize_host(m, m->sample.n_ff, e) || !time_runs(m, run_host_experts, &host, e) ||
        !time_runs(m, run_host_read, &host_read, e))
        return false;
    record_experts_again(m, 1);
    if (!commands_end(&m->kernels, e) || !time_runs(m, run_kernels, &device, e) ||
        !measure_beside(m, &m->kernels, record_experts_again, device.median, host.median, weights,
                        &r->device_beside_host, &r->host_beside_device, e))
        return false;
    record_transfer(m, 1);
    if (!commands_end(&m->copies, e) || !time_runs(m, run_copies, &transfer, e) ||
        !measure_beside(m, &m->copies, record_transfer, transfer.median, host.median, slabs, &r->transfer_beside_host,
                        &r->host_beside_transfer, e) ||
        !time_runs(m, run_trips, &trips, e))
        return false;

    r->device_expert = weights / device.median;
    r->host_expert = weights / host.median;
    r->upload = memory / upload.median;
    r->transfer = slabs / transfer.median;
    r->round_trip = trips.median / N_TRIPS;
    /* plain reading is a bound: its best run counts, and those of what computes, which has read as well */
    r->device_read = fmax(slabs / device_read.least, weights / device.least);
    r->host_read = fmax(memory / host_read.least, weights / host.least);
    return true;
}

bool rates_measure(struct rates *r, struct gpu *gpu, const struct weights *w, const struct config *c,
                   struct cpu_pool *pool, struct sc_error *e)
{
    struct measurement *m = calloc(1, sizeof(*m));
    if (!m)
        return sc_fail_memory(e, "the measurement of this machine");
    m->gpu = gpu;
    m->pool = pool;
    const bool ok = init(m, w, c, e) && measure(m, r, e);
    finish(m);
    free(m);
    return ok && (rates_are_plausible(r) ||
                  sc_fail(e, SC_UNSUPPORTED, "%s and this processor were measured with an impossible result",
                          gpu->info.name));
}
