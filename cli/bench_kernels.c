/* SPDX-License-Identifier: Apache-2.0 */
#include "bench_kernels.h"

#include <inttypes.h>
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

enum {
    COLUMN_SHAPE,
    COLUMN_OP,
    COLUMN_TYPE,
    COLUMN_SIZE,
    COLUMN_VARIANT,
    COLUMN_TOKENS,
    COLUMN_TIME,
    COLUMN_BANDWIDTH,
    COLUMN_PEAK,
    COLUMN_FLOPS,
    N_COLUMNS
};
enum { CELL_SIZE = 64, MAX_TYPES = 32 };

struct kernel_table {
    enum option_format format;
    json_t *list; /* for JSON */
    bool has_rows;
};

static const struct column columns[N_COLUMNS] = {
    [COLUMN_SHAPE] = {"shape", 7, false},      [COLUMN_OP] = {"op", 16, false},
    [COLUMN_TYPE] = {"type", 6, false},        [COLUMN_SIZE] = {"size", 22, false},
    [COLUMN_VARIANT] = {"variant", 16, false}, [COLUMN_TOKENS] = {"n", 4, true},
    [COLUMN_TIME] = {"us", 9, true},           [COLUMN_BANDWIDTH] = {"GB/s", 7, true},
    [COLUMN_PEAK] = {"% peak", 0, true},       [COLUMN_FLOPS] = {"GFLOP/s", 8, true},
};

static double peak_percent(const struct sc_kernel_result *r)
{
    const double peak = r->read_rate > r->copy_rate ? r->read_rate : r->copy_rate;
    return 100 * r->bytes / r->seconds / peak;
}

/* What was not measured has no such figure. */
static json_t *figure(const struct sc_kernel_result *r, double value)
{
    return r->failure ? json_null() : json_number(value);
}

static json_t *to_json(const struct sc_device_info *device, const struct sc_kernel_result *r)
{
    json_t *row = json_object();

    json_put(row, "device", json_word(device->name));
    json_put(row, "driver", json_word(device->driver));
    json_put(row, "shape", json_word(r->shape));
    json_put(row, "op", json_word(r->op));
    json_put(row, "type", *r->type ? json_word(r->type) : json_null());
    json_put(row, "size", json_word(r->size));
    json_put(row, "variant", *r->variant ? json_word(r->variant) : json_null());
    json_put(row, "n_tokens", json_count(r->n_tokens));
    json_put(row, "failure", r->failure ? json_word(r->failure) : json_null());
    json_put(row, "seconds", figure(r, r->seconds));
    json_put(row, "bytes", json_number(r->bytes));
    json_put(row, "flop", json_number(r->flop));
    json_put(row, "gb_per_s", figure(r, r->bytes / r->seconds * 1e-9));
    json_put(row, "peak_percent", figure(r, peak_percent(r)));
    json_put(row, "gflop_per_s", figure(r, r->flop / r->seconds * 1e-9));
    json_put(row, "read_gb_per_s", json_number(r->read_rate * 1e-9));
    json_put(row, "copy_gb_per_s", json_number(r->copy_rate * 1e-9));
    json_put(row, "by_device_clock", json_boolean(r->by_device_clock));
    return row;
}

static void head(const struct kernel_table *t, const struct sc_device_info *device, const struct sc_kernel_result *r)
{
    terminal_note("%s (%s): plain reading %.1f GB/s, copying %.1f GB/s; times by the %s clock", device->name,
                  device->driver, r->read_rate * 1e-9, r->copy_rate * 1e-9, r->by_device_clock ? "device's" : "host's");
    table_header(t->format == FORMAT_CSV ? TABLE_CSV : TABLE_MD, columns, N_COLUMNS);
}

static bool add_row(void *user, const struct sc_device_info *device, const struct sc_kernel_result *r)
{
    struct kernel_table *t = user;
    char time[CELL_SIZE], tokens[CELL_SIZE], bandwidth[CELL_SIZE], peak[CELL_SIZE], flops[CELL_SIZE] = "";

    if (t->format == FORMAT_JSON) {
        json_array_append_new(t->list, to_json(device, r));
        return !interrupt_requested();
    }
    if (r->failure) {
        terminal_note("left out: %s %s, %s, %" PRIu32 " tokens: %s", r->op, r->type, r->variant, r->n_tokens,
                      r->failure);
        return !interrupt_requested();
    }
    if (!t->has_rows)
        head(t, device, r);
    t->has_rows = true;
    snprintf(tokens, sizeof tokens, "%" PRIu32, r->n_tokens);
    snprintf(time, sizeof time, "%.1f", r->seconds * 1e6);
    snprintf(bandwidth, sizeof bandwidth, "%.1f", r->bytes / r->seconds * 1e-9);
    snprintf(peak, sizeof peak, "%.0f", peak_percent(r));
    if (r->flop > 0)
        snprintf(flops, sizeof flops, "%.1f", r->flop / r->seconds * 1e-9);
    const char *cells[N_COLUMNS] = {
        [COLUMN_SHAPE] = r->shape,     [COLUMN_OP] = r->op,
        [COLUMN_TYPE] = r->type,       [COLUMN_SIZE] = r->size,
        [COLUMN_VARIANT] = r->variant, [COLUMN_TOKENS] = tokens,
        [COLUMN_TIME] = time,          [COLUMN_BANDWIDTH] = bandwidth,
        [COLUMN_PEAK] = peak,          [COLUMN_FLOPS] = flops,
    };
    table_row(t->format == FORMAT_CSV ? TABLE_CSV : TABLE_MD, columns, N_COLUMNS, cells);
    return !interrupt_requested();
}

/* Reads a list such as q4_k,q8_0, or all; false after saying what is wrong. */
static bool read_types(const char *list, enum sc_type *types, size_t *n)
{
    size_t n_known;
    const struct sc_type_info *known = sc_types(&n_known);

    *n = 0;
    for (const char *at = list; at;) {
        const size_t length = strcspn(at, ",");
        bool found = false;
        for (size_t i = 0; i < n_known; i++) {
            const bool is_it = strlen(known[i].name) == length && !memcmp(known[i].name, at, length);
            if ((is_it || !strcmp(list, "all")) && *n < MAX_TYPES) {
                types[(*n)++] = known[i].type;
                found = true;
            }
        }
        if (!found) {
            terminal_error("--type takes names such as q4_k,q8_0, or all, not '%s'", list);
            return false;
        }
        at = at[length] ? at + length + 1 : NULL;
    }
    return true;
}

int bench_kernels(const struct options *o)
{
    struct kernel_table t = {.format = o->json ? FORMAT_JSON : (enum option_format)o->format};
    enum sc_type types[MAX_TYPES];
    struct sc_error e = {0};
    struct sc_kernel_bench_params params = {
        .device = o->device,
        .shape = o->shape,
        .types = types,
        .n_repetitions = (uint32_t)o->repetitions,
        .all_variants = o->variants,
        .report = add_row,
        .user = &t,
    };

    if (o->types && !read_types(o->types, types, &params.n_types))
        return EXIT_USAGE;
    uint32_t *n_tokens = calloc(o->bench_generate.n + 1, sizeof *n_tokens);
    for (size_t i = 0; n_tokens && i < o->bench_generate.n; i++)
        n_tokens[i] = (uint32_t)o->bench_generate.values[i];
    params.n_tokens = n_tokens;
    params.n_n_tokens = o->bench_generate.n;
    t.list = json_array();
    interrupt_catch();
    const bool ok = n_tokens ? sc_kernel_bench(&params, &e) : sc_fail_memory(&e, "the benchmark");
    if (ok && t.format == FORMAT_JSON)
        output_json(t.list);
    else
        json_decref(t.list);
    free(n_tokens);
    return ok ? EXIT_OK : engine_failed(&e);
}
