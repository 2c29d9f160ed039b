/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"

enum { MAX_SHOWN = 8, MAX_CHARACTERS = 120 };

static const char *type_name(enum sc_gguf_value_type type)
{
    static const char *const names[] = {
        [SC_GGUF_U8] = "u8",       [SC_GGUF_I8] = "i8",   [SC_GGUF_U16] = "u16", [SC_GGUF_I16] = "i16",
        [SC_GGUF_U32] = "u32",     [SC_GGUF_I32] = "i32", [SC_GGUF_F32] = "f32", [SC_GGUF_BOOL] = "bool",
        [SC_GGUF_U64] = "u64",     [SC_GGUF_I64] = "i64", [SC_GGUF_F64] = "f64", [SC_GGUF_STRING] = "string",
        [SC_GGUF_ARRAY] = "array",
    };
    return (size_t)type < sizeof names / sizeof names[0] ? names[type] : "?";
}

static bool is_float(enum sc_gguf_value_type type)
{
    return type == SC_GGUF_F32 || type == SC_GGUF_F64;
}

/* The first elements as JSON: whatever the kind, one place that knows how to read them. */
static json_t *first_elements(const struct sc_gguf_value *v)
{
    json_t *list = json_array();
    uint64_t n = v->n_elements < MAX_SHOWN ? v->n_elements : MAX_SHOWN;

    if (v->element_type == SC_GGUF_STRING) {
        struct sc_gguf_string *strings = malloc((size_t)v->n_elements * sizeof *strings + 1);
        if (strings && sc_gguf_array_strings(v, strings))
            for (uint64_t i = 0; i < n; i++)
                json_array_append_new(list, json_text(strings[i].data, strings[i].size_bytes));
        free(strings);
        return list;
    }
    for (uint64_t i = 0; i < n; i++) {
        double real;
        int64_t integer;
        if (is_float(v->element_type) && sc_gguf_array_f64(v, i, &real))
            json_array_append_new(list, json_number(real));
        else if (v->element_type == SC_GGUF_BOOL && v->size_bytes > i)
            json_array_append_new(list, json_boolean(v->data[i]));
        else if (sc_gguf_array_i64(v, i, &integer))
            json_array_append_new(list, json_integer(integer));
    }
    return list;
}

static json_t *scalar(const struct sc_gguf_value *v)
{
    struct sc_gguf_string string;
    uint64_t whole;
    double real;
    bool boolean;

    if (v->type == SC_GGUF_I64 && v->size_bytes >= sizeof(int64_t)) {
        int64_t integer; /* too large for a double, and may be negative */
        memcpy(&integer, v->data, sizeof integer);
        return json_integer(integer);
    }
    if (sc_gguf_read_string(v, &string))
        return json_text(string.data, string.size_bytes);
    if (sc_gguf_read_bool(v, &boolean))
        return json_boolean(boolean);
    if (!is_float(v->type) && sc_gguf_read_u64(v, &whole))
        return json_count(whole);
    if (sc_gguf_read_f64(v, &real))
        return is_float(v->type) ? json_number(real) : json_integer((json_int_t)real);
    return json_null();
}

static void print_element(const json_t *element, size_t max_characters)
{
    if (json_is_string(element)) {
        output_printf("\"");
        output_quoted(json_string_value(element), json_string_length(element), max_characters);
        output_printf("\"");
    } else if (json_is_boolean(element)) {
        output_printf(json_is_true(element) ? "true" : "false");
    } else if (json_is_integer(element)) {
        output_printf("%" JSON_INTEGER_FORMAT, json_integer_value(element));
    } else if (json_is_real(element)) {
        output_printf("%.9g", json_real_value(element));
    } else {
        output_printf("nan or inf");
    }
}

void metadata_print(const struct sc_gguf_value *v)
{
    json_t *value = v->type == SC_GGUF_ARRAY ? first_elements(v) : scalar(v);
    size_t i;
    json_t *element;

    if (v->type != SC_GGUF_ARRAY) {
        print_element(value, MAX_CHARACTERS);
        json_decref(value);
        return;
    }
    output_printf("%" PRIu64 " x %s: [", v->n_elements, type_name(v->element_type));
    json_array_foreach(value, i, element)
    {
        output_printf(i ? ", " : "");
        print_element(element, 30);
    }
    output_printf(v->n_elements > json_array_size(value) ? "%s...]" : "]", json_array_size(value) ? ", " : "");
    json_decref(value);
}

json_t *metadata_to_json(const struct sc_gguf *g)
{
    json_t *object = json_object();

    for (size_t i = 0; i < sc_gguf_n_values(g); i++) {
        const struct sc_gguf_value *v = sc_gguf_value(g, i);
        json_t *key = json_text(v->key.data, v->key.size_bytes);
        json_t *value = v->type != SC_GGUF_ARRAY
                            ? scalar(v)
                            : json_pack("{s:s, s:o, s:o}", "type", type_name(v->element_type), "n_elements",
                                        json_count(v->n_elements), "first", first_elements(v));
        /* the key's length is lost here: what follows a 0 byte in a key is not shown */
        json_object_set_new(object, json_string_value(key), value);
        json_decref(key);
    }
    return object;
}
