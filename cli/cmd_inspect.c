/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "engine.h"
#include "metadata.h"
#include "output.h"
#include "scoria.h"
#include "table.h"

enum { MAX_TYPES = 64, CELL_SIZE = 160 };

struct total {
    uint32_t type;
    uint64_t n_tensors, n_weights, size_bytes;
};

/* The type's name; of one that nobody knows its number, in out[CELL_SIZE]. */
static const char *type_name(uint32_t type, char *out)
{
    const char *name = sc_type_name(type);

    if (name)
        return name;
    snprintf(out, CELL_SIZE, "type %" PRIu32, type);
    return out;
}

static uint64_t n_weights(const struct sc_gguf_tensor *t)
{
    uint64_t n = 1;

    for (uint32_t i = 0; i < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

/* Per type in order of appearance; the one after the last is the sum. Types beyond MAX_TYPES go to the last. */
static size_t count(const struct sc_gguf *g, struct total totals[MAX_TYPES + 1])
{
    struct total all = {0};
    size_t n = 0;

    for (size_t i = 0; i < sc_gguf_n_tensors(g); i++) {
        const struct sc_gguf_tensor *t = sc_gguf_tensor(g, i);
        size_t k = 0;
        while (k < n && totals[k].type != t->type && k + 1 < MAX_TYPES)
            k++;
        if (k == n)
            totals[n++] = (struct total){.type = t->type};
        totals[k].n_tensors++;
        totals[k].n_weights += n_weights(t);
        totals[k].size_bytes += t->size_bytes;
        all.n_tensors++;
        all.n_weights += n_weights(t);
        all.size_bytes += t->size_bytes;
    }
    totals[n] = all;
    return n;
}

static double bits_per_weight(const struct total *t)
{
    return t->n_weights ? 8 * (double)t->size_bytes / (double)t->n_weights : 0;
}

static void shape(const struct sc_gguf_tensor *t, char out[CELL_SIZE])
{
    size_t n = 0;

    for (uint32_t i = 0; i < t->n_dims; i++)
        n += (size_t)snprintf(out + n, CELL_SIZE - n, i ? " x %" PRIu64 : "%" PRIu64, t->shape[i]);
}

static void name_of(const struct sc_gguf_tensor *t, char out[CELL_SIZE])
{
    snprintf(out, CELL_SIZE, "%.*s", t->name.size_bytes < 128 ? (int)t->name.size_bytes : 128, t->name.data);
    for (char *c = out; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

static void print_metadata(const struct sc_gguf *g)
{
    output_printf("metadata, %zu values\n", sc_gguf_n_values(g));
    for (size_t i = 0; i < sc_gguf_n_values(g); i++) {
        const struct sc_gguf_value *v = sc_gguf_value(g, i);
        output_printf("  ");
        output_quoted(v->key.data, v->key.size_bytes, 200);
        output_printf(" = ");
        metadata_print(v);
        output_printf("\n");
    }
}

static void print_tensors(const struct sc_gguf *g)
{
    enum { COLUMN_NAME, COLUMN_TYPE, COLUMN_SHAPE, COLUMN_SIZE, COLUMN_OFFSET, COLUMN_FILE, N_COLUMNS };
    struct column columns[N_COLUMNS] = {
        [COLUMN_NAME] = {"  name", 0, false},  [COLUMN_TYPE] = {"type", 0, false},
        [COLUMN_SHAPE] = {"shape", 0, true},   [COLUMN_SIZE] = {"bytes", 0, true},
        [COLUMN_OFFSET] = {"offset", 0, true}, [COLUMN_FILE] = {"file", 0, true},
    };
    size_t n_columns = sc_gguf_n_files(g) > 1 ? N_COLUMNS : N_COLUMNS - 1;
    char cells[N_COLUMNS][CELL_SIZE];
    const char *row[N_COLUMNS];

    for (int c = 0; c < N_COLUMNS; c++)
        row[c] = cells[c];
    output_printf("tensors, %zu\n", sc_gguf_n_tensors(g));
    for (int pass = 0; pass < 2; pass++) { /* the first finds the widths */
        if (pass == 1)
            table_header(TABLE_PLAIN, columns, n_columns);
        for (size_t i = 0; i < sc_gguf_n_tensors(g); i++) {
            const struct sc_gguf_tensor *t = sc_gguf_tensor(g, i);
            char name[CELL_SIZE];
            name_of(t, name);
            snprintf(cells[COLUMN_NAME], CELL_SIZE, "  %.150s", name);
            row[COLUMN_TYPE] = type_name(t->type, cells[COLUMN_TYPE]);
            shape(t, cells[COLUMN_SHAPE]);
            if (t->data)
                snprintf(cells[COLUMN_SIZE], CELL_SIZE, "%" PRIu64, t->size_bytes);
            else
                snprintf(cells[COLUMN_SIZE], CELL_SIZE, "?");
            snprintf(cells[COLUMN_OFFSET], CELL_SIZE, "%" PRIu64, t->offset);
            snprintf(cells[COLUMN_FILE], CELL_SIZE, "%" PRIu32, t->file + 1);
            for (size_t c = 0; pass == 0 && c < n_columns; c++)
                column_fit(&columns[c], row[c]);
            if (pass == 1)
                table_row(TABLE_PLAIN, columns, n_columns, row);
        }
    }
}

static void print_totals(const struct sc_gguf *g)
{
    enum { COLUMN_TYPE, COLUMN_TENSORS, COLUMN_WEIGHTS, COLUMN_BYTES, COLUMN_BITS, N_COLUMNS };
    const struct column columns[N_COLUMNS] = {
        [COLUMN_TYPE] = {"  type", 8, false},     [COLUMN_TENSORS] = {"tensors", 8, true},
        [COLUMN_WEIGHTS] = {"weights", 15, true}, [COLUMN_BYTES] = {"bytes", 15, true},
        [COLUMN_BITS] = {"bits/weight", 0, true},
    };
    struct total totals[MAX_TYPES + 1];
    size_t n = count(g, totals);
    char cells[N_COLUMNS][CELL_SIZE], name[CELL_SIZE];
    const char *row[N_COLUMNS];

    for (int c = 0; c < N_COLUMNS; c++)
        row[c] = cells[c];
    output_printf("types\n");
    table_header(TABLE_PLAIN, columns, N_COLUMNS);
    for (size_t i = 0; i <= n; i++) {
        snprintf(cells[COLUMN_TYPE], CELL_SIZE, "  %.100s", i < n ? type_name(totals[i].type, name) : "all");
        snprintf(cells[COLUMN_TENSORS], CELL_SIZE, "%" PRIu64, totals[i].n_tensors);
        snprintf(cells[COLUMN_WEIGHTS], CELL_SIZE, "%" PRIu64, totals[i].n_weights);
        snprintf(cells[COLUMN_BYTES], CELL_SIZE, "%" PRIu64, totals[i].size_bytes);
        snprintf(cells[COLUMN_BITS], CELL_SIZE, "%.2f", bits_per_weight(&totals[i]));
        table_row(TABLE_PLAIN, columns, N_COLUMNS, row);
    }
}

static json_t *tensors_to_json(const struct sc_gguf *g)
{
    json_t *list = json_array();

    for (size_t i = 0; i < sc_gguf_n_tensors(g); i++) {
        const struct sc_gguf_tensor *t = sc_gguf_tensor(g, i);
        json_t *tensor = json_object(), *dims = json_array();
        char type[CELL_SIZE];
        for (uint32_t k = 0; k < t->n_dims; k++)
            json_array_append_new(dims, json_count(t->shape[k]));
        json_put(tensor, "name", json_text(t->name.data, t->name.size_bytes));
        json_put(tensor, "type", json_word(type_name(t->type, type)));
        json_put(tensor, "shape", dims);
        json_put(tensor, "size_bytes", t->data ? json_count(t->size_bytes) : json_null());
        json_put(tensor, "offset", json_count(t->offset));
        json_put(tensor, "file", json_count(t->file + 1));
        json_array_append_new(list, tensor);
    }
    return list;
}

static json_t *totals_to_json(const struct sc_gguf *g)
{
    struct total totals[MAX_TYPES + 1];
    size_t n = count(g, totals);
    json_t *list = json_array();
    char name[CELL_SIZE];

    for (size_t i = 0; i < n; i++) {
        json_t *total = json_object();
        json_put(total, "type", json_word(type_name(totals[i].type, name)));
        json_put(total, "n_tensors", json_count(totals[i].n_tensors));
        json_put(total, "n_weights", json_count(totals[i].n_weights));
        json_put(total, "size_bytes", json_count(totals[i].size_bytes));
        json_put(total, "bits_per_weight", json_number(bits_per_weight(&totals[i])));
        json_array_append_new(list, total);
    }
    return list;
}

static void print_json(const struct sc_gguf *g, bool metadata, bool tensors)
{
    json_t *object = json_object(), *files = json_array();
    struct total totals[MAX_TYPES + 1];
    const struct total *all = &totals[count(g, totals)];

    for (size_t i = 0; i < sc_gguf_n_files(g); i++)
        json_array_append_new(files, json_word(sc_gguf_file_path(g, i)));
    json_put(object, "files", files);
    json_put(object, "gguf_version", json_integer(sc_gguf_version(g)));
    json_put(object, "size_bytes", json_count(sc_gguf_size_bytes(g)));
    json_put(object, "n_weights", json_count(all->n_weights));
    json_put(object, "bits_per_weight", json_number(bits_per_weight(all)));
    if (metadata)
        json_put(object, "metadata", metadata_to_json(g));
    if (tensors) {
        json_put(object, "types", totals_to_json(g));
        json_put(object, "tensors", tensors_to_json(g));
    }
    output_json(object);
}

static void print_text(const struct sc_gguf *g, bool metadata, bool tensors)
{
    struct total totals[MAX_TYPES + 1];
    const struct total *all = &totals[count(g, totals)];
    char bytes[32], weights[32];

    for (size_t i = 0; i < sc_gguf_n_files(g); i++) {
        output_quoted(sc_gguf_file_path(g, i), strlen(sc_gguf_file_path(g, i)), SIZE_MAX);
        output_printf("\n");
    }
    output_printf("GGUF version %" PRIu32 ", %s, %s weights, %.2f bits per weight\n", sc_gguf_version(g),
                  number_bytes(bytes, sc_gguf_size_bytes(g)), number_count(weights, all->n_weights),
                  bits_per_weight(all));
    if (metadata) {
        output_printf("\n");
        print_metadata(g);
    }
    if (tensors) {
        output_printf("\n");
        print_tensors(g);
        output_printf("\n");
        print_totals(g);
    }
}

static int run(const struct options *o)
{
    struct sc_error e = {0};
    struct sc_gguf *g = sc_gguf_open(o->model, &e);

    if (!g)
        return engine_failed(&e);
    if (o->json)
        print_json(g, o->metadata || !o->tensors, o->tensors || !o->metadata);
    else
        print_text(g, o->metadata || !o->tensors, o->tensors || !o->metadata);
    const bool ok = sc_gguf_check(g, &e);
    sc_gguf_close(g);
    return ok ? EXIT_OK : engine_failed(&e);
}

static const enum option_id options[] = {OPTION_MODEL, OPTION_METADATA, OPTION_TENSORS, OPTION_JSON};

const struct command command_inspect = {
    .name = "inspect",
    .summary = "show what is in a model: metadata, tensors, types",
    .usage = "-m MODEL [--metadata] [--tensors] [--json]",
    .details =
        "Shapes have the slowest dimension first. Long values and arrays are shortened. No Vulkan driver is needed.\n",
    .options = options,
    .n_options = N_ELEMENTS(options),
    .run = run,
};
