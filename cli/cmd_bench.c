/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "engine.h"
#include "interrupt.h"
#include "output.h"
#include "scoria.h"
#include "table.h"
#include "terminal.h"
#include "tiers.h"

enum {
    COLUMN_MODEL,
    COLUMN_SIZE,
    COLUMN_PARAMS,
    COLUMN_DEVICE,
    COLUMN_TEST,
    COLUMN_SPEED,
    COLUMN_BANDWIDTH,
    COLUMN_VRAM,
    COLUMN_RAM,
    COLUMN_DISK,
    COLUMN_BOUND,
    N_COLUMNS
};
enum { CELL_SIZE = 300 };

struct bench {
    const struct options *o;
    struct sc_plan plan;
    bool has_plan;
    struct sc_engine *engine;
    struct sc_session *session;
    sc_token *tokens; /* any will do: as many as the longest test has */
    float *logits;    /* (n_vocab) */
    enum option_format format;
    struct column columns[N_COLUMNS];
    json_t *list;           /* of results, for JSON */
    size_t n_done, n_total; /* runs of a test */
};

struct result {
    bool is_prompt; /* a prompt of n tokens at once, or n tokens one by one */
    size_t n;
    double seconds[1000]; /* (o->repetitions) */
};

static bool run_once(struct bench *b, bool is_prompt, size_t n, double *seconds, struct sc_error *e)
{
    double start = engine_clock();

    sc_session_truncate(b->session, 0);
    if (is_prompt) {
        if (!sc_session_eval(b->session, b->tokens, n, b->logits, 1, e))
            return false;
    } else {
        for (size_t i = 0; i < n; i++) {
            if (interrupt_requested())
                return sc_fail(e, SC_CANCELLED, "interrupted");
            if (!sc_session_eval(b->session, b->tokens + i, 1, b->logits, 1, e))
                return false;
        }
    }
    *seconds = engine_clock() - start;
    terminal_progress("measuring", ++b->n_done, b->n_total);
    return true;
}

/* Of tokens per second, over the runs. */
static void speed(const struct result *r, size_t n_runs, double *mean, double *deviation)
{
    double sum = 0, squares = 0;

    for (size_t i = 0; i < n_runs; i++)
        sum += (double)r->n / r->seconds[i];
    *mean = sum / (double)n_runs;
    for (size_t i = 0; i < n_runs; i++) {
        double d = (double)r->n / r->seconds[i] - *mean;
        squares += d * d;
    }
    *deviation = n_runs > 1 ? sqrt(squares / (double)(n_runs - 1)) : 0;
}

static double gigabytes(const struct bench *b, double tokens_per_second)
{
    return (double)sc_engine_token_bytes(b->engine) * tokens_per_second * 1e-9;
}

/* False for prompts too: what they read depends on which experts they take. */
static bool measure_tiers(const struct bench *b, const struct result *r, struct tiers *t)
{
    struct sc_stats s;

    sc_session_stats(b->session, &s);
    return !r->is_prompt && b->has_plan && tiers_of(t, &b->plan, &s);
}

static void fill_tiers(const struct bench *b, const struct result *r, char cells[N_COLUMNS][CELL_SIZE])
{
    const char *format = b->format == FORMAT_CSV ? "%.6g" : "%.2f";
    struct tiers t;

    for (int c = COLUMN_VRAM; c <= COLUMN_BOUND; c++)
        cells[c][0] = 0;
    if (!measure_tiers(b, r, &t))
        return;
    snprintf(cells[COLUMN_VRAM], CELL_SIZE, format, t.vram * 1e-9);
    snprintf(cells[COLUMN_RAM], CELL_SIZE, format, t.ram * 1e-9);
    snprintf(cells[COLUMN_DISK], CELL_SIZE, format, t.disk * 1e-9);
    snprintf(cells[COLUMN_BOUND], CELL_SIZE, b->format == FORMAT_CSV ? "%.4g" : "%.0f", 100 * t.bound);
}

static void fill(const struct bench *b, const struct result *r, char cells[N_COLUMNS][CELL_SIZE])
{
    struct sc_gguf_string name = engine_model_name(b->engine);
    uint64_t size = sc_gguf_size_bytes(sc_engine_gguf(b->engine)), params = sc_engine_n_parameters(b->engine, false);
    bool is_csv = b->format == FORMAT_CSV;
    double mean, deviation;
    char text[32];

    speed(r, (size_t)b->o->repetitions, &mean, &deviation);
    snprintf(cells[COLUMN_MODEL], CELL_SIZE, "%.*s", name.size_bytes < 64 ? (int)name.size_bytes : 64, name.data);
    for (char *c = cells[COLUMN_MODEL]; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f || *c == '|')
            *c = '?';
    snprintf(cells[COLUMN_DEVICE], CELL_SIZE, "%s", sc_engine_device(b->engine)->name);
    snprintf(cells[COLUMN_TEST], CELL_SIZE, "%s%zu", r->is_prompt ? "pp" : "tg", r->n);
    if (is_csv) {
        snprintf(cells[COLUMN_SIZE], CELL_SIZE, "%" PRIu64, size);
        snprintf(cells[COLUMN_PARAMS], CELL_SIZE, "%" PRIu64, params);
        snprintf(cells[COLUMN_SPEED], CELL_SIZE, "%.6g", mean);
    } else {
        snprintf(cells[COLUMN_SIZE], CELL_SIZE, "%s", number_bytes(text, size));
        snprintf(cells[COLUMN_PARAMS], CELL_SIZE, "%s", number_count(text, params));
        snprintf(cells[COLUMN_SPEED], CELL_SIZE, "%.2f ± %.2f", mean, deviation);
    }
    /* how much a prompt reads depends on which experts it takes: no honest number */
    snprintf(cells[COLUMN_BANDWIDTH], CELL_SIZE, r->is_prompt ? "" : is_csv ? "%.6g" : "%.2f", gigabytes(b, mean));
    fill_tiers(b, r, cells);
}

static json_t *to_json(const struct bench *b, const struct result *r)
{
    struct sc_gguf_string name = engine_model_name(b->engine);
    const struct sc_device_info *device = sc_engine_device(b->engine);
    const struct sc_placement *p = sc_engine_placement(b->engine);
    struct sc_stats s;
    struct tiers t;
    json_t *samples = json_array();
    double mean, deviation;

    speed(r, (size_t)b->o->repetitions, &mean, &deviation);
    for (int64_t i = 0; i < b->o->repetitions; i++)
        json_array_append_new(samples, json_number((double)r->n / r->seconds[i]));
    sc_session_stats(b->session, &s);
    json_t *result = json_object();
    json_put(result, "model_filename", json_word(b->o->model));
    json_put(result, "model_name", json_text(name.data, name.size_bytes));
    json_put(result, "model_size", json_count(sc_gguf_size_bytes(sc_engine_gguf(b->engine))));
    json_put(result, "model_n_params", json_count(sc_engine_n_parameters(b->engine, false)));
    json_put(result, "device", json_word(device->name));
    json_put(result, "driver", json_word(device->driver));
    json_put(result, "test", json_word(r->is_prompt ? "pp" : "tg"));
    json_put(result, "n_prompt", json_count(r->is_prompt ? r->n : 0));
    json_put(result, "n_gen", json_count(r->is_prompt ? 0 : r->n));
    json_put(result, "n_ubatch", json_count(sc_engine_n_batch(b->engine)));
    json_put(result, "type_kv", json_word(b->o->kv == SC_KV_F32 ? "f32" : "f16"));
    json_put(result, "avg_ts", json_number(mean));
    json_put(result, "stddev_ts", json_number(deviation));
    json_put(result, "samples_ts", samples);
    json_put(result, "gb_per_s", r->is_prompt ? json_null() : json_number(gigabytes(b, mean)));
    const bool has_tiers = measure_tiers(b, r, &t);
    json_put(result, "vram_gb_per_s", has_tiers ? json_number(t.vram * 1e-9) : json_null());
    json_put(result, "ram_gb_per_s", has_tiers ? json_number(t.ram * 1e-9) : json_null());
    json_put(result, "disk_gb_per_s", has_tiers ? json_number(t.disk * 1e-9) : json_null());
    json_put(result, "bound_percent", has_tiers ? json_number(100 * t.bound) : json_null());
    json_put(result, "synthetic_bytes", json_count(sc_engine_synthetic_bytes(b->engine)));
    json_put(result, "uploaded_bytes", json_count(s.uploaded_bytes));
    json_put(result, "disk_bytes", json_count(s.disk_bytes));
    json_put(result, "budget_bytes", json_count(p->budget_bytes));
    json_put(result, "expert_hits", json_count(s.expert_hits));
    json_put(result, "expert_misses", json_count(s.expert_misses));
    json_put(result, "expert_host_runs", json_count(s.expert_host_runs));
    json_put(result, "n_slots", json_count(p->n_slots));
    json_put(result, "n_experts_total", json_count(p->n_experts_total));
    return result;
}

static void report(struct bench *b, const struct result *r)
{
    char cells[N_COLUMNS][CELL_SIZE];
    const char *row[N_COLUMNS];

    if (b->format == FORMAT_JSON) {
        json_array_append_new(b->list, to_json(b, r));
        return;
    }
    terminal_clear();
    fill(b, r, cells);
    for (int c = 0; c < N_COLUMNS; c++)
        row[c] = cells[c];
    if (!b->columns[COLUMN_MODEL].width) {
        column_fit(&b->columns[COLUMN_MODEL], row[COLUMN_MODEL]);
        column_fit(&b->columns[COLUMN_DEVICE], row[COLUMN_DEVICE]);
        table_header(b->format == FORMAT_CSV ? TABLE_CSV : TABLE_MD, b->columns, N_COLUMNS);
    }
    table_row(b->format == FORMAT_CSV ? TABLE_CSV : TABLE_MD, b->columns, N_COLUMNS, row);
}

static bool measure(struct bench *b, bool is_prompt, const struct integers *lengths, struct sc_error *e)
{
    static struct result r;

    for (size_t i = 0; i < lengths->n; i++) {
        r.is_prompt = is_prompt;
        r.n = (size_t)lengths->values[i];
        if (!r.n)
            continue;
        if (!b->o->no_warmup && !run_once(b, is_prompt, is_prompt ? r.n : r.n < 2 ? r.n : 2, &r.seconds[0], e))
            return false;
        sc_session_reset_stats(b->session);
        for (int64_t k = 0; k < b->o->repetitions; k++)
            if (!run_once(b, is_prompt, r.n, &r.seconds[k], e))
                return false;
        report(b, &r);
    }
    return true;
}

static bool prepare(struct bench *b, size_t longest, struct sc_error *e)
{
    uint32_t n_vocab = sc_engine_n_vocab(b->engine), random = 1;

    b->tokens = malloc(longest * sizeof *b->tokens);
    b->logits = malloc(n_vocab * sizeof *b->logits);
    if (!b->tokens || !b->logits)
        return sc_fail_memory(e, "the benchmark");
    for (size_t i = 0; i < longest; i++) {
        random = random * 1664525u + 1013904223u;
        b->tokens[i] = (sc_token)((random >> 8) % n_vocab);
    }
    b->session = sc_session_create(b->engine, e);
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
    if (sc_gguf_read_u64(sc_gguf_find_value(g, "llama.attention.sliding_window"), &value) && value && value < *out)
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

static int run(const struct options *o)
{
    int64_t prompt_default = 512, generate_default = 128;
    uint64_t context;
    const struct integers prompt =
        o->given[OPTION_BENCH_PROMPT] ? o->bench_prompt : (struct integers){&prompt_default, 1};
    const struct integers generate =
        o->given[OPTION_BENCH_GENERATE] ? o->bench_generate : (struct integers){&generate_default, 1};
    struct bench b = {
        .o = o,
        .format = o->json ? FORMAT_JSON : (enum option_format)o->format,
        .columns = {[COLUMN_MODEL] = {"model", 0, false},
                    [COLUMN_SIZE] = {"size", 10, true},
                    [COLUMN_PARAMS] = {"params", 8, true},
                    [COLUMN_DEVICE] = {"device", 0, false},
                    [COLUMN_TEST] = {"test", 7, true},
                    [COLUMN_SPEED] = {"t/s", 16, true},
                    [COLUMN_BANDWIDTH] = {"GB/s", 7, true},
                    [COLUMN_VRAM] = {"VRAM", 7, true},
                    [COLUMN_RAM] = {"RAM", 7, true},
                    [COLUMN_DISK] = {"disk", 5, true},
                    [COLUMN_BOUND] = {"% bound", 0, true}},
    };
    struct sc_error e = {0};
    size_t n_tests = count_tests(&prompt) + count_tests(&generate);
    bool ok = false;

    if (!n_tests) {
        terminal_error("bench has nothing to measure: -p and -n are both 0");
        return EXIT_USAGE;
    }
    if (!read_context(o, &context, &e))
        return engine_failed(&e);
    prompt_default = at_most(prompt_default, context);
    generate_default = at_most(generate_default, context);
    size_t longest = longest_of(&generate, longest_of(&prompt, 0));
    if (o->context && longest > (uint64_t)o->context) {
        terminal_error("a test has %zu tokens but the context holds %" PRId64 " (-c sets it)", longest, o->context);
        return EXIT_FAILED;
    }
    b.n_total = n_tests * ((size_t)o->repetitions + !o->no_warmup);
    b.list = json_array();
    struct sc_engine_params params = engine_params(o, (uint32_t)longest);
    params.no_hot_set = true;     /* every call measures the same, and its random tokens teach nothing */
    if (count_tests(&generate)) { /* what is wrong with the model is the engine's to say */
        struct sc_error ignored = {0};
        b.has_plan = sc_plan_make(&b.plan, &params, &ignored);
    }
    b.engine = engine_open(params, &e);
    if (b.engine && sc_engine_synthetic_bytes(b.engine))
        note_synthetic(b.engine);
    if (b.engine && prepare(&b, longest, &e))
        ok = measure(&b, true, &prompt, &e) && measure(&b, false, &generate, &e);
    terminal_clear();
    if (ok && b.format == FORMAT_JSON) {
        output_json(b.list);
        b.list = NULL;
    }
    json_decref(b.list);
    sc_session_destroy(b.session);
    free(b.logits);
    free(b.tokens);
    sc_engine_destroy(b.engine);
    return ok ? EXIT_OK : engine_failed(&e);
}

static const enum option_id options[] = {
    OPTION_MODEL,     OPTION_BENCH_PROMPT, OPTION_BENCH_GENERATE, OPTION_REPETITIONS,
    OPTION_NO_WARMUP, OPTION_FORMAT,       OPTION_BENCH_CONTEXT,  OPTION_SYNTHETIC,
    OPTIONS_ENGINE,   OPTION_LOG_LEVEL,    OPTION_JSON,
};

const struct command command_bench = {
    .name = "bench",
    .summary = "measure the speed of prefill (pp) and generation (tg)",
    .usage = "-m MODEL [-p 512] [-n 128] [-r 5] [-o md|csv|json] [--synthetic] [FLAGS]",
    .details =
        "Every test starts with an empty context. t/s is the mean over the repetitions and the standard deviation;\n"
        "GB/s is what generation reads of the weights: the bytes that a token needs, times t/s; VRAM, RAM and disk "
        "are\n"
        "its parts, of which RAM also counts what is uploaded. % bound: the time that plain reading at the measured\n"
        "rates of the machine would take, of the time that it took. The default tests are shorter where the context "
        "is.\n",
    .options = options,
    .n_options = N_ELEMENTS(options),
    .run = run,
};
