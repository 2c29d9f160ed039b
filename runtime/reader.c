/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* O_DIRECT */
#include "reader.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* Large enough that a read costs nothing beside its bytes, and small enough that one expert keeps all threads busy. */
enum { N_THREADS = 8, MAX_READ_BYTES = 1 << 20 };

struct reader {
    pthread_mutex_t mutex;
    pthread_cond_t work;     /* there is something to read, or the end has come */
    pthread_cond_t finished; /* of some job, nothing is left to do */
    struct read_job *first;  /* of those of which something has not begun */
    uint64_t total_bytes;
    bool cached;
    bool stop;
    uint32_t n_threads;
    pthread_t threads[N_THREADS];
};

/* A part of a range that is read at once. */
struct piece {
    struct read_job *job;
    uint32_t range;
    uint64_t offset;
    uint64_t size_bytes;
    uint8_t *to;
};

static uint64_t round_up(uint64_t n)
{
    return (n + READ_ALIGNMENT - 1) / READ_ALIGNMENT * READ_ALIGNMENT;
}

/* With the lock: takes the next piece off the queue, which is not empty. */
static struct piece take_piece(struct reader *r)
{
    struct read_job *job = r->first;
    const struct read_range *range = &job->ranges[job->range];
    const uint64_t left = range->size_bytes - job->begun_bytes;
    const struct piece p = {.job = job,
                            .range = job->range,
                            .offset = range->offset + job->begun_bytes,
                            .size_bytes = left < MAX_READ_BYTES ? left : MAX_READ_BYTES,
                            .to = range->to + job->begun_bytes};
    job->n_running++;
    job->begun_bytes += p.size_bytes;
    if (job->begun_bytes == range->size_bytes) {
        job->begun_bytes = 0;
        job->range++;
    }
    if (job->range == job->n_ranges)
        r->first = job->next;
    return p;
}

/* With the lock: what has not begun of the job never will. */
static void abandon(struct reader *r, struct read_job *job)
{
    struct read_job **at = &r->first;
    while (*at && *at != job)
        at = &(*at)->next;
    if (*at)
        *at = job->next;
    job->range = job->n_ranges;
}

static int read_piece(const struct reader *r, const struct piece *p)
{
    const int fd = p->job->ranges[p->range].fd;
    bool refused = false;
    for (uint64_t got = 0; got < p->size_bytes;) {
        const ssize_t n = pread(fd, p->to + got, round_up(p->size_bytes) - got, (off_t)(p->offset + got));
        if (n > 0) {
            got += (uint64_t)n;
        } else if (n == 0) {
            return READ_ENDED;
        } else if (errno == EINVAL && !refused) { /* file systems may take O_DIRECT and refuse it here */
            refused = true;
            (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT);
        } else if (errno != EINTR) {
            return errno;
        }
    }
    if (!r->cached)
        (void)posix_fadvise(fd, (off_t)p->offset, (off_t)p->size_bytes, POSIX_FADV_DONTNEED);
    return 0;
}

static void *work(void *context)
{
    struct reader *r = context;
    pthread_mutex_lock(&r->mutex);
    for (;;) {
        while (!r->first && !r->stop)
            pthread_cond_wait(&r->work, &r->mutex);
        if (r->stop)
            break;
        const struct piece p = take_piece(r);
        struct read_job *job = p.job;
        pthread_mutex_unlock(&r->mutex);
        const int failure = read_piece(r, &p);
        pthread_mutex_lock(&r->mutex);
        r->total_bytes += failure ? 0 : p.size_bytes;
        if (failure && !job->failure) {
            job->failure = failure;
            job->failed_range = p.range;
            job->failed_at = p.offset;
            abandon(r, job);
        }
        job->n_running--;
        if (job->n_running == 0 && job->range == job->n_ranges) {
            job->done = true;
            pthread_cond_broadcast(&r->finished);
        }
    }
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

struct reader *reader_create(bool cached, struct sc_error *e)
{
    struct reader *r = calloc(1, sizeof(*r));
    if (!r) {
        sc_fail_memory(e, "the reading threads");
        return NULL;
    }
    r->cached = cached;
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->work, NULL);
    pthread_cond_init(&r->finished, NULL);
    while (r->n_threads < N_THREADS && pthread_create(&r->threads[r->n_threads], NULL, work, r) == 0)
        r->n_threads++;
    if (r->n_threads > 0) /* fewer are slower, that is all */
        return r;
    reader_destroy(r);
    sc_fail_memory(e, "the reading threads");
    return NULL;
}

void reader_destroy(struct reader *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->mutex);
    r->stop = true;
    pthread_cond_broadcast(&r->work);
    pthread_mutex_unlock(&r->mutex);
    for (uint32_t i = 0; i < r->n_threads; i++)
        pthread_join(r->threads[i], NULL);
    pthread_cond_destroy(&r->finished);
    pthread_cond_destroy(&r->work);
    pthread_mutex_destroy(&r->mutex);
    free(r);
}

void reader_start(struct reader *r, struct read_job *job)
{
    job->next = NULL;
    job->range = job->n_running = 0;
    job->begun_bytes = 0;
    job->done = false;
    job->failure = 0;
    pthread_mutex_lock(&r->mutex);
    struct read_job **at = &r->first;
    while (*at)
        at = &(*at)->next;
    *at = job;
    pthread_cond_broadcast(&r->work);
    pthread_mutex_unlock(&r->mutex);
}

bool reader_is_done(struct reader *r, struct read_job *job)
{
    pthread_mutex_lock(&r->mutex);
    const bool done = job->done;
    pthread_mutex_unlock(&r->mutex);
    return done;
}

bool reader_wait(struct reader *r, struct read_job *job)
{
    pthread_mutex_lock(&r->mutex);
    struct read_job **at = &r->first;
    while (*at && *at != job)
        at = &(*at)->next;
    if (*at) { /* some of it has not begun: to the front */
        *at = job->next;
        job->next = r->first;
        r->first = job;
    }
    while (!job->done)
        pthread_cond_wait(&r->finished, &r->mutex);
    pthread_mutex_unlock(&r->mutex);
    return job->failure == 0;
}

uint64_t reader_total_bytes(struct reader *r)
{
    pthread_mutex_lock(&r->mutex);
    const uint64_t total = r->total_bytes;
    pthread_mutex_unlock(&r->mutex);
    return total;
}
