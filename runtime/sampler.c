/* SPDX-License-Identifier: Apache-2.0 */
#include "sampler.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_REPEAT_LAST_N = 1 << 20 };

struct sc_sampler {
    struct sc_sampling p;
    uint32_t n_vocab;
    struct sc_candidate *candidates; /* (n_vocab) */
    sc_token *recent;                /* (repeat_last_n) a ring */
    uint32_t n_recent, next_recent;
    uint32_t *n_seen; /* (n_vocab) how often a token stands in the ring; NULL without a penalty */
    uint64_t random;
};

/* PCG32 (XSH RR), from M. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms". */
static uint32_t random_u32(uint64_t *state)
{
    uint64_t old = *state;
    *state = old * 6364136223846793005u + 1442695040888963407u;
    uint32_t x = (uint32_t)((old >> 18 ^ old) >> 27);
    uint32_t rotation = (uint32_t)(old >> 59);
    return x >> rotation | x << (-rotation & 31);
}

/* Uniform in [0, 1), 53 bits. */
static double random_unit(uint64_t *state)
{
    uint64_t high = random_u32(state) >> 5, low = random_u32(state) >> 6;
    return (double)(high << 26 | low) * 0x1p-53;
}

static void random_seed(uint64_t *state, uint64_t seed)
{
    *state = 0;
    random_u32(state);
    *state += seed;
    random_u32(state);
}

struct sc_sampling sc_sampling_default(void)
{
    return (struct sc_sampling){
        .temperature = 0.8f,
        .top_k = 40,
        .top_p = 0.95f,
        .min_p = 0.05f,
        .repeat_penalty = 1.0f,
        .repeat_last_n = 64,
    };
}

/* Each condition is written so that NaN fails. */
static bool check(const struct sc_sampling *p, struct sc_error *e)
{
    if (!(p->temperature >= 0 && p->temperature < INFINITY))
        return sc_fail(e, SC_INVALID_ARGUMENT, "the temperature is %g and must be 0 or more", (double)p->temperature);
    if (!(p->top_p >= 0 && p->top_p <= 1))
        return sc_fail(e, SC_INVALID_ARGUMENT, "top-p is %g and must be from 0 to 1", (double)p->top_p);
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return sc_fail(e, SC_INVALID_ARGUMENT, "min-p is %g and must be from 0 to 1", (double)p->min_p);
    if (!(p->repeat_penalty > 0 && p->repeat_penalty < INFINITY))
        return sc_fail(e, SC_INVALID_ARGUMENT, "the repeat penalty is %g and must be more than 0",
                       (double)p->repeat_penalty);
    if (p->repeat_last_n > MAX_REPEAT_LAST_N)
        return sc_fail(e, SC_INVALID_ARGUMENT, "the repeat penalty looks at %" PRIu32 " tokens and may look at %d",
                       p->repeat_last_n, MAX_REPEAT_LAST_N);
    return true;
}

struct sc_sampler *sc_sampler_create(const struct sc_sampling *sampling, uint32_t n_vocab, struct sc_error *e)
{
    if (!check(sampling, e))
        return NULL;
    if (n_vocab == 0 || n_vocab > INT32_MAX) {
        sc_fail(e, SC_INVALID_ARGUMENT, "there is no choosing from a vocabulary of %" PRIu32 " tokens", n_vocab);
        return NULL;
    }
    struct sc_sampler *s = calloc(1, sizeof *s);
    if (!s) {
        sc_fail_memory(e, "the sampler");
        return NULL;
    }
    s->p = *sampling;
    s->n_vocab = n_vocab;
    s->candidates = malloc(n_vocab * sizeof *s->candidates);
    bool ok = s->candidates != NULL;
    if (s->p.repeat_penalty != 1 && s->p.repeat_last_n > 0) {
        s->recent = malloc(s->p.repeat_last_n * sizeof *s->recent);
        s->n_seen = malloc(n_vocab * sizeof *s->n_seen);
        ok = ok && s->recent && s->n_seen;
    }
    if (!ok) {
        sc_fail_memory(e, "the sampler");
        sc_sampler_destroy(s);
        return NULL;
    }
    sc_sampler_reset(s);
    return s;
}

void sc_sampler_destroy(struct sc_sampler *s)
{
    if (!s)
        return;
    free(s->candidates);
    free(s->recent);
    free(s->n_seen);
    free(s);
}

void sc_sampler_reset(struct sc_sampler *s)
{
    random_seed(&s->random, s->p.seed);
    s->n_recent = s->next_recent = 0;
    if (s->n_seen)
        memset(s->n_seen, 0, s->n_vocab * sizeof *s->n_seen);
}

void sc_sampler_accept(struct sc_sampler *s, sc_token token)
{
    if (!s->n_seen || token < 0 || (uint32_t)token >= s->n_vocab)
        return;
    if (s->n_recent == s->p.repeat_last_n)
        s->n_seen[s->recent[s->next_recent]]--;
    else
        s->n_recent++;
    s->recent[s->next_recent] = token;
    s->n_seen[token]++;
    s->next_recent = (s->next_recent + 1) % s->p.repeat_last_n;
}

/* The finite logits, after the repeat penalty, in order of id. */
static uint32_t collect(struct sc_sampler *s, const float *logits)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        float logit = logits[i];
        if (s->n_seen && s->n_seen[i] > 0)
            logit = logit > 0 ? logit / s->p.repeat_penalty : logit * s->p.repeat_penalty;
        if (isfinite(logit))
            s->candidates[n++] = (struct sc_candidate){logit, (sc_token)i};
    }
    return n;
}

static bool likelier(const struct sc_candidate *a, const struct sc_candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

static bool unlikelier(const struct sc_candidate *a, const struct sc_candidate *b)
{
    return likelier(b, a);
}

/* Restores a heap, whose c[0] comes before all others, after c[i] was replaced by one that may belong further down. */
static void sink(struct sc_candidate *c, uint32_t n, uint32_t i,
                 bool (*before)(const struct sc_candidate *, const struct sc_candidate *))
{
    struct sc_candidate moved = c[i];
    while (i < n / 2) {
        uint32_t child = i * 2 + 1;
        if (child + 1 < n && before(&c[child + 1], &c[child]))
            child++;
        if (!before(&c[child], &moved))
            break;
        c[i] = c[child];
        i = child;
    }
    c[i] = moved;
}

/* Each step leaves its survivors in front and returns how many they are: at least one of one or more. */

/* The likeliest first. */
static uint32_t keep_top_k(struct sc_candidate *c, uint32_t n, int32_t top_k)
{
    if (top_k <= 0)
        return n;
    uint32_t k = (uint32_t)top_k < n ? (uint32_t)top_k : n;
    for (uint32_t i = k / 2; i-- > 0;)
        sink(c, k, i, unlikelier);
    for (uint32_t i = k; i < n; i++)
        if (likelier(&c[i], &c[0])) {
            c[0] = c[i];
            sink(c, k, 0, unlikelier);
        }
    /* sums round by their order, and the draw goes by it: it must not depend on who has found the k likeliest */
    for (uint32_t i = k; i-- > 1;) {
        struct sc_candidate last = c[0];
        c[0] = c[i];
        sink(c, i, 0, unlikelier);
        c[i] = last;
    }
    return k;
}

static float highest_logit(const struct sc_candidate *c, uint32_t n)
{
    float highest = c[0].logit;
    for (uint32_t i = 1; i < n; i++)
        highest = c[i].logit > highest ? c[i].logit : highest;
    return highest;
}

static uint32_t keep_top_p(struct sc_candidate *c, uint32_t n, float top_p)
{
    if (top_p >= 1)
        return n;
    double highest = highest_logit(c, n), sum = 0, reached = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp(c[i].logit - highest);
    for (uint32_t i = n / 2; i-- > 0;)
        sink(c, n, i, likelier);
    uint32_t n_heap = n; /* what is taken from the heap gathers behind it */
    do {
        struct sc_candidate taken = c[0];
        c[0] = c[--n_heap];
        sink(c, n_heap, 0, likelier);
        c[n_heap] = taken;
        reached += exp(taken.logit - highest);
    } while (n_heap > 0 && reached < top_p * sum);
    memmove(c, c + n_heap, (n - n_heap) * sizeof *c);
    return n - n_heap;
}

static uint32_t keep_min_p(struct sc_candidate *c, uint32_t n, float min_p)
{
    if (min_p <= 0)
        return n;
    double lowest = highest_logit(c, n) + log(min_p);
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (c[i].logit >= lowest)
            c[n_kept++] = c[i];
    return n_kept;
}

static sc_token draw(struct sc_candidate *c, uint32_t n, float temperature, uint64_t *random)
{
    double highest = highest_logit(c, n), sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        c[i].logit = (float)exp((c[i].logit - highest) / temperature); /* from here on its weight, 0 to 1 */
        sum += c[i].logit;
    }
    double left = random_unit(random) * sum;
    sc_token chosen = c[0].token;
    for (uint32_t i = 0; i < n && left >= 0; i++) {
        if (c[i].logit > 0)
            chosen = c[i].token;
        left -= c[i].logit;
    }
    return chosen;
}

/* Of s->candidates. */
static sc_token choose(struct sc_sampler *s, uint32_t n)
{
    struct sc_candidate *c = s->candidates;
    if (n == 0)
        return -1;
    if (s->p.temperature == 0)
        return c[keep_top_k(c, n, 1) - 1].token;
    n = keep_top_k(c, n, s->p.top_k);
    n = keep_top_p(c, n, s->p.top_p);
    n = keep_min_p(c, n, s->p.min_p);
    return draw(c, n, s->p.temperature, &s->random);
}

sc_token sc_sampler_sample(struct sc_sampler *s, const float *logits)
{
    return choose(s, collect(s, logits));
}

uint32_t sc_sampler_n_candidates(const struct sc_sampler *s)
{
    if (s->n_seen) /* a penalty may bring any other to the top */
        return 0;
    if (s->p.temperature == 0)
        return 1;
    return s->p.top_k > 0 && s->p.top_k <= SC_MAX_CANDIDATES ? (uint32_t)s->p.top_k : 0;
}

sc_token sc_sampler_choose(struct sc_sampler *s, const struct sc_candidate *candidates, size_t n)
{
    const uint32_t n_taken = n < s->n_vocab ? (uint32_t)n : s->n_vocab;
    if (n_taken)
        memcpy(s->candidates, candidates, n_taken * sizeof *candidates);
    return choose(s, n_taken);
}
