/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_kernels.h"
#include "bench_report.h"
#include "command.h"
#include "curve.h"
#include "engine.h"
#include "interrupt.h"
#include "option_table.h"
#include "plan.h"
#include "terminal.h"

/* Of prompts: around the sizes where kernels change, then doubling. */
static int64_t curve_lengths[] = {1, 2, 4, 8, 9, 12, 16, 24, 32, 64, 128, 256, 512, 1024, 2048, 4096};

struct bench {
    const struct options *o;
    struct sc_plan plan;
    struct sc_engine *engine;
    struct sc_session *session;
    sc_token *tokens; /* any will do: as many as the longest test has */
    struct bench_report report;
    double curve[N_ELEMENTS(curve_lengths)]; /* t/s */
    size_t n_done, n_total;                  /* runs of a test */
};

/* As `run` does it by default: what may come next is known, and then it is any token. */
static bool eval(struct bench *b, const sc_token *tokens, size_t n, struct sc_error *e)
{
    struct sc_candidate top[SC_MAX_CANDIDATES];
    size_t n_top = (size_t)sc_sampling_default().top_k;

    return sc_session_eval_top(b->session, tokens, n, top, &n_top, e);
}

static bool run_once(struct bench *b, const struct bench_result *r, size_t n, double *seconds, struct sc_error *e)
{
    const sc_token *tokens = b->tokens + r->depth;
    sc_session_truncate(b->session, (uint32_t)r->depth);
    double start = engine_clock();

    if (r->is_prompt) {
        if (!eval(b, tokens, n, e))
            return false;
    } else {
        for (size_t i = 0; i < n; i++) {
            if (interrupt_requested())
                return sc_fail(e, SC_CANCELLED, "interrupted");
            if (!eval(b, tokens + i, 1, e))
                return false;
        }
    }
    *seconds = engine_clock() - start;
    terminal_progress("measuring", ++b->n_done, b->n_total);
    return true;
}

static double best_speed(const struct bench_result *r)
{
    double best = 0;

    for (size_t i = 0; i < r->n_runs; i++)
        best = fmax(best, (double)r->n / r->seconds[i]);
    return best;
}

static bool draw(const struct bench *b, size_t n, struct sc_error *e)
{
    double x[N_ELEMENTS(curve_lengths)], most = 0;
    const struct curve curve = {"t/s", b->curve};

    if (n < 2)
        return sc_fail(e, SC_INVALID_ARGUMENT, "%s: the context is too short for a curve", b->o->svg);
    for (size_t i = 0; i < n; i++) {
        x[i] = (double)curve_lengths[i];
        most = fmax(most, b->curve[i]);
    }
    return curve_write(b->o->svg, "Prompt, tokens per second (best run)", "tokens at once", x, n, true,
                       curve_round_up(most), &curve, 1, e);
}

static bool measure(struct bench *b, bool is_prompt, const struct integers *lengths, size_t depth, struct sc_error *e)
{
    static struct bench_result r;

    for (size_t i = 0; i < lengths->n; i++) {
        r.is_prompt = is_prompt;
        r.n = (size_t)lengths->values[i];
        r.depth = depth;
        r.n_runs = (size_t)b->o->repetitions;
        if (!r.n)
            continue;
        if (!b->o->no_warmup && !run_once(b, &r, is_prompt ? r.n : r.n < 2 ? r.n : 2, &r.seconds[0], e))
            return false;
        sc_session_reset_stats(b->session);
        for (size_t k = 0; k < r.n_runs; k++)
            if (!run_once(b, &r, r.n, &r.seconds[k], e))
                return false;
        bench_report_add(&b->report, &r);
    }
    return true;
}

/* The tests take turns: whatever else the machine does for some seconds would be a dip of the curve. */
static bool measure_curve(struct bench *b, const struct integers *lengths, size_t depth, struct sc_error *e)
{
    static struct bench_result results[N_ELEMENTS(curve_lengths)];
    const size_t n_warm = b->o->no_warmup ? 0 : 1, n_rounds = n_warm + (size_t)b->o->repetitions;
    double unused;

    for (size_t round = 0; round < n_rounds; round++) {
        if (round == n_warm)
            sc_session_reset_stats(b->session);
        for (size_t i = 0; i < lengths->n; i++) {
            struct bench_result *r = &results[i];

            r->is_prompt = true;
            r->n = (size_t)lengths->values[i];
            r->depth = depth;
            r->n_runs = round < n_warm ? 0 : round - n_warm + 1;
            if (!run_once(b, r, r->n, r->n_runs ? &r->seconds[r->n_runs - 1] : &unused, e))
                return false;
        }
    }
    for (size_t i = 0; i < lengths->n; i++) {
        bench_report_add(&b->report, &results[i]);
        b->curve[i] = best_speed(&results[i]);
    }
    return true;
}

static bool measure_at(struct bench *b, size_t depth, const struct integers *prompt, const struct integers *generate,
                       struct sc_error *e)
{
    sc_session_truncate(b->session, 0);
    return sc_session_eval(b->session, b->tokens, depth, NULL, 0, e) &&
           (b->o->curve ? measure_curve(b, prompt, depth, e)
                        : measure(b, true, prompt, depth, e) && measure(b, false, generate, depth, e));
}

static bool prepare(struct bench *b, size_t longest, struct sc_error *e)
{
    uint32_t n_vocab = sc_engine_n_vocab(b->engine), random = 1;

    b->tokens = malloc(longest * sizeof *b->tokens);
    if (!b->tokens)
        return sc_fail_memory(e, "the benchmark");
    for (size_t i = 0; i < longest; i++) {
        random = random * 1664525u + 1013904223u;
        b->tokens[i] = (sc_token)((random >> 8) % n_vocab);
    }
    b->session = sc_session_create(b->engine, e);
    b->report.engine = b->engine;
    b->report.session = b->session;
    return b->session != NULL;
}

/* The tokens that the context may hold: no test that the user did not ask for is longer. */
static bool read_context(const struct options *o, uint64_t *out, struct sc_error *e)
{
    struct sc_gguf *g = o->synthetic ? sc_gguf_open_header(o->model, e) : sc_gguf_open(o->model, e);
    uint64_t value;

    if (!g)
        return false;
    *out = UINT64_MAX; /* what is wrong with the file is the engine's to say */
    if (sc_gguf_read_u64(sc_gguf_find_value(g, "llama.context_length"), &value) && value)
        *out = value;
    if (o->context && (uint64_t)o->context < *out)
        *out = (uint64_t)o->context;
    sc_gguf_close(g);
    return true;
}

static int64_t at_most(int64_t n, uint64_t bound)
{
    return (uint64_t)n < bound ? n : (int64_t)bound;
}

static size_t count_tests(const struct integers *lengths)
{
    size_t n = 0;

    for (size_t i = 0; i < lengths->n; i++)
        n += lengths->values[i] > 0;
    return n;
}

static size_t longest_of(const struct integers *lengths, size_t longest)
{
    for (size_t i = 0; i < lengths->n; i++)
        longest = (size_t)lengths->values[i] > longest ? (size_t)lengths->values[i] : longest;
    return longest;
}

static void note_synthetic(const struct sc_engine *engine)
{
    uint64_t has = sc_engine_synthetic_bytes(engine), all = sc_gguf_size_bytes(sc_engine_gguf(engine));
    char size[32], memory[32];

    terminal_note("the %s of weights are made up, in %s of memory%s", number_bytes(size, all),
                  number_bytes(memory, has),
                  has < all - all / 100 ? ": experts share it, so caches may flatter the speed" : "");
}

/* No flag is taken that would change nothing: false after saying which. */
static bool check_use(const struct options *o)
{
    /* single operations and models are measured with different flags, but for a few */
    enum use { WITH_MODEL, WITH_KERNELS, WITH_BOTH };
    static const enum use uses[N_OPTIONS] = {
        [OPTION_KERNELS] = WITH_KERNELS,     [OPTION_SHAPE] = WITH_KERNELS,    [OPTION_TYPES] = WITH_KERNELS,
        [OPTION_VARIANTS] = WITH_KERNELS,    [OPTION_FORMAT] = WITH_BOTH,      [OPTION_JSON] = WITH_BOTH,
        [OPTION_BENCH_GENERATE] = WITH_BOTH, [OPTION_REPETITIONS] = WITH_BOTH, [OPTION_DEVICE] = WITH_BOTH,
        [OPTION_LOG_LEVEL] = WITH_BOTH,
    };

    for (int id = 0; id < N_OPTIONS; id++) {
        if (!o->given[id] || uses[id] == WITH_BOTH || uses[id] == (o->kernels ? WITH_KERNELS : WITH_MODEL))
            continue;
        const char *flags = option_row((enum option_id)id)->flags;
        terminal_error(o->kernels ? "--kernels has no use for %.*s" : "%.*s says what --kernels measures",
                       (int)strcspn(flags, " "), flags);
        return false;
    }
    if (o->curve && (o->given[OPTION_BENCH_PROMPT] || o->given[OPTION_BENCH_GENERATE])) {
        terminal_error("--curve has lengths of its own, so it has no use for %s",
                       o->given[OPTION_BENCH_PROMPT] ? "-p" : "-n");
        return false;
    }
    if (o->svg && !o->curve)
        terminal_error("--svg draws what --curve measures");
    return !o->svg || o->curve;
}

static int run(const struct options *o)
{
    int64_t prompt_default = 512, generate_default = 128, no_depth = 0;
    uint64_t context;
    struct integers prompt = o->given[OPTION_BENCH_PROMPT] ? o->bench_prompt : (struct integers){&prompt_default, 1};
    struct integers generate =
        o->given[OPTION_BENCH_GENERATE] ? o->bench_generate : (struct integers){&generate_default, 1};
    const struct integers depths = o->given[OPTION_BENCH_DEPTH] ? o->bench_depth : (struct integers){&no_depth, 1};
    struct bench b = {.o = o};
    struct sc_error e = {0};
    size_t n_tests;
    bool ok = false;

    if (!check_use(o))
        return EXIT_USAGE;
    if (o->kernels)
        return bench_kernels(o);
    if (!o->model) {
        terminal_error("bench needs -m FILE, or --kernels");
        return EXIT_USAGE;
    }
    if (o->curve) {
        prompt = (struct integers){curve_lengths, N_ELEMENTS(curve_lengths)};
        generate = (struct integers){&no_depth, 1};
    }
    n_tests = count_tests(&prompt) + count_tests(&generate);
    if (!n_tests) {
        terminal_error("bench has nothing to measure: -p and -n are both 0");
        return EXIT_USAGE;
    }
    if (!read_context(o, &context, &e))
        return engine_failed(&e);
    /* behind the depths; a depth without any room is an error, which a test of one token leads to */
    const size_t deepest = longest_of(&depths, 0);
    const uint64_t room = context > deepest ? context - deepest : 1;
    while (o->curve && (uint64_t)prompt.values[prompt.n - 1] > room)
        prompt.n--;
    n_tests = count_tests(&prompt) + count_tests(&generate);
    prompt_default = at_most(prompt_default, room);
    generate_default = at_most(generate_default, room);
    size_t longest = deepest + longest_of(&generate, longest_of(&prompt, 0));
    if (o->context && longest > (uint64_t)o->context) {
        terminal_error("a test takes %zu tokens but the context holds %" PRId64 " (-c sets it)", longest, o->context);
        return EXIT_FAILED;
    }
    b.n_total = depths.n * n_tests * ((size_t)o->repetitions + !o->no_warmup);
    bench_report_init(&b.report, o);
    struct sc_engine_params params = engine_params(o, (uint32_t)longest);
    params.no_hot_set = true;     /* every call measures the same, and its random tokens teach nothing */
    if (count_tests(&generate)) { /* what is wrong with the model is the engine's to say */
        struct sc_error ignored = {0};
        b.report.plan = sc_plan_make(&b.plan, &params, &ignored) ? &b.plan : NULL;
    }
    b.engine = engine_open(params, &e);
    if (b.engine && sc_engine_synthetic_bytes(b.engine))
        note_synthetic(b.engine);
    ok = b.engine && prepare(&b, longest, &e);
    for (size_t i = 0; i < depths.n && ok; i++)
        ok = measure_at(&b, (size_t)depths.values[i], &prompt, &generate, &e);
    terminal_clear();
    ok = ok && (!o->svg || draw(&b, prompt.n, &e));
    bench_report_finish(&b.report, ok);
    sc_session_destroy(b.session);
    free(b.tokens);
    sc_engine_destroy(b.engine);
    return ok ? EXIT_OK : engine_failed(&e);
}

static const enum option_id options[] = {
    OPTION_BENCH_MODEL, OPTION_BENCH_PROMPT,  OPTION_BENCH_GENERATE, OPTION_BENCH_DEPTH, OPTION_REPETITIONS,
    OPTION_NO_WARMUP,   OPTION_FORMAT,        OPTION_BENCH_CONTEXT,  OPTION_SYNTHETIC,   OPTION_CURVE,
    OPTION_SVG,         OPTION_KERNELS,       OPTION_SHAPE,          OPTION_TYPES,       OPTION_VARIANTS,
    OPTIONS_ENGINE,     OPTION_ROUTING_TRACE, OPTION_LOG_LEVEL,      OPTION_JSON,
};

const struct command command_bench = {
    .name = "bench",
    .summary = "measure the speed of prefill (pp) and generation (tg)",
    .usage = "-m MODEL [-p 512] [-n 128] [-d 0] [-r 5] [-o md|csv|json] [--synthetic] [FLAGS], or\n       "
             "scoria bench -m MODEL --curve [--svg FILE] [FLAGS], or\n       "
             "scoria bench --kernels [--shape NAME] [--type LIST] [--variants] [-n 1,16,512] [-r 5] [-o md|csv|json]",
    .details =
        "Every test starts with an empty context, or with one of -d tokens. t/s is the mean over the repetitions and\n"
        "the standard deviation; GB/s is what generation reads of the weights: the bytes that a token needs, times\n"
        "t/s; VRAM, RAM and disk are its parts, of which RAM also counts what is uploaded. % bound: the time that\n"
        "plain reading at the measured rates of the machine would take, of the time that it took. The default tests\n"
        "are shorter where the context leaves less room.\n"
        "--kernels: the median time of one run; % peak is of what the device reaches when it only reads or copies.\n",
    .options = options,
    .n_options = N_ELEMENTS(options),
    .run = run,
};
