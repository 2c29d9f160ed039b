/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How near the CPU's expert kernels come to the memory: for each type, one expert after the other of more than the
 * caches hold, GB/s at one token beside a plain read with the same threads, GFLOP/s at more tokens.
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
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
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

static double read_speed(struct bench *b)
{
    uint64_t (*readers[3])(const uint8_t *, size_t) = {read_128};
    size_t n_readers = 1;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        readers[n_readers++] = read_256;
    if (__builtin_cpu_supports("avx512f"))
        readers[n_readers++] = read_512;
#endif
    double best = 0;
    for (size_t i = 0; i < n_readers; i++) {
        for (size_t chunk = 1 << 16; chunk <= 1 << 24; chunk *= 16) {
            struct reading r = {.read = readers[i], .size_bytes = (size_t)96 << 20, .chunk = chunk};
            size_t at = 0;
            for (double end = now() + b->o.seconds / 2; now() < end;) {
                at = at + 2 * r.size_bytes > b->size_bytes ? 0 : at + r.size_bytes;
                r.p = b->memory + at;
                double start = now();
                cpu_pool_run(b->pool, read_chunk, &r, (uint32_t)((r.size_bytes + chunk - 1) / chunk));
                double speed = (double)r.size_bytes / (now() - start);
                best = speed > best ? speed : best;
            }
        }
    }
    return best;
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

/* Seconds of the fastest run of one expert with n tokens; every run takes the next expert. */
static double best_run(struct bench *b, const struct expert_weights *experts, uint32_t n_experts, uint32_t n)
{
    double best = 1e9;
    uint32_t i = 0;
    double end = now() + b->o.seconds;
    for (uint32_t runs = 0; runs < 3 || now() < end; runs++, i = (i + 1) % n_experts) {
        struct cpu_job job = {.expert = &experts[i], .n = n};
        double start = now();
        cpu_experts_run(b->cpu, &job, 1, b->x, b->y);
        double seconds = now() - start;
        best = seconds < best ? seconds : best;
    }
    return best;
}

static void bench_type(struct bench *b, const struct sc_type_info *info)
{
    struct expert_weights experts[256];
    uint32_t n_experts = 0;
    uint64_t state = 1;
    size_t used = 0, size = lay_out(b, info->type, b->memory, &experts[0]);
    for (; used + size <= b->size_bytes && n_experts < 256; used += size)
        lay_out(b, info->type, b->memory + used, &experts[n_experts++]);
    if (n_experts == 0) {
        printf("| %s | an expert does not fit |\n", info->name);
        return;
    }
    random_blocks(b->memory, info->type, size / info->block_bytes, 0.01f, &state);
    for (uint32_t i = 1; i < n_experts; i++)
        memcpy(b->memory + i * size, b->memory, size);

    double read = read_speed(b);
    double one = (double)size / best_run(b, experts, n_experts, 1);
    printf("| %-6s | %4zu | %6.1f | %6.1f | %4.0f %% |", info->name, size >> 20, read * 1e-9, one * 1e-9,
           100 * one / read);
    for (const char *t = b->o.tokens; *t; t += strcspn(t, ","), t += *t == ',') {
        uint32_t n = (uint32_t)strtoul(t, NULL, 10);
        double flop = 6.0 * b->o.n_embd * b->o.n_ff * n;
        printf(" %6.1f |", flop / best_run(b, experts, n_experts, n) * 1e-9);
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
    fputs(
        "usage: bench_cpu_experts [--types q4_k,...] [--level avx512|avx2|portable] [--tokens 4,16,64] [--threads N]\n"
        "                         [--embd 4096] [--ff 14336] [--mib 640] [--seconds 1]\n",
        stderr);
    return 2;
}

int main(int argc, char **argv)
{
    struct bench b = {.o = {"", NULL, "4,16,64", 0, 4096, 14336, 1, 640}};
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

    printf("%s, %u threads, n_embd %u, n_ff %u; read and 1 token in GB/s, then GFLOP/s at so many tokens\n\n",
           cpu_experts_level(b.cpu), cpu_pool_threads(b.pool), b.o.n_embd, b.o.n_ff);
    printf("| type   | MiB  | read   | 1      | share  |");
    for (const char *t = b.o.tokens; *t; t += strcspn(t, ","), t += *t == ',')
        printf(" %6.*s |", (int)strcspn(t, ","), t);
    printf("\n|---|---|---|---|---|");
    for (const char *t = b.o.tokens; *t; t += strcspn(t, ","), t += *t == ',')
        printf("---|");
    printf("\n");
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
