/* SPDX-License-Identifier: Apache-2.0 */
#include "pace.h"

#include <string.h>

#include "clock.h"

/* Of a submission, and of what nothing cuts; and the least of the latter in multiply-adds. */
static const double PIECE_SECONDS = 0.08, DISPATCH_SECONDS = 0.04, MIN_WORK = 1e8;

/* Of a submission, at most: what may have taken longer is taken for that. */
static const double LONGEST_SECONDS = 0.1;

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

bool pace_tell(struct pace *p, struct sc_error *e)
{
    const double ended = p->submitted_work - p->under_way[0].work - p->under_way[1].work;
    return pace_report(p, p->pass_work > 0 ? ended / p->pass_work : 0, e);
}

/*
 * Waits for the older piece. How long it took is known if both its ends are: it began when it was submitted, or when
 * the host saw the one before it end. Else it took no longer than this, and its rate is a lower bound, which
 * counts if the host had to wait for it so long that it may have been too large.
 */
static bool end_older(struct pace *p, struct sc_error *e)
{
    const struct piece one = p->under_way[0];
    bool had_ended;
    p->under_way[0] = p->under_way[1];
    p->under_way[1] = (struct piece){0};
    if (!gpu_poll(p->gpu, &p->gpu->compute, one.value, &had_ended, e) || !gpu_wait(p->gpu, one.value, e))
        return false;
    const bool queued = p->ended > one.start;
    const double now = clock_seconds(), took = now - (queued && p->was_seen ? p->ended : one.start);
    const bool is_timed = !had_ended && !one.waits && (!queued || p->was_seen);
    const bool may_be_long = !had_ended && took > LONGEST_SECONDS;
    const double rate = one.work / took;
    if (is_timed && took > p->longest)
        p->longest = took;
    if (one.work > 0 && took > 0 && (is_timed || may_be_long || rate > p->rate)) {
        p->rate = p->rate > 0 && rate > MOST_GROWTH * p->rate ? MOST_GROWTH * p->rate : rate;
        p->gpu->piece_work = p->rate * DISPATCH_SECONDS > MIN_WORK ? p->rate * DISPATCH_SECONDS : MIN_WORK;
    }
    p->ended = now;
    p->was_seen = !had_ended;
    return pace_tell(p, e);
}

bool pace_wait(struct pace *p, struct sc_error *e)
{
    while (p->under_way[0].value)
        if (!end_older(p, e))
            return false;
    return true;
}

void pace_abandon(struct pace *p)
{
    memset(p->under_way, 0, sizeof(p->under_way));
}

static bool submit(struct pace *p, struct submission *s, double work, struct sc_error *e)
{
    bool copied;
    if ((p->under_way[1].value && !end_older(p, e)) ||
        !gpu_poll(p->gpu, &p->gpu->transfer, p->gpu->transfer.submitted, &copied, e))
        return false;
    const double start = clock_seconds();
    if (!gpu_submit_chain(p->gpu, s, 1, e))
        return false;
    p->under_way[p->under_way[0].value ? 1 : 0] = (struct piece){s->value, work, start, !copied};
    p->submitted_work += work;
    return true;
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
        if (!submit(p, &s, work, e))
            return false;
        *value = s.value;
    }
    return true;
}
