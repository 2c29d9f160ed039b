/* SPDX-License-Identifier: Apache-2.0 */
/* The model as a whole: its parts joined, names looked up. Each file is read and checked in part.c. */
#include "gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "part.h"
#include "printable.h"
#include "split.h"
#include "synthetic.h"

struct sc_gguf {
    struct part *parts;
    size_t n_parts;
    size_t named;                   /* the part that sc_gguf_open was given */
    struct sc_gguf_tensor *tensors; /* of all parts */
    size_t n_tensors;
    const struct sc_gguf_string **value_names; /* sorted; each points into a struct of which it is the first member */
    const struct sc_gguf_string **tensor_names;
    bool is_header;
    struct synthetic synthetic; /* where the tensors' data is, of a header */
};

/* Sorts the names of n structs of size_bytes each that begin with their name. Returns NULL if memory ran out. */
static const struct sc_gguf_string **sort_names(const void *structs, size_t n, size_t size_bytes)
{
    const struct sc_gguf_string **names = malloc((n + 1) * sizeof *names);
    if (!names)
        return NULL;
    for (size_t i = 0; i < n; i++)
        names[i] = (const struct sc_gguf_string *)((const char *)structs + i * size_bytes);
    qsort(names, n, sizeof *names, name_compare);
    return names;
}

static bool check_unique(const struct sc_gguf_string **names, size_t n, const char *path, const char *what,
                         struct sc_error *e)
{
    for (size_t i = 1; i < n; i++)
        if (name_compare(&names[i - 1], &names[i]) == 0)
            return sc_fail(e, SC_BAD_FILE, "%s: %s %s is there twice", sc_printable_path(path).text, what,
                           sc_printable(names[i]->data, names[i]->size_bytes).text);
    return true;
}

static const void *find(const struct sc_gguf_string *const *names, size_t n, const char *name)
{
    struct sc_gguf_string wanted = {name, strlen(name)};
    const struct sc_gguf_string *key = &wanted;
    const struct sc_gguf_string *const *found = bsearch(&key, names, n, sizeof *names, name_compare);
    return found ? *found : NULL;
}

/* An integer out of a part's metadata; `fallback` if it is not there. */
static uint64_t part_u64(const struct part *p, const char *key, uint64_t fallback)
{
    uint64_t value = fallback;
    for (size_t i = 0; i < p->n_values; i++) {
        const struct sc_gguf_value *v = &p->values[i];
        if (v->key.size_bytes == strlen(key) && memcmp(v->key.data, key, v->key.size_bytes) == 0)
            sc_gguf_read_u64(v, &value);
    }
    return value;
}

static bool check_part(const struct part *p, uint32_t number, uint32_t count, struct sc_error *e)
{
    uint64_t no = part_u64(p, "split.no", UINT64_MAX), n = part_u64(p, "split.count", 1);
    if (no == number - 1 && n == count)
        return true;
    return sc_fail(e, SC_BAD_FILE,
                   "%s: its metadata (split.no %" PRIu64 ", split.count %" PRIu64 ") contradicts its name, which says "
                   "part %u of %u",
                   sc_printable_path(p->path).text, no, n, number, count);
}

/* Opens what is missing of the set that parts[0], opened from path, belongs to, and puts it in order. */
static bool open_siblings(struct sc_gguf *g, const char *path, uint64_t count, struct sc_error *e)
{
    struct split_name name;
    if (!split_parse(path, &name) || name.count != count || name.number < 1 || name.number > name.count)
        return sc_fail(e, SC_BAD_FILE,
                       "%s is one of %" PRIu64 " parts of a split model, but its name does not end like "
                       "-00001-of-%05" PRIu64 ".gguf, so the others cannot be found",
                       sc_printable_path(path).text, count, count);

    struct part *parts = calloc(name.count, sizeof *parts);
    if (!parts)
        return sc_fail_memory(e, "the parts of a split model");
    parts[name.number - 1] = g->parts[0]; /* with all that it owns */
    free(g->parts);
    g->parts = parts;
    g->n_parts = name.count;
    g->named = name.number - 1;

    for (uint32_t i = 0; i < name.count; i++) {
        if (i + 1 != name.number) {
            char *sibling = split_path(path, &name, i + 1);
            if (!sibling)
                return sc_fail_memory(e, "a file name");
            struct sc_error cause = {0};
            bool ok = part_init(&g->parts[i], sibling, g->is_header, &cause);
            free(sibling);
            if (!ok)
                return sc_fail(e, cause.code, "%s (part %u of %u of a split model)", cause.text, i + 1, name.count);
        }
        if (!check_part(&g->parts[i], i + 1, name.count, e))
            return false;
    }
    return true;
}

static bool join_tensors(struct sc_gguf *g, const char *path, struct sc_error *e)
{
    for (size_t i = 0; i < g->n_parts; i++)
        g->n_tensors += g->parts[i].n_tensors;

    uint64_t expected = part_u64(&g->parts[0], "split.tensors.count", g->n_tensors);
    if (expected != g->n_tensors)
        return sc_fail(e, SC_BAD_FILE, "%s: the split model should have %" PRIu64 " tensors, its parts have %zu",
                       sc_printable_path(path).text, expected, g->n_tensors);

    g->tensors = calloc(g->n_tensors + 1, sizeof *g->tensors);
    if (!g->tensors)
        return sc_fail_memory(e, "the tensor list");
    struct sc_gguf_tensor *out = g->tensors;
    for (size_t i = 0; i < g->n_parts; i++) {
        struct part *p = &g->parts[i];
        for (size_t k = 0; k < p->n_tensors; k++, out++) {
            *out = p->tensors[k];
            out->file = (uint32_t)i;
        }
        free(p->tensors);
        p->tensors = NULL;
        p->n_tensors = 0;
    }
    return true;
}

static bool open_model(struct sc_gguf *g, const char *path, struct sc_error *e)
{
    g->parts = calloc(1, sizeof *g->parts);
    if (!g->parts)
        return sc_fail_memory(e, "the model file");
    g->n_parts = 1;
    if (!part_init(&g->parts[0], path, g->is_header, e))
        return false;

    uint64_t count = part_u64(&g->parts[0], "split.count", 1);
    if (count > 1 && !open_siblings(g, path, count, e))
        return false;
    if (!join_tensors(g, path, e) || (g->is_header && !synthetic_init(&g->synthetic, g->tensors, g->n_tensors, e)))
        return false;

    /* the first part comes last: its keys are the model's, the others' are only checked */
    for (size_t i = g->n_parts; i-- > 0;) {
        const struct part *p = &g->parts[i];
        free(g->value_names);
        g->value_names = sort_names(p->values, p->n_values, sizeof *p->values);
        if (!g->value_names)
            return sc_fail_memory(e, "the index of the model file");
        if (!check_unique(g->value_names, p->n_values, p->path, "key", e))
            return false;
    }
    g->tensor_names = sort_names(g->tensors, g->n_tensors, sizeof *g->tensors);
    if (!g->tensor_names)
        return sc_fail_memory(e, "the index of the model file");
    return check_unique(g->tensor_names, g->n_tensors, path, "tensor", e);
}

static struct sc_gguf *open_as(const char *path, bool is_header, struct sc_error *e)
{
    struct sc_gguf *g = calloc(1, sizeof *g);
    if (!g) {
        sc_fail_memory(e, "the model file");
        return NULL;
    }
    g->is_header = is_header;
    struct sc_error cause = {0};
    if (open_model(g, path, &cause) && sc_gguf_check(g, e))
        return g;
    /* that the file is shrinking explains whatever its zeros looked like */
    if (sc_gguf_check(g, e))
        sc_fail(e, cause.code, "%s", cause.text);
    sc_gguf_close(g);
    return NULL;
}

struct sc_gguf *sc_gguf_open(const char *path, struct sc_error *e)
{
    return open_as(path, false, e);
}

struct sc_gguf *sc_gguf_open_header(const char *path, struct sc_error *e)
{
    return open_as(path, true, e);
}

bool sc_gguf_is_header(const struct sc_gguf *g)
{
    return g->is_header;
}

bool sc_gguf_fabricate(struct sc_gguf *g, uint64_t memory_bytes, uint32_t n_threads,
                       bool (*progress)(void *user, uint64_t done, uint64_t total), void *user,
                       uint64_t *distinct_bytes, struct sc_error *e)
{
    return synthetic_fill(g->tensors, g->n_tensors, memory_bytes, n_threads, progress, user, distinct_bytes, e);
}

bool sc_gguf_check(const struct sc_gguf *g, struct sc_error *e)
{
    for (size_t i = 0; i < g->n_parts; i++)
        if (g->parts[i].map.data && !mapping_check(&g->parts[i].map, g->parts[i].path, e))
            return false;
    return true;
}

void sc_gguf_close(struct sc_gguf *g)
{
    if (!g)
        return;
    free(g->tensor_names);
    free(g->value_names);
    free(g->tensors);
    synthetic_finish(&g->synthetic);
    for (size_t i = 0; i < g->n_parts; i++)
        part_finish(&g->parts[i]);
    free(g->parts);
    free(g);
}

const char *sc_gguf_path(const struct sc_gguf *g)
{
    return g->parts[g->named].path;
}

uint32_t sc_gguf_version(const struct sc_gguf *g)
{
    return g->parts[0].version;
}

uint64_t sc_gguf_size_bytes(const struct sc_gguf *g)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < g->n_parts; i++)
        sum += g->parts[i].size_bytes;
    return sum;
}

size_t sc_gguf_n_files(const struct sc_gguf *g)
{
    return g->n_parts;
}

const char *sc_gguf_file_path(const struct sc_gguf *g, size_t index)
{
    return g->parts[index].path;
}

const void *sc_gguf_file_data(const struct sc_gguf *g, size_t index, uint64_t *size_bytes)
{
    const struct part *p = &g->parts[index];
    *size_bytes = p->map.size_bytes;
    return g->is_header ? NULL : p->map.data;
}

int sc_gguf_file_descriptor(const struct sc_gguf *g, size_t index)
{
    return g->parts[index].map.fd;
}

bool sc_gguf_lock(const struct sc_gguf *g, size_t file)
{
    return mapping_lock(&g->parts[file].map);
}

void sc_gguf_prefetch(const struct sc_gguf *g, size_t file, uint64_t offset, uint64_t size_bytes)
{
    if (!g->is_header)
        mapping_prefetch(&g->parts[file].map, offset, size_bytes);
}

void sc_gguf_forget(const struct sc_gguf *g, size_t file, uint64_t offset, uint64_t size_bytes)
{
    if (!g->is_header)
        mapping_forget(&g->parts[file].map, offset, size_bytes);
}

size_t sc_gguf_n_values(const struct sc_gguf *g)
{
    return g->parts[0].n_values;
}

const struct sc_gguf_value *sc_gguf_value(const struct sc_gguf *g, size_t index)
{
    return &g->parts[0].values[index];
}

const struct sc_gguf_value *sc_gguf_find_value(const struct sc_gguf *g, const char *key)
{
    return find(g->value_names, g->parts[0].n_values, key);
}

size_t sc_gguf_n_tensors(const struct sc_gguf *g)
{
    return g->n_tensors;
}

const struct sc_gguf_tensor *sc_gguf_tensor(const struct sc_gguf *g, size_t index)
{
    return &g->tensors[index];
}

const struct sc_gguf_tensor *sc_gguf_find_tensor(const struct sc_gguf *g, const char *name)
{
    return find(g->tensor_names, g->n_tensors, name);
}
