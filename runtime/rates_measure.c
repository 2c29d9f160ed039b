/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "host_read.h"
#include "measurement.h"
#include "rates.h"

enum { MIN_RUNS = 3, MAX_RUNS = 7, MAX_REPEATS = 200, CACHE_LINE = 64 };

static const double STEADY = 1.5, /* of the least time is the median where nobody else is at work */
    TOO_SHORT = 1e-3,             /* seconds, to tell that from chance */
    ENOUGH_SECONDS = 0.05,        /* for one rate, once there are MIN_RUNS runs */
    BATCH_SECONDS = 0.01,         /* a batch of experts this long is as good as a longer one */
    BOTH_SECONDS = 0.02;          /* the least for the device and the CPU side by side */

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
    m->is_steady &= timing->median <= fmax(STEADY * timing->least, TOO_SHORT);
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
    for (uint32_t i = 0; i < repeats; i++) {
        for (uint32_t g = first; g < end; g++) {
            op_expert_linear(c, gate, sample_tensor(s, g, 0, m->n_ff), x, r);
            op_expert_linear(c, up, sample_tensor(s, g, 1, m->n_ff), x, r);
            op_silu_mul(c, gate, up);
            op_expert_linear(c, down, sample_tensor(s, g, 2, m->n_ff), gate, r);
        }
        commands_work(c, m->gpu->piece_work); /* a piece ends */
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
    for (uint32_t i = 0; i < repeats; i++) {
        for (uint32_t s = 0; s < slabs->n; s++)
            for (uint64_t at = 0; at < slabs->sizes[s]; at += m->staging.size_bytes) {
                const uint64_t left = slabs->sizes[s] - at, most = m->staging.size_bytes;
                commands_copy(&m->copies, &m->staging, 0, &slabs->buffers[s], at, left < most ? left : most);
            }
        commands_work(&m->copies, m->gpu->piece_work); /* a piece ends */
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
    struct submission chain[MEASURED_TRIPS + 1];
    const uint64_t signalled = m->gpu->host_signalled;
    for (uint32_t i = 0; i <= MEASURED_TRIPS; i++)
        chain[i] = (struct submission){.streams = &m->trip_list[i], .n_streams = 1, .wait_host = i ? signalled + i : 0};
    if (!gpu_submit_chain(m->gpu, chain, MEASURED_TRIPS + 1, e))
        return false;
    bool ok = true;
    for (uint32_t i = 0; i < MEASURED_TRIPS; i++) { /* what waits must be let go, also after a failure */
        ok = ok && gpu_wait(m->gpu, chain[i].value, e);
        ok = gpu_signal(m->gpu, signalled + i + 1, e) && ok;
    }
    return ok && gpu_wait(m->gpu, chain[MEASURED_TRIPS].value, e);
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

/* Each piece on its own, or systems would kill what a slow processor makes long. *value: of the last one. */
static bool submit_pieces(struct measurement *m, struct commands *c, uint64_t *value, struct sc_error *e)
{
    struct submission pieces[COMMANDS_MAX_PIECES];
    for (uint32_t i = 0; i < c->n_pieces; i++)
        pieces[i] = (struct submission){.streams = &c, .n_streams = 1, .first_piece = i, .n_pieces = 1};
    const bool ok = gpu_submit_chain(m->gpu, pieces, c->n_pieces, e);
    *value = pieces[c->n_pieces - 1].value;
    return ok;
}

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
    if (!submit_pieces(m, c, &value, e))
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
    r->round_trip = trips.median / MEASURED_TRIPS;
    /* plain reading is a bound: its best run counts, and those of what computes, which has read as well */
    r->device_read = fmax(slabs / device_read.least, weights / device.least);
    r->host_read = fmax(memory / host_read.least, weights / host.least);
    return true;
}

bool rates_measure(struct rates *r, bool *steady, struct gpu *gpu, const struct weights *w, const struct config *c,
                   struct cpu_pool *pool, struct sc_error *e)
{
    struct measurement *m = calloc(1, sizeof(*m));
    if (!m)
        return sc_fail_memory(e, "the measurement of this machine");
    const bool ok = measurement_init(m, gpu, pool, w, c, e) && measure(m, r, e);
    *steady = m->is_steady;
    measurement_finish(m);
    free(m);
    return ok && (rates_are_plausible(r) ||
                  sc_fail(e, SC_UNSUPPORTED, "%s and this processor were measured with an impossible result",
                          gpu->info.name));
}
