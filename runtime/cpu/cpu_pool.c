/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* pthread_setaffinity_np */
#include "cpu_pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* About 20 us: the gap between two jobs of one layer, not the one between two layers. */
enum { SPINS = 1000 };

struct cpu_pool {
    /* the job: written while nothing is left to do, read by who holds an item of it */
    void (*work)(void *context, uint32_t item);
    void *context;
    uint32_t n_items;

    _Alignas(64) atomic_uint left; /* items that nobody has taken */
    _Alignas(64) atomic_uint done; /* items that are finished */

    pthread_mutex_t mutex;
    pthread_cond_t wake;     /* there are items, or the end has come */
    pthread_cond_t finished; /* the last item is done */
    bool stop;

    uint32_t n_threads, n_started; /* n_started: without the caller's */
    pthread_t *threads;            /* (n_threads - 1) */
};

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/*
 * Does one item if there is any. A taken item keeps its job alive, so a thread that comes late finds either nothing or
 * an item of the job that is current by then.
 */
static bool work_once(struct cpu_pool *p)
{
    unsigned left = atomic_load_explicit(&p->left, memory_order_relaxed);
    do {
        if (left == 0)
            return false;
    } while (
        !atomic_compare_exchange_weak_explicit(&p->left, &left, left - 1, memory_order_acquire, memory_order_relaxed));
    uint32_t n_items = p->n_items;
    p->work(p->context, n_items - left);
    if (atomic_fetch_add_explicit(&p->done, 1, memory_order_acq_rel) + 1 == n_items) {
        pthread_mutex_lock(&p->mutex); /* the caller is either before its check or asleep */
        pthread_cond_signal(&p->finished);
        pthread_mutex_unlock(&p->mutex);
    }
    return true;
}

static void *thread_main(void *argument)
{
    struct cpu_pool *p = argument;
    for (;;) {
        for (int i = 0; i < SPINS; i++) {
            if (work_once(p))
                i = 0;
            pause_briefly();
        }
        pthread_mutex_lock(&p->mutex);
        while (!p->stop && atomic_load_explicit(&p->left, memory_order_relaxed) == 0)
            pthread_cond_wait(&p->wake, &p->mutex);
        bool stop = p->stop;
        pthread_mutex_unlock(&p->mutex);
        if (stop)
            return NULL;
    }
}

void cpu_pool_run(struct cpu_pool *p, void (*work)(void *context, uint32_t item), void *context, uint32_t n_items)
{
    if (n_items == 0)
        return;
    p->work = work;
    p->context = context;
    p->n_items = n_items;
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store_explicit(&p->left, n_items, memory_order_release);

    pthread_mutex_lock(&p->mutex); /* a thread is either before its check or asleep */
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);

    while (work_once(p))
        ;
    for (int i = 0; i < SPINS && atomic_load_explicit(&p->done, memory_order_acquire) < n_items; i++)
        pause_briefly();
    if (atomic_load_explicit(&p->done, memory_order_acquire) < n_items) {
        pthread_mutex_lock(&p->mutex);
        while (atomic_load_explicit(&p->done, memory_order_acquire) < n_items)
            pthread_cond_wait(&p->finished, &p->mutex);
        pthread_mutex_unlock(&p->mutex);
    }
}

/* Thread i stays on the i-th processor that we may use. Without this the pool only runs a little less evenly. */
static void pin(pthread_t thread, uint32_t i)
{
#if defined(__linux__)
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) == 0)
        return;
    i %= (uint32_t)CPU_COUNT(&allowed);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || i-- > 0)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_setaffinity_np(thread, sizeof one, &one);
        return;
    }
#else
    (void)thread, (void)i;
#endif
}

struct cpu_pool *cpu_pool_create(uint32_t n_threads, struct sc_error *e)
{
    struct cpu_pool *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    if (!p) {
        sc_fail_memory(e, "the CPU's threads");
        return NULL;
    }
    *p = (struct cpu_pool){.n_threads = n_threads ? n_threads : cpu_count()};
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->finished, NULL);
    p->threads = calloc(p->n_threads, sizeof p->threads[0]);
    if (!p->threads) {
        sc_fail_memory(e, "the CPU's threads");
        cpu_pool_destroy(p);
        return NULL;
    }
    for (; p->n_started + 1 < p->n_threads; p->n_started++) {
        if (pthread_create(&p->threads[p->n_started], NULL, thread_main, p) != 0) {
            sc_fail(e, SC_OUT_OF_MEMORY, "cannot start thread %u of %u", p->n_started + 2, p->n_threads);
            cpu_pool_destroy(p);
            return NULL;
        }
        pin(p->threads[p->n_started], p->n_started + 1);
    }
    return p;
}

void cpu_pool_destroy(struct cpu_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->mutex);
    p->stop = true;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);
    for (uint32_t i = 0; i < p->n_started; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->finished);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->mutex);
    free(p->threads);
    free(p);
}

uint32_t cpu_pool_threads(const struct cpu_pool *p)
{
    return p->n_threads;
}
