/* SPDX-License-Identifier: Apache-2.0 */
/* The operations that have one kernel each and no type: a norm, SwiGLU, the router's choice, the experts' sum, the best
 * logits. */
#include <math.h>
#include <string.h>

#include "self_test_bench.h"

enum { N_TOKENS = 3, COLS = 160, N_EXPERTS = 5, N_USED = 2, N_LOGITS = 1500, N_TOP = 3 };
static const float EPS = 0.5F;
static const double TOLERANCE = 1e-4; /* of sums of few terms near 1; a wrong kernel is off by far more */

static bool is_near(float got, double want)
{
    return fabs((double)got - want) <= TOLERANCE * (1 + fabs(want));
}

/* y = x / sqrt(mean of x^2 + EPS) * w */
static bool is_norm(const float *y, const float *x, const float *w)
{
    double sum = 0;
    bool is_right = true;
    for (uint32_t i = 0; i < COLS; i++)
        sum += (double)x[i] * (double)x[i];
    for (uint32_t i = 0; i < COLS; i++)
        is_right = is_right && is_near(y[i], (double)x[i] / sqrt(sum / COLS + (double)EPS) * (double)w[i]);
    return is_right;
}

/* The two largest logits, and their softmax. */
static bool is_choice(const uint32_t *ids, const float *probs, const float *logits)
{
    if (ids[0] >= N_EXPERTS || ids[1] >= N_EXPERTS || ids[0] == ids[1] || logits[ids[0]] < logits[ids[1]])
        return false;
    for (uint32_t i = 0; i < N_EXPERTS; i++)
        if (i != ids[0] && logits[i] > logits[ids[1]])
            return false;
    const double first = 1 / (1 + exp((double)(logits[ids[1]] - logits[ids[0]])));
    return is_near(probs[0], first) && is_near(probs[1], 1 - first);
}

static struct top lay_top(struct bench *b, struct tensor *step)
{
    const struct tensor counter = bench_lay(b, SC_F32, 1, 1);
    *step = bench_lay(b, SC_F32, 1, sizeof(struct step) / sizeof(uint32_t));
    memset(bench_host(b, counter), 0, sizeof(uint32_t));
    memcpy(bench_host(b, *step), &(struct step){.n_top = N_TOP}, sizeof(struct step));
    return (struct top){.list = bench_lay(b, SC_F32, N_TOP, 2),
                        .best = bench_lay(b, SC_F32, 1, 1),
                        .heads = bench_lay(b, SC_F32, TOP_K_HEADS, 2),
                        .counter = counter.address};
}

/* list (N_TOP, 2): logit, id, the largest first. */
static bool is_top(const uint32_t *list, uint32_t best, const float *logits)
{
    for (uint32_t k = 0; k < N_TOP; k++) {
        const uint32_t id = list[2 * k + 1];
        uint32_t n_before = 0;
        for (uint32_t i = 0; id < N_LOGITS && i < N_LOGITS; i++)
            n_before += logits[i] > logits[id] || (logits[i] == logits[id] && i < id);
        if (id >= N_LOGITS || n_before != k || memcmp(&list[2 * k], &logits[id], sizeof(float)) != 0)
            return false;
    }
    return best == list[1];
}

bool self_test_rows(struct bench *b, enum family family, const struct variant *v, enum sc_type type, bool *is_right,
                    struct sc_error *e)
{
    const struct tensor x = bench_lay_random(b, SC_F32, N_TOKENS, COLS, 1), w = bench_lay_random(b, SC_F32, 1, COLS, 1),
                        normed = bench_lay(b, SC_F32, N_TOKENS, COLS),
                        gate = bench_lay_random(b, SC_F32, N_TOKENS, COLS, 1),
                        logits = bench_lay_random(b, SC_F32, N_TOKENS, N_EXPERTS, 1),
                        sum = bench_lay_random(b, SC_F32, N_TOKENS, COLS, 1),
                        parts = bench_lay_random(b, SC_F32, N_TOKENS * N_USED, COLS, 1);
    const struct routing r = {.ids = bench_lay(b, SC_F32, N_TOKENS, N_USED),
                              .probs = bench_lay(b, SC_F32, N_TOKENS, N_USED)};
    const struct tensor many = bench_lay_random(b, SC_F32, 1, N_LOGITS, 1);
    struct tensor step;
    const struct top top = lay_top(b, &step);
    float gates[N_TOKENS * COLS], sums[N_TOKENS * COLS];
    (void)family, (void)v, (void)type;
    memcpy(gates, bench_host(b, gate), sizeof(gates));
    memcpy(sums, bench_host(b, sum), sizeof(sums));
    op_rms_norm(&b->commands, normed, x, w, EPS);
    op_silu_mul(&b->commands, gate, x);
    op_route(&b->commands, r, logits);
    op_combine(&b->commands, sum, parts, r);
    op_top_k(&b->commands, top, many, step);
    if (!bench_run(b, e))
        return false;

    const float *xs = bench_host(b, x), *probs = bench_host(b, r.probs), *part = bench_host(b, parts);
    const float *silu = bench_host(b, gate), *got = bench_host(b, sum);
    *is_right = bench_is_guarded(b, normed) && bench_is_guarded(b, gate) && bench_is_guarded(b, sum) &&
                bench_is_guarded(b, r.ids) && bench_is_guarded(b, r.probs) && bench_is_guarded(b, top.list) &&
                is_top(bench_host(b, top.list), *(const uint32_t *)bench_host(b, top.best), bench_host(b, many));
    for (uint32_t t = 0; t < N_TOKENS; t++)
        *is_right = *is_right &&
                    is_norm((const float *)bench_host(b, normed) + t * COLS, xs + t * COLS, bench_host(b, w)) &&
                    is_choice((const uint32_t *)bench_host(b, r.ids) + t * N_USED, probs + t * N_USED,
                              (const float *)bench_host(b, logits) + t * N_EXPERTS);
    for (uint32_t i = 0; *is_right && i < N_TOKENS * COLS; i++) {
        const double g = (double)gates[i];
        double want = (double)sums[i];
        for (uint32_t k = 0; k < N_USED; k++)
            want += (double)probs[i / COLS * N_USED + k] * (double)part[(i / COLS * N_USED + k) * COLS + i % COLS];
        *is_right = is_near(got[i], want) && is_near(silu[i], g / (1 + exp(-g)) * (double)xs[i]);
    }
    return true;
}
