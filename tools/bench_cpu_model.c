/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times the experts of a model on the CPU as prompts would use them, one line of JSON for each line of standard input:
 * the counterpart of tools/bench_peer/llama_cpu.mjs.
 *
 *     bench_cpu_model MODEL THREADS N_PROMPT...
 *
 * Tokens choose all experts of a layer evenly. flops: of a token in the experts, of a token in all matrices but the
 * output, and of the output, which a prompt needs once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "config.h"
#include "cpu_experts.h"
#include "gguf.h"
#include "model_builder.h"

enum { MAX_TOKENS = 512, MAX_CHOSEN = 16, MAX_EXPERTS = 512 };

struct bench {
    struct config c;
    struct weights w;
    struct cpu_experts *cpu;
    float *x, *y; /* (tokens, n_embd); (tokens * chosen, n_embd) */
};

/* With one thread the processor's time, so that other programs disturb less. */
static clockid_t clock_id = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(clock_id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void run_layer(struct bench *b, uint32_t layer, uint32_t n)
{
    static uint32_t x_rows[MAX_EXPERTS][MAX_TOKENS], y_rows[MAX_EXPERTS][MAX_TOKENS];
    struct cpu_job jobs[MAX_EXPERTS];
    uint32_t counts[MAX_EXPERTS] = {0}, n_jobs = 0;
    for (uint32_t t = 0; t < n; t++) {
        uint32_t first = (t * 5 + layer * 3 + t / b->c.n_experts) % b->c.n_experts;
        for (uint32_t i = 0; i < b->c.n_experts_used; i++) {
            uint32_t e = (first + i) % b->c.n_experts;
            x_rows[e][counts[e]] = t;
            y_rows[e][counts[e]++] = t * b->c.n_experts_used + i;
        }
    }
    for (uint32_t e = 0; e < b->c.n_experts; e++)
        if (counts[e] > 0)
            jobs[n_jobs++] = (struct cpu_job){&b->w.layers[layer].experts[e], counts[e], x_rows[e], y_rows[e]};
    cpu_experts_run(b->cpu, jobs, n_jobs, b->x, b->y);
}

static void answer(struct bench *b, int n_prompts, char **prompts)
{
    const struct config *c = &b->c;
    double experts = 6.0 * c->n_embd * c->n_ff * c->n_experts_used * c->n_layers;
    double attention = 4.0 * c->n_embd * (c->n_heads + c->n_kv_heads) * c->head_dim * c->n_layers;
    printf("{\"level\":\"%s\",\"flops_experts\":%.0f,\"flops_all\":%.0f,\"flops_output\":%.0f,\"seconds\":{",
           cpu_experts_level(b->cpu), experts, experts + attention, 2.0 * c->n_embd * c->n_vocab);
    for (int i = 0; i < n_prompts; i++) {
        uint32_t n = (uint32_t)strtoul(prompts[i], NULL, 10);
        double start = now();
        for (uint32_t l = 0; l < c->n_layers; l++)
            run_layer(b, l, n);
        printf("%s\"%u\":%.6f", i ? "," : "", n, now() - start);
    }
    printf("}}\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    for (int i = 3; i < argc; i++)
        if (strtoul(argv[i], NULL, 10) - 1 >= MAX_TOKENS)
            argc = 0;
    if (argc < 4) {
        fputs("usage: bench_cpu_model MODEL THREADS N_PROMPT...\n", stderr);
        return 2;
    }
    if (strtoul(argv[2], NULL, 10) == 1)
        clock_id = CLOCK_PROCESS_CPUTIME_ID;
    struct bench b = {0};
    struct sc_error e = {0};
    struct cpu_pool *pool = NULL;
    struct sc_gguf *g = sc_gguf_open(argv[1], &e);
    if (!g || !config_read(&b.c, g, &e) || !weights_init(&b.w, &b.c, g, &e))
        goto done;
    if (b.c.n_experts == 0 || b.c.n_experts > MAX_EXPERTS || b.c.n_experts_used > MAX_CHOSEN) {
        sc_fail(&e, SC_UNSUPPORTED, "%s has no experts that can be measured", argv[1]);
        goto done;
    }
    size_t n_rows = (size_t)MAX_TOKENS * b.c.n_experts_used, n_x = (size_t)MAX_TOKENS * b.c.n_embd;
    b.x = malloc(n_x * sizeof b.x[0]);
    b.y = malloc(n_rows * b.c.n_embd * sizeof b.y[0]);
    pool = cpu_pool_create((uint32_t)strtoul(argv[2], NULL, 10), &e);
    if (pool)
        b.cpu = cpu_experts_create(pool, b.c.n_embd, b.c.n_ff, (uint32_t)n_rows, NULL, &e);
    if (!b.x || !b.y || !b.cpu)
        goto done;
    uint64_t state = 1;
    for (size_t i = 0; i < n_x; i++)
        b.x[i] = random_normal(&state);
    for (int c; (c = getchar()) != EOF;)
        if (c == '\n')
            answer(&b, argc - 3, argv + 3);
done:
    if (!b.cpu)
        fprintf(stderr, "bench_cpu_model: %s\n", e.code ? e.text : "not enough memory");
    int status = b.cpu ? 0 : 1;
    cpu_experts_destroy(b.cpu);
    cpu_pool_destroy(pool);
    free(b.y);
    free(b.x);
    weights_finish(&b.w);
    sc_gguf_close(g);
    return status;
}
