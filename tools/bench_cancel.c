/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How soon a prompt can be cancelled:
 *
 *     bench_cancel MODEL N_TOKENS [N_BATCH [RAM_MB VRAM_MB]]
 *
 * Evaluates a prompt on the device alone, with experts from disk where RAM_MB are too few, and prints how long the
 * longest piece took that was submitted at once and the longest time between two calls of progress; then cancels the
 * same prompt in each of ten tenths, and prints how long that took.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "scoria.h"

enum { N_CANCELS = 10 };

struct watch {
    uint64_t cancel_at; /* tokens; UINT64_MAX: never */
    double last, longest, cancelled;
    uint32_t n_calls;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool progress(void *user, enum sc_phase phase, uint64_t done, uint64_t total)
{
    struct watch *w = user;
    const double t = now();
    (void)total;
    if (phase != SC_PHASE_PREFILL)
        return true;
    w->longest = t - w->last > w->longest ? t - w->last : w->longest;
    w->last = t;
    w->n_calls++;
    if (done < w->cancel_at)
        return true;
    w->cancelled = t;
    return false;
}

static bool evaluate(struct sc_session *s, struct watch *w, const sc_token *tokens, size_t n, uint64_t cancel_at,
                     struct sc_error *e)
{
    *w = (struct watch){.cancel_at = cancel_at, .last = now()};
    sc_session_truncate(s, 0);
    return sc_session_eval(s, tokens, n, NULL, 0, e);
}

static bool bench(struct sc_session *s, struct watch *w, const sc_token *tokens, size_t n, struct sc_error *e)
{
    struct sc_stats stats;
    double start = now(), latency[N_CANCELS], most = 0;
    if (!evaluate(s, w, tokens, n, UINT64_MAX, e))
        return false;
    sc_session_stats(s, &stats);
    printf("%zu tokens in %.2f s: longest piece %.3f s, longest between %u calls of progress %.3f s\n", n,
           now() - start, stats.longest_piece_seconds, w->n_calls, w->longest);
    for (uint32_t i = 0; i < N_CANCELS; i++) {
        *e = (struct sc_error){0};
        if (evaluate(s, w, tokens, n, n * i / N_CANCELS, e) || e->code != SC_CANCELLED)
            return false;
        latency[i] = now() - w->cancelled;
        most = latency[i] > most ? latency[i] : most;
    }
    printf("seconds from progress saying so to the end of sc_session_eval:");
    for (uint32_t i = 0; i < N_CANCELS; i++)
        printf(" %.3f", latency[i]);
    printf("\nat most %.3f\n", most);
    return true;
}

int main(int argc, char **argv)
{
    const size_t n = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    if (n < N_CANCELS || n > 1 << 20) {
        fprintf(stderr, "usage: bench_cancel MODEL N_TOKENS [N_BATCH [RAM_MB VRAM_MB]]\n");
        return 2;
    }
    struct watch watch = {.cancel_at = UINT64_MAX};
    struct sc_error e = {0};
    const struct sc_engine_params params = {.model_path = argv[1],
                                            .n_ctx = (uint32_t)n,
                                            .n_batch = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0,
                                            .ram_bytes = argc > 5 ? strtoul(argv[4], NULL, 10) << 20 : 0,
                                            .vram_bytes = argc > 5 ? strtoul(argv[5], NULL, 10) << 20 : 0,
                                            .cpu_experts = SC_CPU_OFF,
                                            .progress = progress,
                                            .user = &watch};
    sc_token *tokens = calloc(n, sizeof(*tokens));
    struct sc_engine *engine = tokens ? sc_engine_create(&params, &e) : NULL;
    struct sc_session *session = engine ? sc_session_create(engine, &e) : NULL;
    for (size_t i = 0; tokens && i < n; i++)
        tokens[i] = (sc_token)(3 + i * 7 % 250);
    const bool ok = session && bench(session, &watch, tokens, n, &e);
    if (!ok)
        fprintf(stderr, "bench_cancel: %s\n", e.code ? e.text : "the prompt did not run as it should");
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    free(tokens);
    return ok ? 0 : 1;
}
