/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compares caches of expert slots on recorded routing:
 *
 *     simulate_experts [--slots N,N,...] [--svg FILE] TRACE...
 *
 * Three tables: what decode finds in slots, in percent, and what that costs in uploads, on both ways of the runtime
 * (replay.h), all traces together and the worst single one; and the time of a token's experts. Then the claims, each
 * with PASS or FAIL: plain LRU at (nearly) every number of slots, and Belady's optimum at those of the tables. In the
 * end the sums over all of these numbers and all traces.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "curve.h"
#include "replay.h"

enum { MAX_SLOT_COUNTS = 64, MAX_CLAIM_BUDGETS = 128 };

/* One row: results by cache, of all traces, and the worst ratios of a single one. */
struct row {
    uint32_t n_slots;
    struct replay sums[REPLAY_N_CACHES];
    double worst[REPLAY_N_CACHES]; /* least ratio of our hits to theirs */
};

struct simulation {
    struct routing_file *traces; /* (n_traces) */
    size_t n_traces;
    uint32_t slots[MAX_SLOT_COUNTS];
    size_t n_slots;
    struct row rows[REPLAY_N_PATHS][MAX_SLOT_COUNTS];
};

/* Bytes per second in 10^9 at 80 % of the peak, and PCIe as it is measured: the machines of DESIGN's table. */
static const struct machine {
    const char *name;
    double vram, ram, pcie;
} machines[] = {
    {"RTX 4090, DDR5-6000", 806, 77, 25},
    {"Arc B580 (x8), DDR5-6000", 365, 77, 12.5},
    {"RTX 3060, DDR4-3200", 288, 41, 25},
};
enum { N_MACHINES = sizeof machines / sizeof machines[0] };

static double percent(const struct replay *r)
{
    return r->n_uses ? 100 * (double)r->n_hits / (double)r->n_uses : 0;
}

static double per_token(const struct replay *r)
{
    return r->n_tokens ? (double)r->n_uploads / (double)r->n_tokens : 0;
}

static double ratio(uint64_t hits, uint64_t of)
{
    return of ? (double)hits / (double)of : 1;
}

static bool simulate_row(const struct simulation *s, enum replay_path path, struct row *row, struct sc_error *e)
{
    for (enum replay_cache c = 0; c < REPLAY_N_CACHES; c++)
        row->worst[c] = HUGE_VAL;
    for (size_t t = 0; t < s->n_traces; t++) {
        struct replay one[REPLAY_N_CACHES] = {0};
        for (enum replay_cache c = 0; c < REPLAY_N_CACHES; c++) {
            if (path == REPLAY_DEMAND && c == REPLAY_PRICED) /* uploads are no choice there */
                continue;
            if (!replay_run(&s->traces[t], path, c, row->n_slots, &one[c], e))
                return false;
            struct replay *sum = &row->sums[c];
            sum->n_tokens += one[c].n_tokens;
            sum->n_uses += one[c].n_uses;
            sum->n_hits += one[c].n_hits;
            sum->n_uploads += one[c].n_uploads;
            sum->n_prompt_uploads += one[c].n_prompt_uploads;
            for (uint32_t h = 0; h <= SC_MAX_EXPERTS_USED; h++)
                sum->n_with_hits[h] += one[c].n_with_hits[h];
        }
        for (enum replay_cache c = 0; c < REPLAY_N_CACHES; c++)
            row->worst[c] = fmin(row->worst[c], ratio(one[REPLAY_OURS].n_hits, one[c].n_hits));
    }
    return true;
}

static void print_cell(bool exists, int digits, double value)
{
    if (exists)
        printf(" %.*f |", digits, value);
    else
        printf(" - |");
}

static void print_path(const struct simulation *s, enum replay_path path)
{
    printf("\n%s\n\n", path == REPLAY_PROMOTE
                           ? "Misses run on the CPU, uploads are promotions between tokens (LRU, LFU: every miss)"
                           : "Every miss is uploaded before its layer runs");
    printf("| slots | hits: LRU | LFU | ours | fixed | priced | Belady | ours / priced | worst trace | ours / Belady | "
           "worst trace | ours / LRU, worst trace | uploads a token: LRU | LFU | ours | priced | Belady |\n"
           "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
    for (size_t i = 0; i < s->n_slots; i++) {
        const struct row *row = &s->rows[path][i];
        const struct replay *r = row->sums;
        printf("| %u |", row->n_slots);
        for (enum replay_cache c = 0; c < REPLAY_N_CACHES; c++)
            print_cell(r[c].n_tokens > 0, 1, percent(&r[c]));
        for (enum replay_cache c = REPLAY_PRICED; c <= REPLAY_BELADY; c++) {
            print_cell(r[c].n_hits > 0, 1, 100 * ratio(r[REPLAY_OURS].n_hits, r[c].n_hits));
            print_cell(r[c].n_hits > 0, 1, 100 * row->worst[c]);
        }
        print_cell(r[REPLAY_LRU].n_hits > 0, 2, 100 * row->worst[REPLAY_LRU]);
        for (enum replay_cache c = 0; c < REPLAY_N_CACHES; c++)
            if (c != REPLAY_FIXED)
                print_cell(r[c].n_tokens > 0, 2, per_token(&r[c]));
        printf("\n");
    }
}

/*
 * Seconds of all decode's experts, if one has 10^9 bytes: hits on the GPU beside misses on the CPU, then the promotions
 * over PCIe; or all on the GPU after the misses have come over PCIe.
 */
static double seconds(const struct replay *r, enum replay_path path, uint32_t n_used, const struct machine *m)
{
    double sum = (double)r->n_uploads / m->pcie;
    if (path == REPLAY_DEMAND)
        return sum + (double)r->n_uses / m->vram;
    for (uint32_t hits = 0; hits <= n_used; hits++)
        sum += (double)r->n_with_hits[hits] * fmax(hits / m->vram, (n_used - hits) / m->ram);
    return sum;
}

static void print_times(const struct simulation *s)
{
    const struct routing_file *any = &s->traces[0];
    printf(
        "\nTime of a token's experts in percent of the CPU alone: whole experts with our promotions, LRU's, a slice of "
        "every expert\nin VRAM (no uploads), and uploading our misses\n\n| slots |");
    for (size_t m = 0; m < N_MACHINES; m++)
        printf(" %s: ours | LRU | slices | uploads |", machines[m].name);
    printf("\n|--:|");
    for (size_t m = 0; m < N_MACHINES; m++)
        printf("--:|--:|--:|--:|");
    printf("\n");
    for (size_t i = 0; i < s->n_slots; i++) {
        const struct replay *r = s->rows[REPLAY_PROMOTE][i].sums, *d = s->rows[REPLAY_DEMAND][i].sums;
        const double slice = fmin(1, (double)s->slots[i] / (any->n_layers * any->n_experts));
        printf("| %u |", s->slots[i]);
        for (const struct machine *m = machines; m < machines + N_MACHINES; m++) {
            const double cpu = (double)r[REPLAY_OURS].n_uses / m->ram / 100;
            const double slices = (double)r[REPLAY_OURS].n_uses * fmax(slice / m->vram, (1 - slice) / m->ram);
            printf(" %.1f | %.1f | %.1f | %.1f |", seconds(&r[REPLAY_OURS], REPLAY_PROMOTE, any->n_used, m) / cpu,
                   seconds(&r[REPLAY_LRU], REPLAY_PROMOTE, any->n_used, m) / cpu, slices / cpu,
                   seconds(&d[REPLAY_OURS], REPLAY_DEMAND, any->n_used, m) / cpu);
        }
        printf("\n");
    }
}

static bool write_svg(const struct simulation *s, const char *path, struct sc_error *e)
{
    static const char *const names[] = {"LRU", "LFU", "ours", "best fixed set", "priced optimum", "Belady"};
    double x[MAX_SLOT_COUNTS], y[REPLAY_N_CACHES][MAX_SLOT_COUNTS];
    struct curve curves[REPLAY_N_CACHES];
    for (size_t i = 0; i < s->n_slots; i++)
        x[i] = s->slots[i];
    for (size_t c = 0; c < REPLAY_N_CACHES; c++) {
        for (size_t i = 0; i < s->n_slots; i++)
            y[c][i] = percent(&s->rows[REPLAY_PROMOTE][i].sums[c]);
        curves[c] = (struct curve){names[c], y[c]};
    }
    if (s->n_slots < 2)
        return sc_fail(e, SC_INVALID_ARGUMENT, "a curve needs at least 2 slot counts");
    return curve_write(path, "Experts of decode found in slots, percent", "slots", x, s->n_slots, false, 100, curves,
                       REPLAY_N_CACHES, e);
}

/* Without a wish: from the fewest that run to all but one, in sixteenths. */
static void default_slots(struct simulation *s)
{
    const uint32_t least = s->traces[0].n_used, all = s->traces[0].n_layers * s->traces[0].n_experts;
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t n = i == 15 ? all - 1 : all * (i ? i : 1) / 16;
        n = n < least ? least : n;
        if (s->n_slots == 0 || n > s->slots[s->n_slots - 1])
            s->slots[s->n_slots++] = n;
    }
}

static bool parse_slots(struct simulation *s, const char *text)
{
    for (char *end; *text; text = *end ? end + 1 : end) {
        const unsigned long n = strtoul(text, &end, 10);
        if (end == text || (*end && *end != ',') || n == 0 || n > UINT32_MAX || s->n_slots == MAX_SLOT_COUNTS ||
            (s->n_slots && n <= s->slots[s->n_slots - 1]))
            return false;
        s->slots[s->n_slots++] = (uint32_t)n;
    }
    return s->n_slots > 0;
}

static bool read_traces(struct simulation *s, char **paths, int n, struct sc_error *e)
{
    s->traces = calloc((size_t)n, sizeof(*s->traces));
    if (!s->traces)
        return sc_fail_memory(e, "the traces");
    for (; s->n_traces < (size_t)n; s->n_traces++) {
        struct routing_file *r = &s->traces[s->n_traces], *first = &s->traces[0];
        if (!routing_file_init(r, paths[s->n_traces], e))
            return false;
        if (r->n_layers != first->n_layers || r->n_experts != first->n_experts || r->n_used != first->n_used)
            return sc_fail(e, SC_INVALID_ARGUMENT, "%s is of another model than %s", paths[s->n_traces], paths[0]);
    }
    if (!s->n_slots)
        default_slots(s);
    if (s->slots[0] < s->traces[0].n_used)
        return sc_fail(e, SC_INVALID_ARGUMENT, "a token uses %u experts of a layer, %u slots are too few",
                       s->traces[0].n_used, s->slots[0]);
    return true;
}

/* The trace and the number of slots where something is worst. */
struct worst {
    double ratio;
    uint64_t ours, theirs;
    const char *trace;
    uint32_t n_slots;
};

static void worsen(struct worst *w, double ratio, uint64_t ours, uint64_t theirs, const char *trace, uint32_t n_slots)
{
    if (ratio < w->ratio)
        *w = (struct worst){ratio, ours, theirs, trace, n_slots};
}

static void print_worst(const char *claim, const struct worst *w)
{
    printf("%s: %s: ", w->ratio >= 1 ? "PASS" : "FAIL", claim);
    if (w->trace)
        printf("%.4f at worst, %llu against %llu, %u slots, %s\n", w->ratio, (unsigned long long)w->ours,
               (unsigned long long)w->theirs, w->n_slots, w->trace);
    else
        printf("it has none anywhere\n");
}

static uint64_t all_uploads(const struct replay *r)
{
    return r->n_uploads + r->n_prompt_uploads;
}

/* In hits, where the CPU computes the misses; elsewhere it is the uploads. */
static uint64_t cost(const struct replay *r, enum replay_path path)
{
    return path == REPLAY_DEMAND ? all_uploads(r) : r->n_uses - r->n_hits + REPLAY_PRICE * all_uploads(r);
}

/* Over all traces and numbers of slots. */
struct total {
    uint64_t ours, lru; /* fetches */
    uint64_t n_promotions, n_hits, n_belady_hits;
    struct worst fetches, hits, cost;
};

/* What was asked for and not there, by prompts and decode together. */
static uint64_t n_fetches(const struct replay *r)
{
    return r->n_uses - r->n_hits + r->n_prompt_uploads;
}

static bool add_case(struct total *sum, const struct routing_file *trace, const char *name, enum replay_path path,
                     uint32_t n_slots, struct sc_error *e)
{
    struct replay ours = {0}, lru = {0}, belady = {0};
    if (!replay_run(trace, path, REPLAY_OURS, n_slots, &ours, e) ||
        !replay_run(trace, path, REPLAY_LRU, n_slots, &lru, e) ||
        !replay_run(trace, path, REPLAY_BELADY, n_slots, &belady, e))
        return false;
    const uint64_t fetches = n_fetches(&ours), fetches_lru = n_fetches(&lru);
    const uint64_t cost_ours = cost(&ours, path), cost_lru = cost(&lru, path);
    sum->ours += fetches;
    sum->lru += fetches_lru;
    sum->n_promotions += path == REPLAY_PROMOTE ? ours.n_uploads : 0;
    sum->n_hits += ours.n_hits;
    sum->n_belady_hits += belady.n_hits;
    worsen(&sum->fetches, ratio(fetches_lru, fetches), fetches, fetches_lru, name, n_slots);
    worsen(&sum->cost, ratio(cost_lru, cost_ours), cost_ours, cost_lru, name, n_slots);
    if (lru.n_hits)
        worsen(&sum->hits, ratio(ours.n_hits, lru.n_hits), ours.n_hits, lru.n_hits, name, n_slots);
    return true;
}

static bool add_cases(const struct simulation *s, char **paths, struct total sums[REPLAY_N_PATHS], struct sc_error *e)
{
    const struct worst none = {.ratio = HUGE_VAL};
    const uint32_t all = s->traces[0].n_layers * s->traces[0].n_experts, step = 1 + all / MAX_CLAIM_BUDGETS;
    for (enum replay_path path = 0; path < REPLAY_N_PATHS; path++) {
        sums[path] = (struct total){.fetches = none, .hits = none, .cost = none};
        for (size_t t = 0; t < s->n_traces; t++)
            for (uint32_t n = s->traces[t].n_used; n < all; n += step)
                if (!add_case(&sums[path], &s->traces[t], paths[t], path, n, e))
                    return false;
    }
    return true;
}

static void print_lru_claims(const struct total sums[REPLAY_N_PATHS])
{
    const struct total *promote = &sums[REPLAY_PROMOTE], *demand = &sums[REPLAY_DEMAND];
    printf("\n");
    print_worst("misses on the CPU: hits never below LRU's", &promote->hits);
    print_worst("misses on the CPU: misses and uploads, prompts' too, at 3 misses each, never dearer than LRU's",
                &promote->cost);
    print_worst("misses uploaded: uploads, prompts' too, never more than LRU's", &demand->cost);
    print_worst("misses uploaded: decode's hits alone never below LRU's", &demand->hits);
}

static void print_totals(const struct total sums[REPLAY_N_PATHS])
{
    static const char *const ways[] = {"misses on the CPU", "misses uploaded"};
    printf("\nAll traces and numbers of slots together, misses of prompts and decode:\n");
    for (enum replay_path path = 0; path < REPLAY_N_PATHS; path++) {
        const struct total *t = &sums[path];
        const struct worst *w = &t->fetches;
        printf("%s: %llu against LRU's %llu, %.2f %%, at worst %.2f %%, %llu against %llu, %u slots, %s", ways[path],
               (unsigned long long)t->ours, (unsigned long long)t->lru, 100 * ratio(t->ours, t->lru),
               100 * ratio(w->ours, w->theirs), (unsigned long long)w->ours, (unsigned long long)w->theirs, w->n_slots,
               w->trace);
        if (path == REPLAY_PROMOTE)
            printf("; %llu promotions", (unsigned long long)t->n_promotions);
        printf("; %.2f %% of Belady's hits\n", 100 * ratio(t->n_hits, t->n_belady_hits));
    }
}

/* Where hits may stay out, what the best set that stays can have of Belady's is the most that few uploads allow. */
static void print_belady_claim(const struct simulation *s)
{
    for (size_t i = 0; i < s->n_slots; i++) {
        const struct row *row = &s->rows[REPLAY_PROMOTE][i];
        const uint64_t belady = row->sums[REPLAY_BELADY].n_hits;
        const double share = 100 * ratio(row->sums[REPLAY_OURS].n_hits, belady);
        printf("%s: 80 %% of Belady's hits at %u slots: %.1f %%, the best set that stays has %.1f %%\n",
               share >= 80 ? "PASS" : "FAIL", row->n_slots, share, 100 * ratio(row->sums[REPLAY_FIXED].n_hits, belady));
    }
}

static bool run(struct simulation *s, char **paths, int n, const char *svg, struct sc_error *e)
{
    if (!read_traces(s, paths, n, e))
        return false;
    for (enum replay_path path = 0; path < REPLAY_N_PATHS; path++)
        for (size_t i = 0; i < s->n_slots; i++) {
            s->rows[path][i].n_slots = s->slots[i];
            if (!simulate_row(s, path, &s->rows[path][i], e))
                return false;
        }
    printf("%zu traces, %llu tokens of decode, %u layers of %u experts, %u used\n", s->n_traces,
           (unsigned long long)s->rows[0][0].sums[0].n_tokens, s->traces[0].n_layers, s->traces[0].n_experts,
           s->traces[0].n_used);
    for (enum replay_path path = 0; path < REPLAY_N_PATHS; path++)
        print_path(s, path);
    print_times(s);
    struct total sums[REPLAY_N_PATHS];
    if (!add_cases(s, paths, sums, e))
        return false;
    print_lru_claims(sums);
    print_belady_claim(s);
    print_totals(sums);
    return !svg || write_svg(s, svg, e);
}

int main(int argc, char **argv)
{
    static struct simulation s;
    struct sc_error e = {0};
    const char *svg = NULL;
    int i = 1;
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
        if (strcmp(argv[i], "--svg") == 0)
            svg = argv[i + 1];
        else if (strcmp(argv[i], "--slots") != 0 || !parse_slots(&s, argv[i + 1]))
            break;
    }
    if (i >= argc || argv[i][0] == '-') {
        fprintf(stderr, "usage: simulate_experts [--slots N,N,... (ascending)] [--svg FILE] TRACE...\n");
        return 2;
    }
    const bool ok = run(&s, argv + i, argc - i, svg, &e);
    if (!ok)
        fprintf(stderr, "simulate_experts: %s\n", e.text);
    for (size_t t = 0; s.traces && t < s.n_traces; t++)
        routing_file_finish(&s.traces[t]);
    free(s.traces);
    return ok ? 0 : 1;
}
