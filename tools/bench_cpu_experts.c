/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How near the CPU's expert kernels come to the memory: for each type, one expert after the other of more than the
 * caches hold, GB/s at one token and of a plain read with the same threads, in turn, and the median of their ratios;
 * the best GFLOP/s at more tokens.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu_experts.h"
#include "model_builder.h"
#include "types.h"

struct options {
    const char *types, *level, *tokens;
    uint32_t threads, n_embd, n_ff;
    double seconds; /* for each measurement */
    size_t mib;
};

struct bench {
    struct options o;
    struct cpu_pool *pool;
    struct cpu_experts *cpu;
    uint8_t *memory;
    size_t size_bytes;
    float *x, *y;
    uint64_t (*read)(const uint8_t *p, size_t n); /* the plain read */
    size_t chunk;                                 /* bytes that a thread reads at a time */
};

/* With one thread its own time, so that other programs disturb less. */
static clockid_t clock_id = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(clock_id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#if defined(__x86_64__)
#define TARGET(t) __attribute__((target(t), optimize("O3")))
#else
#define TARGET(t)
#endif

#define READER(name, t, lanes) \
    TARGET(t) static uint64_t name(const uint8_t *p, size_t n) \
    { \
        __attribute__((vector_size(8 * lanes))) uint64_t v, sums[8] = {{0}}; \
        for (size_t i = 0; i + sizeof sums <= n; i += sizeof sums) \
            for (size_t k = 0; k < 8; k++) { \
                memcpy(&v, p + i + k * sizeof v, sizeof v); \
                sums[k] += v; \
            } \
        uint64_t sum = 0; \
        for (size_t k = 0; k < 8; k++) \
            sum += sums[k][0]; \
        return sum; \
    }
READER(read_128, "sse2", 2)
#if defined(__x86_64__)
READER(read_256, "avx2", 4)
READER(read_512, "avx512f", 8)
#endif

struct reading {
    uint64_t (*read)(const uint8_t *p, size_t n);
    const uint8_t *p;
    size_t size_bytes, chunk;
    _Atomic uint64_t sum;
};

static void read_chunk(void *context, uint32_t item)
{
    struct reading *r = context;
    size_t first = item * r->chunk, rest = r->size_bytes - first;
    r->sum += r->read(r->p + first, rest < r->chunk ? rest : r->chunk);
}

static double read_seconds(struct bench *b, const uint8_t *p, size_t size_bytes)
{
    struct reading r = {.read = b->read, .p = p, .size_bytes = size_bytes, .chunk = b->chunk};
    double start = now();
    cpu_pool_run(b->pool, read_chunk, &r, (uint32_t)((size_bytes + b->chunk - 1) / b->chunk));
    return now() - start;
}

/* The fastest way to read: which instructions, and how much at a time. */
static void choose_reader(struct bench *b)
{
    uint64_t (*readers[3])(const uint8_t *, size_t) = {read_128};
    size_t n_readers = 1;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        readers[n_readers++] = read_256;
    if (__builtin_cpu_supports("avx512f"))
        readers[n_readers++] = read_512;
#endif
    double best = 1e9;
    uint64_t (*best_read)(const uint8_t *, size_t) = NULL;
    size_t best_chunk = 0, half = b->size_bytes / 2;
    for (size_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < n_readers; i++) {
            for (size_t chunk = 1 << 16; chunk <= 1 << 24; chunk *= 16) {
                b->read = readers[i];
                b->chunk = chunk;
                double seconds = read_seconds(b, b->memory + round % 2 * half, half);
                if (seconds < best) {
                    best = seconds;
                    best_read = b->read;
                    best_chunk = chunk;
                }
            }
        }
    }
    b->read = best_read;
    b->chunk = best_chunk;
}

static size_t lay_out(const struct bench *b, enum sc_type type, uint8_t *at, struct expert_weights *e)
{
    const struct sc_type_info *info = sc_type_info(type);
    uint64_t size = (uint64_t)b->o.n_embd * b->o.n_ff / info->block_size * info->block_bytes;
    e->gate = (struct weight){.data = at, .type = type, .rows = b->o.n_ff, .cols = b->o.n_embd, .size_bytes = size};
    e->up =
        (struct weight){.data = at + size, .type = type, .rows = b->o.n_ff, .cols = b->o.n_embd, .size_bytes = size};
    e->down = (struct weight){
        .data = at + 2 * size, .type = type, .rows = b->o.n_embd, .cols = b->o.n_ff, .size_bytes = size};
    return (size_t)(3 * size);
}

/* The share of the plain read that is asked for, in percent; 0: none */
static int target_of(enum sc_type type)
{
    switch (type) {
    case SC_Q2_K:
    case SC_Q3_K: return 60;
    case SC_Q4_0:
    case SC_Q4_K:
    case SC_Q5_K:
    case SC_Q6_K:
    case SC_Q8_0:
    case SC_IQ4_XS: return 85;
    default: return 0;
    }
}

enum { MAX_EXPERTS = 256, MAX_ROUNDS = 1000 };

struct experts {
    struct expert_weights list[MAX_EXPERTS];
    uint32_t n, next; /* every run takes the next one */
    size_t size_bytes;
};

static double run_seconds(struct bench *b, struct experts *e, uint32_t n_tokens)
{
    struct cpu_job job = {.expert = &e->list[e->next++ % e->n], .n = n_tokens};
    double start = now();
    cpu_experts_run(b->cpu, &job, 1, b->x, b->y);
    return now() - start;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof values[0], compare);
    return values[n / 2];
}

/* One token: a read and a run in turn, both of memory that was not touched since all else was. */
static void bench_one(struct bench *b, struct experts *e, enum sc_type type)
{
    static double reads[MAX_ROUNDS], runs[MAX_ROUNDS], ratios[MAX_ROUNDS];
    size_t n = 0;
    run_seconds(b, e, 1);
    for (double end = now() + 2 * b->o.seconds; n < MAX_ROUNDS && (n < 5 || now() < end); n++) {
        reads[n] = read_seconds(b, e->list[e->next++ % e->n].gate.data, e->size_bytes);
        runs[n] = run_seconds(b, e, 1);
        ratios[n] = reads[n] / runs[n];
    }
    double share = 100 * median(ratios, n), size = (double)e->size_bytes * 1e-9;
    printf(" %4zu | %5.1f | %5.1f | %4.0f %% |", e->size_bytes >> 20, size / median(reads, n), size / median(runs, n),
           share);
    int target = target_of(type);
    if (target > 0)
        printf(" %2d %%: %s |", target, share >= target ? "yes" : "NO ");
    else
        printf("           |");
}

static void bench_type(struct bench *b, const struct sc_type_info *info)
{
    struct experts e = {.size_bytes = lay_out(b, info->type, b->memory, &e.list[0])};
    for (size_t used = 0; used + e.size_bytes <= b->size_bytes && e.n < MAX_EXPERTS; used += e.size_bytes)
        lay_out(b, info->type, b->memory + used, &e.list[e.n++]);
    printf("| %-6s |", info->name);
    if (e.n < 2) {
        printf(" two experts do not fit |\n");
        return;
    }
    uint64_t state = 1;
    random_blocks(b->memory, info->type, e.size_bytes / info->block_bytes, 0.01f, &state);
    for (uint32_t i = 1; i < e.n; i++)
        memcpy(b->memory + i * e.size_bytes, b->memory, e.size_bytes);

    bench_one(b, &e, info->type);
    for (const char *t = b->o.tokens; *t; t += strcspn(t, ","), t += *t == ',') {
        uint32_t n = (uint32_t)strtoul(t, NULL, 10);
        double best = run_seconds(b, &e, n);
        int n_runs = 0;
        for (double end = now() + b->o.seconds; n_runs < 3 || now() < end; n_runs++) {
            double seconds = run_seconds(b, &e, n);
            best = seconds < best ? seconds : best;
        }
        printf(" %5.0f |", 6.0 * b->o.n_embd * b->o.n_ff * n / best * 1e-9);
        fflush(stdout);
    }
    printf("\n");
}

static bool wanted(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *t = list; *t; t += strcspn(t, ","), t += *t == ',')
        if (strcspn(t, ",") == length && strncmp(t, name, length) == 0)
            return true;
    return *list == 0;
}

static int usage(void)
{
    fputs("usage: bench_cpu_experts [--types q4_k,...] [--level avx512|avx2|portable] [--tokens 2,4,8,16,64] "
          "[--threads N]\n"
          "                         [--embd 4096] [--ff 14336] [--mib 640] [--seconds 0.5]\n",
          stderr);
    return 2;
}

int main(int argc, char **argv)
{
    struct bench b = {.o = {"", NULL, "2,4,8,16,64", 0, 4096, 14336, 0.5, 640}};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc)
            return usage();
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--types") == 0)
            b.o.types = value;
        else if (strcmp(name, "--level") == 0)
            b.o.level = value;
        else if (strcmp(name, "--tokens") == 0)
            b.o.tokens = value;
        else if (strcmp(name, "--threads") == 0)
            b.o.threads = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--embd") == 0)
            b.o.n_embd = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--ff") == 0)
            b.o.n_ff = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--mib") == 0)
            b.o.mib = strtoul(value, NULL, 10);
        else if (strcmp(name, "--seconds") == 0)
            b.o.seconds = strtod(value, NULL);
        else
            return usage();
    }
    if (b.o.n_embd == 0 || b.o.n_ff == 0 || b.o.n_embd % 256 || b.o.n_ff % 256 || b.o.mib < 256)
        return usage();
    uint32_t most = 1;
    for (const char *t = b.o.tokens; *t; t += strcspn(t, ","), t += *t == ',')
        most = (uint32_t)strtoul(t, NULL, 10) > most ? (uint32_t)strtoul(t, NULL, 10) : most;

    if (b.o.threads == 1)
        clock_id = CLOCK_THREAD_CPUTIME_ID;

    struct sc_error e = {0};
    b.size_bytes = b.o.mib << 20;
    b.memory = aligned_alloc(4096, b.size_bytes);
    b.x = malloc((size_t)most * b.o.n_embd * sizeof b.x[0]);
    b.y = malloc((size_t)most * b.o.n_embd * sizeof b.y[0]);
    b.pool = cpu_pool_create(b.o.threads, &e);
    b.cpu = b.pool ? cpu_experts_create(b.pool, b.o.n_embd, b.o.n_ff, most, b.o.level, &e) : NULL;
    int status = 1;
    if (!b.cpu || !b.memory || !b.x || !b.y) {
        fprintf(stderr, "bench_cpu_experts: %s\n", e.code ? e.text : "not enough memory");
        goto done;
    }
    memset(b.memory, 1, b.size_bytes); /* untouched pages are all the same zeros, and never leave the cache */
    uint64_t state = 7;
    for (size_t i = 0; i < (size_t)most * b.o.n_embd; i++)
        b.x[i] = random_normal(&state);

    printf("%s, %u threads, n_embd %u, n_ff %u; plain read and 1 token in GB/s, their ratio (medians); then the best "
           "GFLOP/s at so many tokens\n\n",
           cpu_experts_level(b.cpu), cpu_pool_threads(b.pool), b.o.n_embd, b.o.n_ff);
    printf("| type   | MiB  | read  | 1     | share  | target    |");
    for (const char *t = b.o.tokens; *t; t += strcspn(t, ","), t += *t == ',')
        printf(" %5.*s |", (int)strcspn(t, ","), t);
    printf("\n|---|--:|--:|--:|--:|---|");
    for (const char *t = b.o.tokens; *t; t += strcspn(t, ","), t += *t == ',')
        printf("--:|");
    printf("\n");
    choose_reader(&b);
    size_t n_types;
    const struct sc_type_info *types = sc_types(&n_types);
    for (size_t i = 0; i < n_types; i++)
        if (wanted(b.o.types, types[i].name))
            bench_type(&b, &types[i]);
    status = 0;
done:
    cpu_experts_destroy(b.cpu);
    cpu_pool_destroy(b.pool);
    free(b.y);
    free(b.x);
    free(b.memory);
    return status;
}
