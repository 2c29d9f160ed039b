/* SPDX-License-Identifier: Apache-2.0 */
/* Typed reading of metadata. The parser has checked that the bytes are there. */
#include "value.h"
#include "bytes.h"
#include "gguf.h"

size_t value_size(enum sc_gguf_value_type type)
{
    switch (type) {
    case SC_GGUF_U8:
    case SC_GGUF_I8:
    case SC_GGUF_BOOL: return 1;
    case SC_GGUF_U16:
    case SC_GGUF_I16: return 2;
    case SC_GGUF_U32:
    case SC_GGUF_I32:
    case SC_GGUF_F32: return 4;
    case SC_GGUF_U64:
    case SC_GGUF_I64:
    case SC_GGUF_F64: return 8;
    case SC_GGUF_STRING:
    case SC_GGUF_ARRAY: break;
    }
    return 0;
}

/* An integer as sign and 64 bits: *bits is two's complement if *negative. */
static bool load_integer(enum sc_gguf_value_type type, const uint8_t *p, uint64_t *bits, bool *negative)
{
    int64_t i;
    switch (type) {
    case SC_GGUF_U8: i = p[0]; break;
    case SC_GGUF_I8: i = (int8_t)p[0]; break;
    case SC_GGUF_U16: i = load_u16(p); break;
    case SC_GGUF_I16: i = (int16_t)load_u16(p); break;
    case SC_GGUF_U32: i = load_u32(p); break;
    case SC_GGUF_I32: i = (int32_t)load_u32(p); break;
    case SC_GGUF_U64:
        *bits = load_u64(p);
        *negative = false;
        return true;
    case SC_GGUF_I64: i = (int64_t)load_u64(p); break;
    default: return false;
    }
    *bits = (uint64_t)i;
    *negative = i < 0;
    return true;
}

static bool load_number(enum sc_gguf_value_type type, const uint8_t *p, double *out)
{
    uint64_t bits;
    bool negative;
    if (type == SC_GGUF_F32)
        *out = (double)load_f32(p);
    else if (type == SC_GGUF_F64)
        *out = load_f64(p);
    else if (load_integer(type, p, &bits, &negative))
        *out = negative ? (double)(int64_t)bits : (double)bits;
    else
        return false;
    return true;
}

/* Where the element is, NULL if there is none of fixed size. */
static const uint8_t *element(const struct sc_gguf_value *v, uint64_t index)
{
    if (!v || v->type != SC_GGUF_ARRAY || index >= v->n_elements)
        return NULL;
    size_t size = value_size(v->element_type);
    return size > 0 ? v->data + size * (size_t)index : NULL;
}

bool sc_gguf_read_u64(const struct sc_gguf_value *v, uint64_t *out)
{
    uint64_t bits;
    bool negative;
    if (!v || !load_integer(v->type, v->data, &bits, &negative) || negative)
        return false;
    *out = bits;
    return true;
}

bool sc_gguf_read_f64(const struct sc_gguf_value *v, double *out)
{
    return v && load_number(v->type, v->data, out);
}

bool sc_gguf_read_bool(const struct sc_gguf_value *v, bool *out)
{
    if (!v || v->type != SC_GGUF_BOOL)
        return false;
    *out = v->data[0] != 0;
    return true;
}

bool sc_gguf_read_string(const struct sc_gguf_value *v, struct sc_gguf_string *out)
{
    if (!v || v->type != SC_GGUF_STRING)
        return false;
    out->data = (const char *)v->data;
    out->size_bytes = v->size_bytes;
    return true;
}

bool sc_gguf_array_f64(const struct sc_gguf_value *v, uint64_t index, double *out)
{
    const uint8_t *p = element(v, index);
    return p && load_number(v->element_type, p, out);
}

bool sc_gguf_array_i64(const struct sc_gguf_value *v, uint64_t index, int64_t *out)
{
    const uint8_t *p = element(v, index);
    uint64_t bits;
    bool negative;
    if (!p || !load_integer(v->element_type, p, &bits, &negative) || (!negative && bits > INT64_MAX))
        return false;
    *out = (int64_t)bits;
    return true;
}

bool sc_gguf_array_strings(const struct sc_gguf_value *v, struct sc_gguf_string *out)
{
    if (!v || v->type != SC_GGUF_ARRAY || v->element_type != SC_GGUF_STRING)
        return false;
    const uint8_t *p = v->data;
    for (uint64_t i = 0; i < v->n_elements; i++) {
        out[i].size_bytes = (size_t)load_u64(p);
        out[i].data = (const char *)p + 8;
        p += 8 + out[i].size_bytes;
    }
    return true;
}
