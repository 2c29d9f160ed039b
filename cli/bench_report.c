/* SPDX-License-Identifier: Apache-2.0 */
#include "bench_report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "output.h"
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
};
enum { CELL_SIZE = 300 };

/* Of tokens per second, over the runs. */
static void speed(const struct bench_result *r, double *mean, double *deviation)
{
    double sum = 0, squares = 0;

    for (size_t i = 0; i < r->n_runs; i++)
        sum += (double)r->n / r->seconds[i];
    *mean = sum / (double)r->n_runs;
    for (size_t i = 0; i < r->n_runs; i++) {
        double d = (double)r->n / r->seconds[i] - *mean;
        squares += d * d;
    }
    *deviation = r->n_runs > 1 ? sqrt(squares / (double)(r->n_runs - 1)) : 0;
}

static double gigabytes(const struct bench_report *b, double tokens_per_second)
{
    return (double)sc_engine_token_bytes(b->engine) * tokens_per_second * 1e-9;
}

/* False for prompts too: what they read depends on which experts they take. */
static bool measure_tiers(const struct bench_report *b, const struct bench_result *r, struct tiers *t)
{
    struct sc_stats s;

    sc_session_stats(b->session, &s);
    return !r->is_prompt && b->plan && tiers_of(t, b->plan, &s);
}

static void fill_tiers(const struct bench_report *b, const struct bench_result *r, char cells[BENCH_COLUMNS][CELL_SIZE])
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

static void fill(const struct bench_report *b, const struct bench_result *r, char cells[BENCH_COLUMNS][CELL_SIZE])
{
    struct sc_gguf_string name = engine_model_name(b->engine);
    uint64_t size = sc_gguf_size_bytes(sc_engine_gguf(b->engine)), params = sc_engine_n_parameters(b->engine, false);
    bool is_csv = b->format == FORMAT_CSV;
    double mean, deviation;
    char text[32];

    speed(r, &mean, &deviation);
    snprintf(cells[COLUMN_MODEL], CELL_SIZE, "%.*s", name.size_bytes < 64 ? (int)name.size_bytes : 64, name.data);
    for (char *c = cells[COLUMN_MODEL]; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f || *c == '|')
            *c = '?';
    snprintf(cells[COLUMN_DEVICE], CELL_SIZE, "%s", sc_engine_device(b->engine)->name);
    snprintf(cells[COLUMN_TEST], CELL_SIZE, r->depth ? "%s%zu @ d%zu" : "%s%zu", r->is_prompt ? "pp" : "tg", r->n,
             r->depth);
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

static json_t *to_json(const struct bench_report *b, const struct bench_result *r)
{
    struct sc_gguf_string name = engine_model_name(b->engine);
    const struct sc_device_info *device = sc_engine_device(b->engine);
    const struct sc_placement *p = sc_engine_placement(b->engine);
    struct sc_stats s;
    struct tiers t;
    json_t *samples = json_array();
    double mean, deviation;

    speed(r, &mean, &deviation);
    for (size_t i = 0; i < r->n_runs; i++)
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
    json_put(result, "n_depth", json_count(r->depth));
    json_put(result, "n_ubatch", json_count(sc_engine_n_batch(b->engine)));
    json_put(result, "type_kv", json_word((const char *const[]){"f16", "f32", "q8_0"}[b->o->kv]));
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
    json_put(result, "dispatches_per_token", json_count(s.n_dispatches));
    json_put(result, "barriers_per_token", json_count(s.n_barriers));
    json_put(result, "n_slots", json_count(p->n_slots));
    json_put(result, "n_experts_total", json_count(p->n_experts_total));
    return result;
}

void bench_report_add(struct bench_report *b, const struct bench_result *r)
{
    char cells[BENCH_COLUMNS][CELL_SIZE];
    const char *row[BENCH_COLUMNS];

    if (b->format == FORMAT_JSON) {
        json_array_append_new(b->list, to_json(b, r));
        return;
    }
    terminal_clear();
    fill(b, r, cells);
    for (int c = 0; c < BENCH_COLUMNS; c++)
        row[c] = cells[c];
    if (!b->columns[COLUMN_MODEL].width) {
        if (b->o->bench_depth.n)
            b->columns[COLUMN_TEST].width = sizeof "tg128 @ d65536" - 1;
        column_fit(&b->columns[COLUMN_MODEL], row[COLUMN_MODEL]);
        column_fit(&b->columns[COLUMN_DEVICE], row[COLUMN_DEVICE]);
        table_header(b->format == FORMAT_CSV ? TABLE_CSV : TABLE_MD, b->columns, BENCH_COLUMNS);
    }
    table_row(b->format == FORMAT_CSV ? TABLE_CSV : TABLE_MD, b->columns, BENCH_COLUMNS, row);
}

void bench_report_init(struct bench_report *b, const struct options *o)
{
    static const struct column columns[BENCH_COLUMNS] = {
        [COLUMN_MODEL] = {"model", 0, false},   [COLUMN_SIZE] = {"size", 10, true},
        [COLUMN_PARAMS] = {"params", 8, true},  [COLUMN_DEVICE] = {"device", 0, false},
        [COLUMN_TEST] = {"test", 7, true},      [COLUMN_SPEED] = {"t/s", 16, true},
        [COLUMN_BANDWIDTH] = {"GB/s", 7, true}, [COLUMN_VRAM] = {"VRAM", 7, true},
        [COLUMN_RAM] = {"RAM", 7, true},        [COLUMN_DISK] = {"disk", 5, true},
        [COLUMN_BOUND] = {"% bound", 0, true},
    };

    *b = (struct bench_report){.o = o, .format = o->json ? FORMAT_JSON : (enum option_format)o->format};
    memcpy(b->columns, columns, sizeof columns);
    b->list = json_array();
}

void bench_report_finish(struct bench_report *b, bool ok)
{
    if (ok && b->format == FORMAT_JSON)
        output_json(b->list);
    else
        json_decref(b->list);
    b->list = NULL;
}
