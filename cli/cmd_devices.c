/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "engine.h"
#include "output.h"
#include "scoria.h"
#include "table.h"
#include "terminal.h"

enum {
    COLUMN_INDEX,
    COLUMN_NAME,
    COLUMN_KIND,
    COLUMN_MEMORY,
    COLUMN_FREE,
    COLUMN_VULKAN,
    COLUMN_SUBGROUP,
    COLUMN_KERNELS,
    COLUMN_FEATURES,
    N_COLUMNS
};
enum { CELL_SIZE = 300 };

static const char *kind(const struct sc_device_info *d)
{
    static const char *const kinds[] = {
        [SC_DEVICE_OTHER] = "other",       [SC_DEVICE_INTEGRATED] = "integrated",
        [SC_DEVICE_DISCRETE] = "discrete", [SC_DEVICE_VIRTUAL] = "virtual",
        [SC_DEVICE_CPU] = "cpu",
    };
    return kinds[d->kind];
}

/* What it has beyond the floor that every kernel is content with. */
static void list_features(char *out, const struct sc_device_info *d)
{
    snprintf(out, CELL_SIZE, "%s%s%s%s%s%s", d->has_ballot ? " ballot" : "", d->has_fp16 ? " fp16" : "",
             d->has_int8 ? " int8" : "", d->has_integer_dot ? " integer-dot" : "",
             d->matrix_shapes ? " cooperative-matrix" : "", d->has_transfer_queue ? " transfer-queue" : "");
    if (*out)
        memmove(out, out + 1, strlen(out)); /* the first space */
    else
        strcpy(out, "none");
}

/* The family of kernels that multiply by weights, and why this one: as by_rows of runtime/ops.c chooses. */
static const char *kernels(const struct sc_device_info *d, char reason[CELL_SIZE])
{
    bool is_cpu = d->kind == SC_DEVICE_CPU, is_wide = d->min_subgroup_size >= 8;

    if (*d->unusable) {
        snprintf(reason, CELL_SIZE, "%s", d->unusable);
        return "none";
    }
    if (is_cpu && is_wide && d->has_ballot) {
        snprintf(reason, CELL_SIZE,
                 "a processor is fastest when each of its lanes has rows of its own, and subgroups of %" PRIu32
                 " lanes can broadcast among 8",
                 d->min_subgroup_size);
        return "rows";
    }
    if (!is_cpu)
        snprintf(reason, CELL_SIZE, "the family for GPUs; the features select no other in this version");
    else if (!is_wide)
        snprintf(reason, CELL_SIZE,
                 "those for processors (rows) need subgroups of 8 lanes or more, and this one may have %" PRIu32,
                 d->min_subgroup_size);
    else
        snprintf(reason, CELL_SIZE, "those for processors (rows) need broadcasts within a subgroup (ballot)");
    return "base";
}

static void version(char *out, uint32_t v)
{
    snprintf(out, CELL_SIZE, "%u.%u.%u", (v >> 22) & 0x7f, (v >> 12) & 0x3ff, v & 0xfff);
}

static void fill(char cells[N_COLUMNS][CELL_SIZE], const struct sc_device_info *d)
{
    char bytes[32], reason[CELL_SIZE];

    snprintf(cells[COLUMN_INDEX], CELL_SIZE, "%" PRIu32, d->index);
    snprintf(cells[COLUMN_NAME], CELL_SIZE, "%s", d->name);
    snprintf(cells[COLUMN_KIND], CELL_SIZE, "%s", kind(d));
    snprintf(cells[COLUMN_MEMORY], CELL_SIZE, "%s", number_bytes(bytes, d->memory_bytes));
    snprintf(cells[COLUMN_FREE], CELL_SIZE, "%s", d->free_bytes ? number_bytes(bytes, d->free_bytes) : "?");
    version(cells[COLUMN_VULKAN], d->api_version);
    if (d->min_subgroup_size == d->max_subgroup_size)
        snprintf(cells[COLUMN_SUBGROUP], CELL_SIZE, "%" PRIu32, d->subgroup_size);
    else
        snprintf(cells[COLUMN_SUBGROUP], CELL_SIZE, "%" PRIu32 " (%" PRIu32 "-%" PRIu32 ")", d->subgroup_size,
                 d->min_subgroup_size, d->max_subgroup_size);
    snprintf(cells[COLUMN_KERNELS], CELL_SIZE, "%s", kernels(d, reason));
    list_features(cells[COLUMN_FEATURES], d);
}

static void print_table(const struct sc_device_info *devices, size_t n)
{
    struct column columns[N_COLUMNS] = {
        [COLUMN_INDEX] = {"index", 0, true},        [COLUMN_NAME] = {"name", 0, false},
        [COLUMN_KIND] = {"kind", 0, false},         [COLUMN_MEMORY] = {"memory", 0, true},
        [COLUMN_FREE] = {"free", 0, true},          [COLUMN_VULKAN] = {"vulkan", 0, false},
        [COLUMN_SUBGROUP] = {"subgroup", 0, false}, [COLUMN_KERNELS] = {"kernels", 0, false},
        [COLUMN_FEATURES] = {"features", 0, false},
    };
    char cells[N_COLUMNS][CELL_SIZE], reason[CELL_SIZE];
    const char *row[N_COLUMNS];
    bool has_cpu = false;

    for (int c = 0; c < N_COLUMNS; c++)
        row[c] = cells[c];
    for (size_t i = 0; i < n; i++) {
        fill(cells, &devices[i]);
        for (int c = 0; c < N_COLUMNS; c++)
            column_fit(&columns[c], cells[c]);
        has_cpu = has_cpu || devices[i].kind == SC_DEVICE_CPU;
    }
    table_header(TABLE_PLAIN, columns, N_COLUMNS);
    for (size_t i = 0; i < n; i++) {
        fill(cells, &devices[i]);
        table_row(TABLE_PLAIN, columns, N_COLUMNS, row);
    }
    output_printf("\n");
    for (size_t i = 0; i < n; i++) {
        const char *family = kernels(&devices[i], reason);
        output_printf("driver of %" PRIu32 ": %s\n", devices[i].index, devices[i].driver);
        output_printf("kernels of %" PRIu32 ": %s, because %s\n", devices[i].index, family, reason);
    }
    if (has_cpu)
        output_printf("\nA device of kind cpu is a Vulkan driver that computes on the CPU. Scoria takes one only when "
                      "it is named\n"
                      "(--device) or when there is no other.\n");
}

static json_t *to_json(const struct sc_device_info *d)
{
    char api[CELL_SIZE], reason[CELL_SIZE];
    const char *family = kernels(d, reason);
    json_t *device = json_object();

    version(api, d->api_version);
    json_put(device, "index", json_count(d->index));
    json_put(device, "name", json_word(d->name));
    json_put(device, "driver", json_word(d->driver));
    json_put(device, "kind", json_word(kind(d)));
    json_put(device, "vendor_id", json_count(d->vendor_id));
    json_put(device, "device_id", json_count(d->device_id));
    json_put(device, "vulkan", json_word(api));
    json_put(device, "memory_bytes", json_count(d->memory_bytes));
    json_put(device, "free_bytes", d->free_bytes ? json_count(d->free_bytes) : json_null());
    json_put(device, "subgroup_size", json_count(d->subgroup_size));
    json_put(device, "min_subgroup_size", json_count(d->min_subgroup_size));
    json_put(device, "max_subgroup_size", json_count(d->max_subgroup_size));
    json_put(device, "max_workgroup_size", json_count(d->max_workgroup_size));
    json_put(device, "shared_bytes", json_count(d->shared_bytes));
    json_put(device, "ballot", json_boolean(d->has_ballot));
    json_put(device, "fp16", json_boolean(d->has_fp16));
    json_put(device, "int8", json_boolean(d->has_int8));
    json_put(device, "integer_dot", json_boolean(d->has_integer_dot));
    json_put(device, "cooperative_matrix", json_boolean(d->matrix_shapes));
    json_put(device, "transfer_queue", json_boolean(d->has_transfer_queue));
    json_put(device, "kernels", json_word(family));
    json_put(device, "kernels_reason", json_word(reason));
    json_put(device, "usable", json_boolean(!*d->unusable));
    json_put(device, "unusable", json_word(*d->unusable ? d->unusable : NULL));
    return device;
}

static int run(const struct options *o)
{
    struct sc_device_info *devices;
    size_t n_devices;
    struct sc_error e = {0};

    if (!sc_devices(&devices, &n_devices, &e))
        return engine_failed(&e);
    if (o->json) {
        json_t *list = json_array();
        for (size_t i = 0; i < n_devices; i++)
            json_array_append_new(list, to_json(&devices[i]));
        output_json(list);
    } else {
        print_table(devices, n_devices);
    }
    free(devices);
    return EXIT_OK;
}

static const enum option_id options[] = {OPTION_JSON};

const struct command command_devices = {
    .name = "devices",
    .summary = "list the Vulkan devices and what they can do",
    .usage = "[--json]",
    .details =
        "kernels: the family that runs there (rows: for processors, base: for every device, none: it cannot be used),\n"
        "with the reason below the table. features: what the device has beyond what every family needs.\n",
    .options = options,
    .n_options = N_ELEMENTS(options),
    .run = run,
};
