/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* memfd_create, MAP_ANONYMOUS, MADV_NOHUGEPAGE */
#include "synthetic.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "random_blocks.h"

enum {
    N_TYPES = SC_BF16 + 1,
    N_KINDS = 2 * N_TYPES,
    MAX_THREADS = 64,
    PIECES_PER_ROUND = 256,
    MAX_VECTOR_BYTES = 4 << 20
};

static const uint64_t MOST_BYTES = UINT64_C(1) << 60;
static const uint64_t MOST_VECTOR_BYTES = 256 << 20; /* of all vectors; a large model's norms are 16 MB */
static const uint64_t PATTERN_BYTES = 4 << 20; /* of random blocks, which repeat: many rows of any matrix differ */

static uint64_t round_up(uint64_t n, uint64_t step)
{
    return (n + step - 1) / step * step;
}

static uint64_t page_bytes(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

static bool is_vector(const struct sc_gguf_tensor *t)
{
    return t->n_dims == 1 && t->type == SC_F32 && t->size_bytes <= MAX_VECTOR_BYTES;
}

bool synthetic_init(struct synthetic *s, struct sc_gguf_tensor *tensors, size_t n, struct sc_error *e)
{
    *s = (struct synthetic){0};
    uint64_t total = 0, vectors = 0;
    for (size_t i = 0; i < n; i++) {
        if (tensors[i].size_bytes > MOST_BYTES || total > MOST_BYTES)
            return sc_fail(e, SC_UNSUPPORTED, "the model's tensors are more than this machine's addresses reach");
        total += round_up(tensors[i].size_bytes, page_bytes());
        vectors += is_vector(&tensors[i]) ? round_up(tensors[i].size_bytes, page_bytes()) : 0;
    }
    if (vectors > MOST_VECTOR_BYTES)
        return sc_fail(e, SC_BAD_FILE, "the header tells of %.1f GB of vectors, more than any model has",
                       (double)vectors / 1e9);
    if (total == 0)
        return true;
    void *region = total > SIZE_MAX ? MAP_FAILED
                                    : mmap(NULL, (size_t)total, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (region == MAP_FAILED)
        return sc_fail(e, SC_OUT_OF_MEMORY, "cannot reserve addresses for %.1f GB of weights", (double)total / 1e9);
    s->region = region;
    s->region_bytes = (size_t)total;
    (void)madvise(region, s->region_bytes, MADV_NOHUGEPAGE); /* a mapped file has none either */

    uint8_t *at = s->region;
    for (size_t i = 0; i < n; i++) {
        struct sc_gguf_tensor *t = &tensors[i];
        if (t->size_bytes == 0)
            continue;
        t->data = at;
        if (is_vector(t))
            for (uint64_t k = 0; k < t->shape[0]; k++)
                memcpy(at + 4 * k, &(float){1}, sizeof(float));
        at += round_up(t->size_bytes, page_bytes());
    }
    return true;
}

void synthetic_finish(struct synthetic *s)
{
    if (s->region)
        munmap(s->region, s->region_bytes);
    *s = (struct synthetic){0};
}

/*
 * A kind of memory is a type, or N_TYPES more for the embeddings, whose weights are as large as activations: tokens
 * stay different through the layers, and so the routers choose as by chance.
 */
static uint32_t kind_of(const struct sc_gguf_tensor *t)
{
    static const char embeddings[] = "token_embd.weight";
    const bool is_embedding =
        t->name.size_bytes == sizeof embeddings - 1 && memcmp(t->name.data, embeddings, sizeof embeddings - 1) == 0;
    return is_embedding ? N_TYPES + t->type : t->type;
}

static const struct sc_type_info *info_of(uint32_t kind)
{
    return sc_type_info(kind % N_TYPES);
}

/* ---- filling memory with the pattern of its kind ---- */

struct pattern {
    uint8_t *blocks;
    uint64_t size_bytes;
};

struct piece {
    uint8_t *to;
    uint64_t size_bytes; /* at most the pattern's */
    uint32_t kind;
};

struct filling {
    uint64_t totals[N_KINDS]; /* bytes of all tensors */
    struct pattern patterns[N_KINDS];
    struct piece *pieces;
    size_t n, capacity;
    atomic_size_t next;
    size_t end;    /* of the round */
    float sigma;   /* deviation of the weights */
    bool populate; /* the bytes are there: only make their pages known to the processor */
};

/* Random blocks of this kind, made when they are first asked for. */
static bool need_pattern(struct filling *f, uint32_t kind)
{
    struct pattern *p = &f->patterns[kind];
    if (p->blocks)
        return true;
    const uint32_t block_bytes = info_of(kind)->block_bytes;
    p->size_bytes = (f->totals[kind] < PATTERN_BYTES ? f->totals[kind] : PATTERN_BYTES) / block_bytes * block_bytes;
    p->blocks = malloc((size_t)p->size_bytes);
    uint64_t seed = kind + 1;
    if (p->blocks)
        random_blocks(p->blocks, info_of(kind)->type, (size_t)(p->size_bytes / block_bytes),
                      kind < N_TYPES ? f->sigma : 1, &seed);
    return p->blocks != NULL;
}

/* size_bytes bytes, whole blocks, to be filled later. */
static bool add(struct filling *f, uint8_t *to, uint64_t size_bytes, uint32_t kind)
{
    if (!need_pattern(f, kind))
        return false;
    const uint64_t step = f->patterns[kind].size_bytes, n = (size_bytes + step - 1) / step;
    if (f->capacity - f->n < n) {
        const size_t capacity = 2 * f->capacity + (size_t)n;
        struct piece *pieces = realloc(f->pieces, capacity * sizeof *pieces);
        if (!pieces)
            return false;
        f->pieces = pieces;
        f->capacity = capacity;
    }
    for (uint64_t at = 0; at < size_bytes; at += step)
        f->pieces[f->n++] =
            (struct piece){.to = to + at, .size_bytes = size_bytes - at < step ? size_bytes - at : step, .kind = kind};
    return true;
}

/* Each piece begins elsewhere in the pattern: no two matrices are the same. */
static void fill_piece(const struct filling *f, size_t i)
{
    const struct piece *piece = &f->pieces[i];
    const struct pattern *p = &f->patterns[piece->kind];
    const uint32_t block_bytes = info_of(piece->kind)->block_bytes;
    const uint64_t from = i * 9973 % (p->size_bytes / block_bytes) * block_bytes, left = p->size_bytes - from;
    const uint64_t first = piece->size_bytes < left ? piece->size_bytes : left;
    memcpy(piece->to, p->blocks + from, (size_t)first);
    memcpy(piece->to + first, p->blocks, (size_t)(piece->size_bytes - first));
}

/* Or each page would cost a fault when it is first read, in the middle of what is measured. */
static void populate_piece(const struct piece *piece)
{
#ifdef MADV_POPULATE_READ
    uint8_t *first = (uint8_t *)((uintptr_t)piece->to / page_bytes() * page_bytes());
    (void)madvise(first, (size_t)(piece->to + piece->size_bytes - first), MADV_POPULATE_READ);
#else
    (void)piece;
#endif
}

static void *fill_pieces(void *context)
{
    struct filling *f = context;
    for (size_t i; (i = f->next++) < f->end;)
        if (f->populate)
            populate_piece(&f->pieces[i]);
        else
            fill_piece(f, i);
    return NULL;
}

static bool fill_all(struct filling *f, uint32_t n_threads, bool (*progress)(void *user, uint64_t done, uint64_t total),
                     void *user, struct sc_error *e)
{
    pthread_t threads[MAX_THREADS];
    for (size_t from = 0; from < f->n; from = f->end) {
        f->end = f->n - from < PIECES_PER_ROUND ? f->n : from + PIECES_PER_ROUND;
        f->next = from;
        uint32_t n = 0;
        while (n + 1 < n_threads && n < MAX_THREADS && pthread_create(&threads[n], NULL, fill_pieces, f) == 0)
            n++;
        fill_pieces(f);
        while (n > 0)
            pthread_join(threads[--n], NULL);
        if (progress && !progress(user, f->end, f->n))
            return sc_fail(e, SC_CANCELLED, "making up the weights was cancelled");
    }
    return true;
}

/* ---- sharing: a pool of pages for each kind, which its tensors take in turn, again and again ---- */

struct pool {
    int fd;
    uint8_t *bytes; /* mapped to be filled */
    uint64_t size_bytes, unit, next;
};

/* The least that is both whole pages and whole blocks. */
static uint64_t unit_of(uint32_t kind)
{
    uint64_t unit = page_bytes();
    while (unit % info_of(kind)->block_bytes)
        unit += page_bytes();
    return unit;
}

static bool pool_init(struct pool *p, uint32_t kind, uint64_t size_bytes, struct sc_error *e)
{
    p->unit = unit_of(kind);
    p->size_bytes = size_bytes / p->unit * p->unit;
    if (p->size_bytes == 0)
        p->size_bytes = p->unit;
    p->fd = memfd_create("scoria-weights", MFD_CLOEXEC);
    if (p->fd >= 0 && ftruncate(p->fd, (off_t)p->size_bytes) == 0) {
        void *bytes = mmap(NULL, (size_t)p->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
        p->bytes = bytes == MAP_FAILED ? NULL : bytes;
    }
    return p->bytes || sc_fail(e, SC_OUT_OF_MEMORY, "cannot get %.1f GB of memory for made-up weights: %s",
                               (double)p->size_bytes / 1e9, strerror(errno));
}

static void pool_finish(struct pool *p)
{
    if (p->bytes)
        munmap(p->bytes, (size_t)p->size_bytes);
    if (p->unit && p->fd >= 0)
        close(p->fd);
}

/* Puts pages of the pool where the tensor's data is. */
static bool pool_map(struct pool *p, const struct sc_gguf_tensor *t, struct sc_error *e)
{
    const uint64_t all = round_up(t->size_bytes, page_bytes());
    for (uint64_t at = 0, n; at < all; at += n) {
        n = all - at < p->size_bytes - p->next ? all - at : p->size_bytes - p->next;
        if (mmap((uint8_t *)(uintptr_t)t->data + at, (size_t)n, PROT_READ, MAP_SHARED | MAP_FIXED, p->fd,
                 (off_t)p->next) == MAP_FAILED)
            return sc_fail(e, SC_OUT_OF_MEMORY, "cannot map made-up weights: %s", strerror(errno));
        p->next = (p->next + round_up(n, p->unit)) % p->size_bytes;
    }
    return true;
}

static bool share(struct filling *f, const struct sc_gguf_tensor *tensors, size_t n, double share_of,
                  struct pool pools[N_KINDS], struct sc_error *e)
{
    for (uint32_t kind = 0; kind < N_KINDS; kind++)
        if (f->totals[kind] > 0) {
            if (!pool_init(&pools[kind], kind, (uint64_t)((double)f->totals[kind] * share_of), e))
                return false;
            if (!add(f, pools[kind].bytes, pools[kind].size_bytes, kind))
                return sc_fail_memory(e, "made-up weights");
        }
    for (size_t i = 0; i < n; i++)
        if (tensors[i].size_bytes > 0 && !is_vector(&tensors[i]) &&
            !pool_map(&pools[kind_of(&tensors[i])], &tensors[i], e))
            return false;
    return true;
}

static bool own(struct filling *f, const struct sc_gguf_tensor *tensors, size_t n, struct sc_error *e)
{
    for (size_t i = 0; i < n; i++) {
        const struct sc_gguf_tensor *t = &tensors[i];
        if (t->size_bytes > 0 && !is_vector(t) && !add(f, (uint8_t *)(uintptr_t)t->data, t->size_bytes, kind_of(t)))
            return sc_fail_memory(e, "made-up weights");
    }
    return true;
}

bool synthetic_fill(struct sc_gguf_tensor *tensors, size_t n, uint64_t memory_bytes, uint32_t n_threads,
                    bool (*progress)(void *user, uint64_t done, uint64_t total), void *user, uint64_t *distinct_bytes,
                    struct sc_error *e)
{
    struct filling f = {.sigma = 1};
    struct pool pools[N_KINDS] = {{0}};
    uint64_t all = 0;
    for (size_t i = 0; i < n; i++)
        if (tensors[i].size_bytes > 0 && !is_vector(&tensors[i])) {
            f.totals[kind_of(&tensors[i])] += tensors[i].size_bytes;
            all += tensors[i].size_bytes;
            if (kind_of(&tensors[i]) >= N_TYPES) /* products with a row of this length keep the size of activations */
                f.sigma = 1 / sqrtf((float)tensors[i].shape[tensors[i].n_dims - 1]);
        }
    const bool shared = all > memory_bytes;
    bool ok = shared ? share(&f, tensors, n, (double)memory_bytes / (double)all, pools, e) : own(&f, tensors, n, e);
    ok = ok && fill_all(&f, n_threads, progress, user, e);
    f.populate = shared;
    f.n = 0;
    ok = ok && (!shared || (own(&f, tensors, n, e) && fill_all(&f, n_threads, progress, user, e)));
    *distinct_bytes = shared ? 0 : all;
    for (uint32_t kind = 0; kind < N_KINDS; kind++) {
        *distinct_bytes += pools[kind].size_bytes;
        pool_finish(&pools[kind]);
        free(f.patterns[kind].blocks);
    }
    free(f.pieces);
    return ok;
}
