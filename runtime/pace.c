/* SPDX-License-Identifier: Apache-2.0 */
#include "pace.h"

#include "clock.h"

/* Of a submission, and of what nothing cuts; and the least of the latter in multiply-adds. */
static const double PIECE_SECONDS = 0.08, DISPATCH_SECONDS = 0.04, MIN_WORK = 1e8;

/* A measurement may be wrong, so a rate grows by no more than this at once. */
static const double MOST_GROWTH = 4;

void pace_begin(struct pace *p, struct commands *const *streams, uint32_t n_streams, uint32_t n)
{
    p->n = n;
    p->pass_work = p->submitted_work = 0;
    for (uint32_t i = 0; i < n_streams; i++)
        for (uint32_t k = 0; k < streams[i]->n_pieces; k++)
            p->pass_work += streams[i]->pieces[k].work;
}

bool pace_report(struct pace *p, double part, struct sc_error *e)
{
    const uint64_t done = p->n_done + (uint64_t)((part < 1 ? part : 1) * p->n);
    if (p->n < 2 || !p->progress || p->progress(p->user, SC_PHASE_PREFILL, done, p->n_total))
        return true;
    return sc_fail(e, SC_CANCELLED, "the prompt was cancelled");
}

/* Waits for the piece that is under way while this one queues behind it. */
static bool follow(struct pace *p, uint64_t value, double work, double start, struct sc_error *e)
{
    const uint64_t before = p->last.value;
    const double before_work = p->last.work, before_start = p->last.start;
    p->last.value = value;
    p->last.work = work;
    p->last.start = start;
    if (!before)
        return true;
    bool had_ended;
    if (!gpu_poll(p->gpu, &p->gpu->compute, before, &had_ended, e) || !gpu_wait(p->gpu, before, e))
        return false;
    const double now = clock_seconds(), took = now - (before_start > p->ended ? before_start : p->ended);
    const double rate = before_work / took;
    if (!had_ended && took > p->longest)
        p->longest = took;
    /* one that ended unseen took less than this: its rate is a lower bound */
    if (before_work > 0 && took > 0 && (!had_ended || rate > p->rate)) {
        p->rate = p->rate > 0 && rate > MOST_GROWTH * p->rate ? MOST_GROWTH * p->rate : rate;
        p->gpu->piece_work = p->rate * DISPATCH_SECONDS > MIN_WORK ? p->rate * DISPATCH_SECONDS : MIN_WORK;
    }
    p->ended = now;
    return pace_report(p, p->pass_work > 0 ? (p->submitted_work - work) / p->pass_work : 0, e);
}

static uint32_t count_pieces(struct commands *const *streams, uint32_t n_streams)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_streams; i++)
        n += streams[i]->n_pieces;
    return n;
}

static double work_of(struct commands *const *streams, uint32_t piece)
{
    for (; piece >= (*streams)->n_pieces; streams++)
        piece -= (*streams)->n_pieces;
    return (*streams)->pieces[piece].work;
}

bool pace_submit(struct pace *p, struct commands *const *streams, uint32_t n_streams, uint64_t *value,
                 struct sc_error *e)
{
    const uint32_t n_pieces = count_pieces(streams, n_streams);
    for (uint32_t first = 0, n = 0; first < n_pieces; first += n) {
        double work = work_of(streams, first);
        for (n = 1; first + n < n_pieces && work + work_of(streams, first + n) <= p->rate * PIECE_SECONDS; n++)
            work += work_of(streams, first + n);
        struct submission s = {.streams = streams, .n_streams = n_streams, .first_piece = first, .n_pieces = n};
        const double start = clock_seconds();
        if (!gpu_submit_chain(p->gpu, &s, 1, e))
            return false;
        *value = s.value;
        p->submitted_work += work;
        if (!follow(p, s.value, work, start, e))
            return false;
    }
    return true;
}
