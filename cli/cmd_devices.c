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
    snprintf(out, CELL_SIZE, "%s%s%s%s%s%s%s", d->has_ballot ? " ballot" : "", d->has_fp16 ? " fp16" : "",
             d->has_int8 ? " int8" : "", d->has_integer_dot ? " integer-dot" : "",
             d->matrix_shapes ? " cooperative-matrix" : "", d->has_matrix_2 ? " cooperative-matrix-2" : "",
             d->has_transfer_queue ? " transfer-queue" : "");
    if (*out)
        memmove(out, out + 1, strlen(out)); /* the first space */
    else
        strcpy(out, "none");
}

/* A device, and what became of each of its kernels. */
struct listed {
    struct sc_device_info info;
    struct sc_variant *variants; /* owned; none where the device cannot be used */
    size_t n;
    char unusable[500]; /* why it cannot; "" if it can */
};

/* What a device uses for the most: the first of its families. */
static const char *kernels(const struct listed *d)
{
    for (size_t i = 0; i < d->n; i++)
        if (d->variants[i].state == SC_VARIANT_USED)
            return d->variants[i].name;
    return "none";
}

static void version(char *out, uint32_t v)
{
    snprintf(out, CELL_SIZE, "%u.%u.%u", (v >> 22) & 0x7f, (v >> 12) & 0x3ff, v & 0xfff);
}

static void fill(char cells[N_COLUMNS][CELL_SIZE], const struct listed *listed)
{
    const struct sc_device_info *d = &listed->info;
    char bytes[32];

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
    snprintf(cells[COLUMN_KERNELS], CELL_SIZE, "%s", kernels(listed));
    list_features(cells[COLUMN_FEATURES], d);
}

static const char *state_word(const struct sc_variant *v)
{
    static const char *const words[] = {[SC_VARIANT_USED] = "used",
                                        [SC_VARIANT_SPARE] = "spare",
                                        [SC_VARIANT_LACKS] = "lacks",
                                        [SC_VARIANT_WRONG] = "wrong"};
    return words[v->state];
}

static const char *test_word(const struct sc_variant *v)
{
    return v->state == SC_VARIANT_WRONG ? "failed" : v->is_tested ? "passed" : "-";
}

/* What is used, and what would come before it; everything with `all`. */
static void print_kernels(const struct listed *d, bool all)
{
    enum { FAMILY, KERNEL, STATE, TEST, WHY, N };
    struct column columns[N] = {
        {"family", 0, false}, {"kernel", 0, false}, {"", 0, false}, {"self-test", 0, false}, {"", 0, false}};
    for (int pass = 0; pass < 2; pass++) {
        if (pass)
            table_header(TABLE_PLAIN, columns, N);
        for (size_t i = 0, used = 0; i < d->n; i++) {
            const struct sc_variant *v = &d->variants[i];
            const char *row[N] = {v->family, v->name, state_word(v), test_word(v), v->why};
            used = i && strcmp(v->family, v[-1].family) == 0 ? used : 0;
            const bool is_shown = all || !used || v->state == SC_VARIANT_USED || v->state == SC_VARIANT_WRONG;
            used += v->state == SC_VARIANT_USED;
            for (int c = 0; is_shown && !pass && c < WHY; c++)
                column_fit(&columns[c], row[c]);
            if (is_shown && pass)
                table_row(TABLE_PLAIN, columns, N, row);
        }
    }
}

static void print_table(const struct listed *devices, size_t n, bool all)
{
    struct column columns[N_COLUMNS] = {
        [COLUMN_INDEX] = {"index", 0, true},        [COLUMN_NAME] = {"name", 0, false},
        [COLUMN_KIND] = {"kind", 0, false},         [COLUMN_MEMORY] = {"memory", 0, true},
        [COLUMN_FREE] = {"free", 0, true},          [COLUMN_VULKAN] = {"vulkan", 0, false},
        [COLUMN_SUBGROUP] = {"subgroup", 0, false}, [COLUMN_KERNELS] = {"kernels", 0, false},
        [COLUMN_FEATURES] = {"features", 0, false},
    };
    char cells[N_COLUMNS][CELL_SIZE];
    const char *row[N_COLUMNS];
    bool has_cpu = false;

    for (int c = 0; c < N_COLUMNS; c++)
        row[c] = cells[c];
    for (size_t i = 0; i < n; i++) {
        fill(cells, &devices[i]);
        for (int c = 0; c < N_COLUMNS; c++)
            column_fit(&columns[c], cells[c]);
        has_cpu = has_cpu || devices[i].info.kind == SC_DEVICE_CPU;
    }
    table_header(TABLE_PLAIN, columns, N_COLUMNS);
    for (size_t i = 0; i < n; i++) {
        fill(cells, &devices[i]);
        table_row(TABLE_PLAIN, columns, N_COLUMNS, row);
    }
    for (size_t i = 0; i < n; i++) {
        output_printf("\ndriver of %" PRIu32 ": %s\n", devices[i].info.index, devices[i].info.driver);
        if (*devices[i].unusable)
            output_printf("%" PRIu32 " cannot be used: %s\n", devices[i].info.index, devices[i].unusable);
        else
            print_kernels(&devices[i], all);
    }
    if (has_cpu)
        output_printf("\nA device of kind cpu is a Vulkan driver that computes on the CPU. Scoria takes one only when "
                      "it is named\n"
                      "(--device) or when there is no other.\n");
}

static json_t *variants_to_json(const struct listed *d)
{
    json_t *list = json_array();
    for (size_t i = 0; i < d->n; i++) {
        const struct sc_variant *v = &d->variants[i];
        json_t *one = json_object();
        json_put(one, "family", json_word(v->family));
        json_put(one, "name", json_word(v->name));
        json_put(one, "state", json_word(state_word(v)));
        json_put(one, "self_test",
                 v->state == SC_VARIANT_WRONG || v->is_tested ? json_word(test_word(v)) : json_null());
        json_put(one, "why", json_word(*v->why ? v->why : NULL));
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *to_json(const struct listed *listed)
{
    const struct sc_device_info *d = &listed->info;
    char api[CELL_SIZE];
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
    json_put(device, "cooperative_matrix_2", json_boolean(d->has_matrix_2));
    json_put(device, "transfer_queue", json_boolean(d->has_transfer_queue));
    json_put(device, "kernels", variants_to_json(listed));
    json_put(device, "usable", json_boolean(!*listed->unusable));
    json_put(device, "unusable", json_word(*listed->unusable ? listed->unusable : NULL));
    return device;
}

static void look_at(struct listed *d, bool test_all)
{
    struct sc_error e = {0};

    snprintf(d->unusable, sizeof d->unusable, "%s", d->info.unusable);
    if (!*d->unusable && !sc_device_variants(d->info.index, NULL, test_all, &d->variants, &d->n, &e))
        snprintf(d->unusable, sizeof d->unusable, "%s", e.text);
}

/* As sc_devices, or the one that is asked for. */
static bool find(const struct options *o, struct sc_device_info **devices, size_t *n, struct sc_error *e)
{
    if (!o->device)
        return sc_devices(devices, n, e);
    *n = 1;
    *devices = malloc(sizeof **devices);
    if (!*devices)
        return sc_fail_memory(e, "the device");
    if (sc_device_find(o->device, *devices, e))
        return true;
    free(*devices);
    return false;
}

static int run(const struct options *o)
{
    struct sc_device_info *devices;
    size_t n_devices;
    struct sc_error e = {0};

    if (!find(o, &devices, &n_devices, &e))
        return engine_failed(&e);
    struct listed *list = calloc(n_devices, sizeof *list);
    if (!list) {
        free(devices);
        (void)sc_fail_memory(&e, "the list of devices");
        return engine_failed(&e);
    }
    for (size_t i = 0; i < n_devices; i++) {
        list[i].info = devices[i];
        look_at(&list[i], o->self_test);
    }
    if (o->json) {
        json_t *json = json_array();
        for (size_t i = 0; i < n_devices; i++)
            json_array_append_new(json, to_json(&list[i]));
        output_json(json);
    } else {
        print_table(list, n_devices, o->self_test);
    }
    for (size_t i = 0; i < n_devices; i++)
        free(list[i].variants);
    free(list);
    free(devices);
    return EXIT_OK;
}

static const enum option_id options[] = {OPTION_DEVICES_DEVICE, OPTION_SELF_TEST, OPTION_JSON};

const struct command command_devices = {
    .name = "devices",
    .summary = "list the Vulkan devices and what they can do",
    .usage = "[--device N|NAME] [--self-test] [--json]",
    .details =
        "Below the table: which kernel each family got (used), and why not those that would be faster by the table. A\n"
        "self-test computes known answers with what will be used; its result is kept for the device and its driver.\n"
        "features: what the device has beyond what every kernel needs.\n",
    .options = options,
    .n_options = N_ELEMENTS(options),
    .run = run,
};
