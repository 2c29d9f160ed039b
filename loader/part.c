/* SPDX-License-Identifier: Apache-2.0 */
#include "part.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "printable.h"
#include "value.h"

enum {
    MAX_VALUES = 1 << 16,
    MAX_TENSORS = 1 << 20, /* 256 experts x 3 matrices x 1000 layers fit */
    MAX_KEY_BYTES = 65535, /* the specification's limits */
    MAX_NAME_BYTES = 64,
    DEFAULT_ALIGNMENT = 32,
    MAX_ALIGNMENT = 1 << 30,

    /* the least that an entry takes in the file, to bound counts before memory is asked for */
    MIN_VALUE_BYTES = 8 + 1 + 4 + 1,
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8,
};

static_assert(offsetof(struct sc_gguf_value, key) == 0, "name_compare reads the name through a pointer to the struct");
static_assert(offsetof(struct sc_gguf_tensor, name) == 0,
              "name_compare reads the name through a pointer to the struct");

/* Reads forward through one file and never past its end. */
struct cursor {
    const uint8_t *data;
    uint64_t size;
    uint64_t at;
    const char *path; /* printable */
    bool header_only;
    struct sc_error *e;
};

static bool bad(struct cursor *c, const char *what, const struct sc_gguf_string *name, const char *problem)
{
    return sc_fail(c->e, SC_BAD_FILE, "%s: %s %s %s", c->path, what, sc_printable(name->data, name->size_bytes).text,
                   problem);
}

/* Makes sure that n more bytes are there; `what` says of what. */
static bool need(struct cursor *c, uint64_t n, const char *what)
{
    if (n <= c->size - c->at)
        return true;
    return sc_fail(c->e, SC_BAD_FILE,
                   "%s is truncated or damaged: %s at byte %" PRIu64 " needs %" PRIu64
                   " bytes, the file ends after %" PRIu64,
                   c->path, what, c->at, n, c->size - c->at);
}

static bool read_u32(struct cursor *c, uint32_t *out, const char *what)
{
    if (!need(c, 4, what))
        return false;
    *out = load_u32(c->data + c->at);
    c->at += 4;
    return true;
}

static bool read_u64(struct cursor *c, uint64_t *out, const char *what)
{
    if (!need(c, 8, what))
        return false;
    *out = load_u64(c->data + c->at);
    c->at += 8;
    return true;
}

static bool read_string(struct cursor *c, struct sc_gguf_string *out, const char *what)
{
    uint64_t length;
    if (!read_u64(c, &length, what) || !need(c, length, what))
        return false;
    out->data = (const char *)c->data + c->at;
    out->size_bytes = (size_t)length;
    c->at += length;
    return true;
}

static bool read_name(struct cursor *c, struct sc_gguf_string *out, size_t max_bytes, const char *what)
{
    uint64_t at = c->at;
    if (!read_string(c, out, what))
        return false;
    if (out->size_bytes == 0 || out->size_bytes > max_bytes)
        return sc_fail(c->e, SC_BAD_FILE, "%s: the %s at byte %" PRIu64 " is %zu bytes long, which must be 1 to %zu",
                       c->path, what, at, out->size_bytes, max_bytes);
    return true;
}

static bool check_bools(struct cursor *c, const struct sc_gguf_value *v)
{
    for (size_t i = 0; i < v->size_bytes; i++)
        if (v->data[i] > 1)
            return bad(c, "key", &v->key, "holds a boolean that is neither 0 nor 1");
    return true;
}

/* The elements of an array whose head has been read. */
static bool read_elements(struct cursor *c, struct sc_gguf_value *v)
{
    /* a string takes at least its length */
    uint64_t element_bytes = v->element_type == SC_GGUF_STRING ? 8 : value_size(v->element_type);
    if (v->n_elements > (c->size - c->at) / element_bytes)
        return bad(c, "array", &v->key, "has more elements than the file has bytes left");

    v->data = c->data + c->at;
    if (v->element_type == SC_GGUF_STRING) {
        struct sc_gguf_string unused;
        for (uint64_t i = 0; i < v->n_elements; i++)
            if (!read_string(c, &unused, "a string of an array"))
                return false;
        v->size_bytes = (size_t)(c->data + c->at - v->data);
        return true;
    }
    v->size_bytes = (size_t)(v->n_elements * element_bytes);
    c->at += v->size_bytes;
    return v->element_type != SC_GGUF_BOOL || check_bools(c, v);
}

static bool read_value(struct cursor *c, struct sc_gguf_value *v)
{
    uint32_t type, element_type;
    if (!read_name(c, &v->key, MAX_KEY_BYTES, "key") || !read_u32(c, &type, "a value's type"))
        return false;
    if (type > SC_GGUF_F64)
        return bad(c, "key", &v->key, "has a value of a type that GGUF does not define");

    v->type = (enum sc_gguf_value_type)type;
    v->element_type = v->type;
    v->n_elements = 1;
    if (v->type == SC_GGUF_ARRAY) {
        if (!read_u32(c, &element_type, "an array's type") || !read_u64(c, &v->n_elements, "an array's length"))
            return false;
        if (element_type > SC_GGUF_F64)
            return bad(c, "array", &v->key, "has elements of a type that GGUF does not define");
        if (element_type == SC_GGUF_ARRAY)
            return sc_fail(c->e, SC_UNSUPPORTED, "%s: key %s is an array of arrays, which Scoria does not read",
                           c->path, sc_printable(v->key.data, v->key.size_bytes).text);
        v->element_type = (enum sc_gguf_value_type)element_type;
        return read_elements(c, v);
    }
    if (v->type == SC_GGUF_STRING) {
        struct sc_gguf_string text;
        if (!read_string(c, &text, "a string"))
            return false;
        v->data = (const uint8_t *)text.data;
        v->size_bytes = text.size_bytes;
        return true;
    }
    v->size_bytes = value_size(v->type);
    if (!need(c, v->size_bytes, "a value"))
        return false;
    v->data = c->data + c->at;
    c->at += v->size_bytes;
    return v->type != SC_GGUF_BOOL || check_bools(c, v);
}

/* Number of weights, and if the type is known their bytes: everything about a tensor but its place. */
static bool measure(struct cursor *c, struct sc_gguf_tensor *t)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->shape[i] == 0)
            return bad(c, "tensor", &t->name, "has a dimension of 0");
        if (t->shape[i] > (uint64_t)INT64_MAX / n)
            return bad(c, "tensor", &t->name, "has more weights than a 64-bit number counts");
        n *= t->shape[i];
    }

    const struct sc_type_info *info = sc_type_info(t->type);
    if (!info)
        return true;
    if (t->shape[t->n_dims - 1] % info->block_size != 0)
        return sc_fail(c->e, SC_BAD_FILE, "%s: tensor %s is %s with rows of %" PRIu64 " weights, not a multiple of %u",
                       c->path, sc_printable(t->name.data, t->name.size_bytes).text, info->name,
                       t->shape[t->n_dims - 1], info->block_size);
    if (n / info->block_size > UINT64_MAX / info->block_bytes)
        return bad(c, "tensor", &t->name, "has more bytes than a 64-bit number counts");
    t->size_bytes = n / info->block_size * info->block_bytes;
    return true;
}

/* t->offset is still relative to the data section. */
static bool read_tensor(struct cursor *c, struct sc_gguf_tensor *t)
{
    if (!read_name(c, &t->name, MAX_NAME_BYTES, "tensor name") ||
        !read_u32(c, &t->n_dims, "a tensor's number of dimensions"))
        return false;
    if (t->n_dims == 0 || t->n_dims > SC_GGUF_MAX_DIMS)
        return sc_fail(c->e, SC_BAD_FILE, "%s: tensor %s has %u dimensions, which must be 1 to %d", c->path,
                       sc_printable(t->name.data, t->name.size_bytes).text, t->n_dims, SC_GGUF_MAX_DIMS);

    /* GGUF stores dims fastest-first; we reverse here and nowhere else. */
    for (uint32_t i = t->n_dims; i-- > 0;)
        if (!read_u64(c, &t->shape[i], "a tensor's dimension"))
            return false;
    return read_u32(c, &t->type, "a tensor's type") && read_u64(c, &t->offset, "a tensor's offset") && measure(c, t);
}

int name_compare(const void *a, const void *b)
{
    const struct sc_gguf_string *x = *(const struct sc_gguf_string *const *)a;
    const struct sc_gguf_string *y = *(const struct sc_gguf_string *const *)b;
    size_t shorter = x->size_bytes < y->size_bytes ? x->size_bytes : y->size_bytes;
    int order = memcmp(x->data, y->data, shorter);
    return order != 0 ? order : (x->size_bytes > y->size_bytes) - (x->size_bytes < y->size_bytes);
}

static bool read_alignment(struct cursor *c, const struct part *p, uint64_t *alignment)
{
    static const struct sc_gguf_string key = {"general.alignment", 17};
    const struct sc_gguf_string *wanted = &key;
    *alignment = DEFAULT_ALIGNMENT;
    for (size_t i = 0; i < p->n_values; i++) {
        const struct sc_gguf_string *name = &p->values[i].key;
        if (name_compare(&name, &wanted) != 0)
            continue;
        bool ok = sc_gguf_read_u64(&p->values[i], alignment) && *alignment >= 8 && *alignment <= MAX_ALIGNMENT &&
                  (*alignment & (*alignment - 1)) == 0;
        if (!ok)
            return bad(c, "key", &key, "must be a power of two from 8 to 2^30");
    }
    return true;
}

static int offset_compare(const void *a, const void *b)
{
    const struct sc_gguf_tensor *x = *(const struct sc_gguf_tensor *const *)a;
    const struct sc_gguf_tensor *y = *(const struct sc_gguf_tensor *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* No weight may stand for two: that is a damaged header, though reading it would be harmless. */
static bool check_overlaps(struct cursor *c, const struct part *p)
{
    if (p->n_tensors == 0)
        return true;
    const struct sc_gguf_tensor **order = malloc(p->n_tensors * sizeof *order);
    if (!order)
        return sc_fail_memory(c->e, "the tensor list");
    for (size_t i = 0; i < p->n_tensors; i++)
        order[i] = &p->tensors[i];
    qsort(order, p->n_tensors, sizeof *order, offset_compare);

    bool ok = true;
    for (size_t i = 1; ok && i < p->n_tensors; i++) {
        const struct sc_gguf_tensor *a = order[i - 1], *b = order[i];
        if (a->size_bytes > b->offset - a->offset)
            ok = sc_fail(c->e, SC_BAD_FILE, "%s: tensor %s overlaps tensor %s", c->path,
                         sc_printable(a->name.data, a->name.size_bytes).text,
                         sc_printable(b->name.data, b->name.size_bytes).text);
    }
    free(order);
    return ok;
}

/* Turns offsets into places in the file, now that the header has been read and the start of the data is known. */
static bool place_tensors(struct cursor *c, struct part *p, uint64_t alignment)
{
    uint64_t start = (c->at + alignment - 1) / alignment * alignment;
    for (size_t i = 0; i < p->n_tensors; i++) {
        struct sc_gguf_tensor *t = &p->tensors[i];
        if (t->offset % alignment != 0)
            return bad(c, "tensor", &t->name, "does not begin at a multiple of the file's alignment");
        if (t->offset > UINT64_MAX - start || t->size_bytes > UINT64_MAX - start - t->offset)
            return bad(c, "tensor", &t->name, "ends beyond what a 64-bit number counts");
        t->offset += start;
        const uint64_t end = t->offset + t->size_bytes;
        if (end > p->size_bytes && c->header_only)
            p->size_bytes = end;
        if (c->header_only)
            continue;
        if (end > c->size)
            return sc_fail(c->e, SC_BAD_FILE,
                           "%s is truncated: it has %" PRIu64 " bytes, tensor %s ends at byte %" PRIu64, c->path,
                           c->size, sc_printable(t->name.data, t->name.size_bytes).text, end);
        if (t->size_bytes > 0)
            t->data = c->data + t->offset;
    }
    return check_overlaps(c, p);
}

static uint32_t swap_bytes(uint32_t v)
{
    return v >> 24 | (v >> 8 & 0xFF00) | (v & 0xFF00) << 8 | v << 24;
}

/* Magic and version, with a hint for the files that people mistake for a model. */
static bool read_magic(struct cursor *c, uint32_t *version)
{
    static const char lfs[] = "version https://git-lfs";
    if (c->size >= sizeof lfs && memcmp(c->data, lfs, sizeof lfs - 1) == 0)
        return sc_fail(c->e, SC_BAD_FILE, "%s is a Git LFS pointer, not the model itself: fetch it with `git lfs pull`",
                       c->path);
    if (c->size < 4 || memcmp(c->data, "GGUF", 4) != 0)
        return sc_fail(c->e, SC_BAD_FILE, "%s is not a GGUF file: it does not begin with \"GGUF\"", c->path);
    c->at = 4;

    if (!read_u32(c, version, "the version"))
        return false;
    if (*version == 2 || *version == 3)
        return true;
    if (*version == 1)
        return sc_fail(c->e, SC_UNSUPPORTED,
                       "%s is GGUF version 1, Scoria reads versions 2 and 3: convert the model again", c->path);
    if (swap_bytes(*version) >= 1 && swap_bytes(*version) <= 3)
        return sc_fail(c->e, SC_UNSUPPORTED, "%s is a big-endian GGUF file, Scoria reads little-endian ones", c->path);
    return sc_fail(c->e, SC_UNSUPPORTED, "%s is GGUF version %u, Scoria reads versions 2 and 3", c->path, *version);
}

static bool check_count(struct cursor *c, uint64_t n, uint64_t limit, uint64_t min_bytes, const char *what)
{
    if (n > (c->size - c->at) / min_bytes)
        return sc_fail(c->e, SC_BAD_FILE,
                       "%s is truncated or damaged: its header counts %" PRIu64 " %s, which do not fit in %" PRIu64
                       " bytes",
                       c->path, n, what, c->size);
    if (n > limit)
        return sc_fail(c->e, SC_UNSUPPORTED, "%s has %" PRIu64 " %s, Scoria takes at most %" PRIu64, c->path, n, what,
                       limit);
    return true;
}

static bool parse(struct part *p, struct cursor *c)
{
    uint64_t n_tensors, n_values, alignment;
    if (!read_magic(c, &p->version) || !read_u64(c, &n_tensors, "the number of tensors") ||
        !read_u64(c, &n_values, "the number of metadata entries"))
        return false;
    if (!check_count(c, n_values, MAX_VALUES, MIN_VALUE_BYTES, "metadata entries") ||
        !check_count(c, n_tensors, MAX_TENSORS, MIN_TENSOR_BYTES, "tensors"))
        return false;

    /* one more, because calloc may answer NULL to 0 */
    p->values = calloc((size_t)n_values + 1, sizeof *p->values);
    p->tensors = calloc((size_t)n_tensors + 1, sizeof *p->tensors);
    if (!p->values || !p->tensors)
        return sc_fail_memory(c->e, "the header of the model file");

    for (; p->n_values < n_values; p->n_values++)
        if (!read_value(c, &p->values[p->n_values]))
            return false;
    for (; p->n_tensors < n_tensors; p->n_tensors++)
        if (!read_tensor(c, &p->tensors[p->n_tensors]))
            return false;
    return read_alignment(c, p, &alignment) && place_tensors(c, p, alignment);
}

bool part_init(struct part *p, const char *path, bool header_only, struct sc_error *e)
{
    *p = (struct part){0};
    size_t path_bytes = strlen(path) + 1;
    p->path = malloc(path_bytes);
    if (!p->path)
        return sc_fail_memory(e, "a file name");
    memcpy(p->path, path, path_bytes);
    if (!mapping_init(&p->map, path, e))
        return false;
    struct printable_path shown = sc_printable_path(path);
    struct cursor c = {
        .data = p->map.data, .size = p->map.size_bytes, .path = shown.text, .header_only = header_only, .e = e};
    p->size_bytes = p->map.size_bytes;
    return parse(p, &c);
}

void part_finish(struct part *p)
{
    free(p->tensors);
    free(p->values);
    mapping_finish(&p->map);
    free(p->path);
    *p = (struct part){0};
}
