/* SPDX-License-Identifier: Apache-2.0 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_GUARDS = 1024 };
static const uintptr_t CLAIMED = 1; /* no mapping begins there */

/* Read by the signal handler at any moment: nothing but atomics, and `begin` is written last. */
struct guard {
    atomic_uintptr_t begin; /* 0: free */
    atomic_size_t size_bytes;
    atomic_bool was_hit;
};

static struct guard guards[MAX_GUARDS];
static struct sigaction previous;
static uintptr_t page_bytes;

/* Guards of other mappings come and go meanwhile: a size counts only if the same mapping began before and after it. */
static struct guard *find(uintptr_t address, uintptr_t *end)
{
    for (size_t i = 0; i < MAX_GUARDS; i++) {
        struct guard *g = &guards[i];
        const uintptr_t begin = atomic_load(&g->begin);
        const size_t size_bytes = atomic_load(&g->size_bytes);
        if (begin > CLAIMED && address - begin < size_bytes && atomic_load(&g->begin) == begin) {
            *end = begin + size_bytes;
            return g;
        }
    }
    return NULL;
}

/* Zeros from the page of the address to the end of the mapping. Of a damaged file nothing more is wanted, and a page at
   a time would be a signal for every 4 KiB of a large one. */
static bool patch(struct guard *g, uintptr_t address, uintptr_t end)
{
    const uintptr_t page = address / page_bytes * page_bytes;
    atomic_store(&g->was_hit, true);
    return mmap((void *)page, end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
}

static void pass_on(int number, siginfo_t *info, void *context)
{
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(number);
    } else if (previous.sa_handler == SIG_DFL || info->si_code > 0) { /* a fault cannot be ignored */
        signal(number, SIG_DFL);
        raise(number); /* blocked until this handler returns */
    }
}

static void handle(int number, siginfo_t *info, void *context)
{
    const int code = errno; /* of what was interrupted */
    const uintptr_t address = (uintptr_t)info->si_addr;
    uintptr_t end = 0;
    struct guard *g = info->si_code > 0 ? find(address, &end) : NULL; /* others are sent, without an address */
    if (!g || !patch(g, address, end))
        pass_on(number, info, context);
    errno = code;
}

static void install(void)
{
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, NULL, &previous); /* first: the new handler may run at once */
    sigaction(SIGBUS, &action, NULL);
}

struct guard *guard_add(const void *data, size_t size_bytes)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
    for (size_t i = 0; i < MAX_GUARDS; i++) {
        uintptr_t unused = 0;
        if (!atomic_compare_exchange_strong(&guards[i].begin, &unused, CLAIMED))
            continue;
        atomic_store(&guards[i].size_bytes, size_bytes);
        atomic_store(&guards[i].was_hit, false);
        atomic_store(&guards[i].begin, (uintptr_t)data);
        return &guards[i];
    }
    return NULL;
}

void guard_remove(struct guard *g)
{
    if (g)
        atomic_store(&g->begin, 0);
}

bool guard_was_hit(const struct guard *g)
{
    return atomic_load(&g->was_hit);
}
