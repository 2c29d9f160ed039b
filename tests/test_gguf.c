/* SPDX-License-Identifier: Apache-2.0 */
/* Reading right GGUF files, and one sentence for each way in which a file can be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "model_builder.h"
#include "printable.h"

static const char path[] = "test_gguf.tmp.gguf";
static const uint64_t shape_2x32[] = {2, 32};

static bool string_is(struct sc_gguf_string s, const char *text)
{
    return s.size_bytes == strlen(text) && memcmp(s.data, text, s.size_bytes) == 0;
}

static struct sc_gguf *open_built(struct gguf_builder *b)
{
    struct sc_error e = {0};
    assert_true(gguf_builder_write(b, path));
    gguf_builder_finish(b);
    struct sc_gguf *g = sc_gguf_open(path, &e);
    if (!g)
        fail_msg("%s", e.text);
    assert_int_equal(e.code, SC_OK);
    return g;
}

static void expect_failure(const char *what, const char *file, enum sc_code code, const char *text)
{
    struct sc_error e = {0};
    struct sc_gguf *g = sc_gguf_open(file, &e);
    if (g || e.code != code || !strstr(e.text, text) || !strstr(e.text, file))
        fail_msg("%s: expected code %d and \"%s\", got %d and \"%s\"", what, code, text, e.code, e.text);
}

static void test_values(void **state)
{
    (void)state;
    struct gguf_builder b = {0};
    gguf_builder_value(&b, "u8", SC_GGUF_U8, (uint8_t[]){200}, 1);
    gguf_builder_value(&b, "i8", SC_GGUF_I8, (int8_t[]){-3}, 1);
    gguf_builder_value(&b, "u16", SC_GGUF_U16, (uint16_t[]){60000}, 2);
    gguf_builder_value(&b, "i16", SC_GGUF_I16, (int16_t[]){-300}, 2);
    gguf_builder_u32(&b, "u32", UINT32_MAX);
    gguf_builder_value(&b, "i32", SC_GGUF_I32, (int32_t[]){7}, 4);
    gguf_builder_f32(&b, "f32", 0.5f);
    gguf_builder_bool(&b, "yes", true);
    gguf_builder_bool(&b, "no", false);
    gguf_builder_string(&b, "text", "some text");
    gguf_builder_string(&b, "empty", "");
    gguf_builder_value(&b, "u64", SC_GGUF_U64, (uint64_t[]){UINT64_MAX}, 8);
    gguf_builder_value(&b, "i64", SC_GGUF_I64, (int64_t[]){INT64_MIN}, 8);
    gguf_builder_value(&b, "f64", SC_GGUF_F64, (double[]){-1e300}, 8);
    struct sc_gguf *g = open_built(&b);

    static const struct {
        const char *key;
        bool is_u64;
        uint64_t u64;
        bool is_f64;
        double f64;
    } cases[] = {
        {"u8", true, 200, true, 200},        {"i8", false, 0, true, -3},
        {"u16", true, 60000, true, 60000},   {"i16", false, 0, true, -300},
        {"i32", true, 7, true, 7},           {"u32", true, UINT32_MAX, true, (double)UINT32_MAX},
        {"f32", false, 0, true, 0.5},        {"u64", true, UINT64_MAX, true, 18446744073709551616.0},
        {"f64", false, 0, true, -1e300},     {"i64", false, 0, true, -9223372036854775808.0},
        {"text", false, 0, false, 0},        {"yes", false, 0, false, 0},
        {"no such key", false, 0, false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct sc_gguf_value *v = sc_gguf_find_value(g, cases[i].key);
        uint64_t u = 12345;
        double d = 12345;
        bool is_u64 = sc_gguf_read_u64(v, &u), is_f64 = sc_gguf_read_f64(v, &d);
        if (is_u64 != cases[i].is_u64 || u != (is_u64 ? cases[i].u64 : 12345))
            fail_msg("%s read as integer: %d, %llu", cases[i].key, is_u64, (unsigned long long)u);
        if (is_f64 != cases[i].is_f64 || d != (is_f64 ? cases[i].f64 : 12345))
            fail_msg("%s read as number: %d, %g", cases[i].key, is_f64, d);
    }

    bool yes = false, no = true;
    struct sc_gguf_string text;
    assert_true(sc_gguf_read_bool(sc_gguf_find_value(g, "yes"), &yes) && yes);
    assert_true(sc_gguf_read_bool(sc_gguf_find_value(g, "no"), &no) && !no);
    assert_false(sc_gguf_read_bool(sc_gguf_find_value(g, "u8"), &yes));
    assert_true(sc_gguf_read_string(sc_gguf_find_value(g, "text"), &text) && string_is(text, "some text"));
    assert_true(sc_gguf_read_string(sc_gguf_find_value(g, "empty"), &text) && string_is(text, ""));
    assert_false(sc_gguf_read_string(sc_gguf_find_value(g, "u8"), &text));
    assert_null(sc_gguf_find_value(g, ""));
    assert_int_equal(sc_gguf_n_values(g), 14);
    assert_true(string_is(sc_gguf_value(g, 0)->key, "u8") && string_is(sc_gguf_value(g, 13)->key, "f64"));
    sc_gguf_close(g);
}

static void test_arrays(void **state)
{
    (void)state;
    struct gguf_builder b = {0};
    gguf_builder_array(&b, "floats", SC_GGUF_F32, 2, (float[]){1.5f, -2}, 8);
    gguf_builder_array(&b, "bytes", SC_GGUF_I8, 3, (int8_t[]){-1, 0, 1}, 3);
    gguf_builder_array(&b, "large", SC_GGUF_U64, 1, (uint64_t[]){UINT64_MAX}, 8);
    gguf_builder_array(&b, "none", SC_GGUF_U32, 0, NULL, 0);
    gguf_builder_strings(&b, "words", (const char *const[]){"one", "", "three"}, 3);
    struct sc_gguf *g = open_built(&b);

    double d = 0;
    int64_t i = 0;
    const struct sc_gguf_value *floats = sc_gguf_find_value(g, "floats"), *bytes = sc_gguf_find_value(g, "bytes");
    assert_int_equal(floats->n_elements, 2);
    assert_true(sc_gguf_array_f64(floats, 1, &d) && d == -2);
    assert_false(sc_gguf_array_f64(floats, 2, &d));
    assert_false(sc_gguf_array_i64(floats, 0, &i));
    assert_true(sc_gguf_array_i64(bytes, 0, &i) && i == -1);
    assert_true(sc_gguf_array_f64(bytes, 2, &d) && d == 1);
    assert_false(sc_gguf_array_i64(sc_gguf_find_value(g, "large"), 0, &i));
    assert_false(sc_gguf_array_i64(sc_gguf_find_value(g, "none"), 0, &i));
    assert_false(sc_gguf_array_i64(NULL, 0, &i));

    struct sc_gguf_string words[3];
    assert_true(sc_gguf_array_strings(sc_gguf_find_value(g, "words"), words));
    assert_true(string_is(words[0], "one") && string_is(words[1], "") && string_is(words[2], "three"));
    assert_false(sc_gguf_array_strings(floats, words));
    assert_false(sc_gguf_array_f64(sc_gguf_find_value(g, "words"), 0, &d));
    sc_gguf_close(g);
}

static void test_tensors(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        for (uint32_t alignment = 8; alignment <= 128; alignment *= 4) {
            struct gguf_builder b = {.version = version, .alignment = alignment};
            gguf_builder_u32(&b, "general.alignment", alignment);
            uint8_t *first = gguf_builder_tensor(&b, "first", SC_F32, 3, (uint64_t[]){2, 3, 5});
            memset(first, 0x11, 120);
            gguf_builder_tensor(&b, "odd type", 29, 1, (uint64_t[]){7});
            uint8_t *last = gguf_builder_tensor(&b, "last", SC_Q4_K, 2, (uint64_t[]){1, 512});
            memset(last, 0x22, 288);
            struct sc_gguf *g = open_built(&b);

            assert_int_equal(sc_gguf_version(g), version);
            assert_int_equal(sc_gguf_n_tensors(g), 3);
            const struct sc_gguf_tensor *t = sc_gguf_find_tensor(g, "first");
            assert_true(t == sc_gguf_tensor(g, 0) && t->n_dims == 3 && t->size_bytes == 120);
            assert_true(t->shape[0] == 2 && t->shape[1] == 3 && t->shape[2] == 5);
            assert_true(t->data[0] == 0x11 && t->data[119] == 0x11 && t->offset % alignment == 0);
            t = sc_gguf_find_tensor(g, "odd type");
            assert_true(t->type == 29 && t->size_bytes == 0 && !t->data);
            t = sc_gguf_find_tensor(g, "last");
            assert_true(t->size_bytes == 288 && t->data[0] == 0x22 && t->data[287] == 0x22);
            assert_true(t->offset + t->size_bytes == sc_gguf_size_bytes(g));
            assert_null(sc_gguf_find_tensor(g, "lost"));
            sc_gguf_close(g);
        }
    }
}

/* As many tensors as 60 layers of 256 separate experts have. */
static void test_many_tensors(void **state)
{
    (void)state;
    enum { N = 60 * 256 * 3 };
    char name[64];
    struct gguf_builder b = {.allow_duplicates = true};
    for (uint32_t i = 0; i < N; i++) {
        snprintf(name, sizeof name, "blk.%u.ffn_%u.%u.weight", i / 768, i % 3, i / 3 % 256);
        gguf_builder_tensor(&b, name, SC_F32, 1, (uint64_t[]){1});
    }
    struct sc_gguf *g = open_built(&b);
    for (uint32_t i = 0; i < N; i++) {
        snprintf(name, sizeof name, "blk.%u.ffn_%u.%u.weight", i / 768, i % 3, i / 3 % 256);
        assert_ptr_equal(sc_gguf_find_tensor(g, name), sc_gguf_tensor(g, i));
    }
    sc_gguf_close(g);
}

static void tensor_info(struct gguf_builder *b, uint32_t type, uint32_t n_dims, const uint64_t *shape, uint64_t offset)
{
    gguf_builder_data(b, 1024);
    gguf_builder_tensor_info(b, "t", type, n_dims, shape, offset);
}

static void build_duplicate_key(struct gguf_builder *b)
{
    b->allow_duplicates = true;
    gguf_builder_u32(b, "a.key", 1);
    gguf_builder_u32(b, "b.key", 1);
    gguf_builder_u32(b, "a.key", 2);
}

static void build_duplicate_tensor(struct gguf_builder *b)
{
    b->allow_duplicates = true;
    gguf_builder_tensor(b, "twin", SC_F32, 2, shape_2x32);
    gguf_builder_tensor(b, "twin", SC_F32, 2, shape_2x32);
}

static void build_overlap(struct gguf_builder *b)
{
    gguf_builder_data(b, 1024);
    gguf_builder_tensor_info(b, "one", SC_F32, 2, shape_2x32, 0);
    gguf_builder_tensor_info(b, "two", SC_F32, 2, shape_2x32, 224);
}

static void build_bad_key_type(struct gguf_builder *b)
{
    gguf_builder_value(b, "strange", 13, (uint8_t[4]){0}, 4);
}

static void build_bad_element_type(struct gguf_builder *b)
{
    gguf_builder_array(b, "strange", 99, 1, (uint8_t[4]){0}, 4);
}

static void build_nested_array(struct gguf_builder *b)
{
    gguf_builder_array(b, "nested", SC_GGUF_ARRAY, 1, (uint8_t[16]){0}, 16);
}

static void build_huge_array(struct gguf_builder *b)
{
    /* times 8 it wraps to 8 */
    gguf_builder_array(b, "huge", SC_GGUF_U64, (UINT64_C(1) << 61) + 1, (uint64_t[]){0}, 8);
}

static void build_huge_string_array(struct gguf_builder *b)
{
    gguf_builder_array(b, "huge", SC_GGUF_STRING, UINT64_MAX / 8, (uint64_t[]){0}, 8);
}

static void build_huge_string(struct gguf_builder *b)
{
    gguf_builder_value(b, "huge", SC_GGUF_STRING, (uint64_t[]){UINT64_MAX - 7}, 8);
}

static void build_bad_bool(struct gguf_builder *b)
{
    gguf_builder_value(b, "maybe", SC_GGUF_BOOL, (uint8_t[]){2}, 1);
}

static void build_bad_bool_array(struct gguf_builder *b)
{
    gguf_builder_array(b, "maybe", SC_GGUF_BOOL, 2, (uint8_t[]){1, 255}, 2);
}

static void build_empty_key(struct gguf_builder *b)
{
    gguf_builder_u32(b, "", 1);
}

static void build_long_name(struct gguf_builder *b)
{
    gguf_builder_tensor(b, "a.name.of.more.than.64.bytes.is.more.than.the.specification.allows", SC_F32, 2, shape_2x32);
}

static void build_alignment_0(struct gguf_builder *b)
{
    gguf_builder_u32(b, "general.alignment", 0);
}

static void build_alignment_24(struct gguf_builder *b)
{
    gguf_builder_u32(b, "general.alignment", 24);
}

static void build_alignment_huge(struct gguf_builder *b)
{
    gguf_builder_u32(b, "general.alignment", 1u << 31);
}

static void build_alignment_string(struct gguf_builder *b)
{
    gguf_builder_string(b, "general.alignment", "32");
}

static void build_no_dims(struct gguf_builder *b)
{
    tensor_info(b, SC_F32, 0, NULL, 0);
}

static void build_five_dims(struct gguf_builder *b)
{
    tensor_info(b, SC_F32, 5, (uint64_t[]){1, 1, 1, 1, 1}, 0);
}

static void build_zero_dim(struct gguf_builder *b)
{
    tensor_info(b, SC_F32, 3, (uint64_t[]){4, 0, 4}, 0);
}

static void build_dims_overflow(struct gguf_builder *b)
{
    tensor_info(b, SC_F32, 4, (uint64_t[]){1 << 16, 1 << 16, 1 << 16, 1 << 16}, 0);
}

static void build_bytes_overflow(struct gguf_builder *b)
{
    tensor_info(b, SC_F32, 2, (uint64_t[]){UINT64_C(1) << 31, UINT64_C(1) << 31}, 0);
}

static void build_negative_dim(struct gguf_builder *b)
{
    tensor_info(b, SC_Q4_0, 2, (uint64_t[]){UINT64_MAX, 32}, 0);
}

static void build_partial_block(struct gguf_builder *b)
{
    tensor_info(b, SC_Q4_K, 2, (uint64_t[]){8, 32}, 0);
}

static void build_unaligned_offset(struct gguf_builder *b)
{
    tensor_info(b, SC_F32, 2, shape_2x32, 4);
}

static void build_offset_overflow(struct gguf_builder *b)
{
    tensor_info(b, SC_F32, 2, shape_2x32, UINT64_MAX - 31);
}

static void build_offset_outside(struct gguf_builder *b)
{
    tensor_info(b, SC_F32, 2, shape_2x32, 1024 - 224);
}

static void build_unknown_type_outside(struct gguf_builder *b)
{
    tensor_info(b, 12345, 2, shape_2x32, UINT64_C(1) << 40);
}

static void build_version_1(struct gguf_builder *b)
{
    b->version = 1;
}

static void build_version_4(struct gguf_builder *b)
{
    b->version = 4;
}

static void build_big_endian(struct gguf_builder *b)
{
    b->version = 3u << 24;
}

static void build_many_values(struct gguf_builder *b)
{
    b->n_values = UINT64_C(1) << 60;
}

static void build_many_tensors(struct gguf_builder *b)
{
    b->n_tensors = 1000;
}

static void build_terminal_codes(struct gguf_builder *b)
{
    gguf_builder_tensor_info(b, "\x1B[31m\xFFred\xE2\x80\xAE", SC_F32, 1, (uint64_t[]){0}, 0);
}

static void build_parts_without_number(struct gguf_builder *b)
{
    gguf_builder_u32(b, "split.count", 3);
}

static void test_damaged_headers(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        void (*build)(struct gguf_builder *b);
        enum sc_code code;
        const char *text;
    } cases[] = {
        {"duplicate key", build_duplicate_key, SC_BAD_FILE, "key a.key is there twice"},
        {"duplicate tensor", build_duplicate_tensor, SC_BAD_FILE, "tensor twin is there twice"},
        {"overlap", build_overlap, SC_BAD_FILE, "tensor one overlaps tensor two"},
        {"key type", build_bad_key_type, SC_BAD_FILE, "key strange has a value of a type that GGUF does not define"},
        {"element type", build_bad_element_type, SC_BAD_FILE, "array strange has elements of a type"},
        {"nested array", build_nested_array, SC_UNSUPPORTED, "key nested is an array of arrays"},
        {"huge array", build_huge_array, SC_BAD_FILE, "array huge has more elements than the file has bytes left"},
        {"huge string array", build_huge_string_array, SC_BAD_FILE, "array huge has more elements"},
        {"huge string", build_huge_string, SC_BAD_FILE, "needs 18446744073709551608 bytes"},
        {"bad bool", build_bad_bool, SC_BAD_FILE, "key maybe holds a boolean"},
        {"bad bools", build_bad_bool_array, SC_BAD_FILE, "key maybe holds a boolean"},
        {"empty key", build_empty_key, SC_BAD_FILE, "is 0 bytes long, which must be 1 to 65535"},
        {"long name", build_long_name, SC_BAD_FILE, "bytes long, which must be 1 to 64"},
        {"alignment 0", build_alignment_0, SC_BAD_FILE, "general.alignment must be a power of two"},
        {"alignment 24", build_alignment_24, SC_BAD_FILE, "general.alignment must be a power of two"},
        {"alignment 2^31", build_alignment_huge, SC_BAD_FILE, "general.alignment must be a power of two"},
        {"alignment text", build_alignment_string, SC_BAD_FILE, "general.alignment must be a power of two"},
        {"no dims", build_no_dims, SC_BAD_FILE, "tensor t has 0 dimensions"},
        {"five dims", build_five_dims, SC_BAD_FILE, "tensor t has 5 dimensions"},
        {"zero dim", build_zero_dim, SC_BAD_FILE, "tensor t has a dimension of 0"},
        {"dims overflow", build_dims_overflow, SC_BAD_FILE, "tensor t has more weights than"},
        {"bytes overflow", build_bytes_overflow, SC_BAD_FILE, "tensor t has more bytes than"},
        {"negative dim", build_negative_dim, SC_BAD_FILE, "tensor t has more weights than"},
        {"partial block", build_partial_block, SC_BAD_FILE,
         "tensor t is q4_k with rows of 32 weights, not a multiple of 256"},
        {"unaligned", build_unaligned_offset, SC_BAD_FILE, "tensor t does not begin at a multiple"},
        {"offset overflow", build_offset_overflow, SC_BAD_FILE, "tensor t ends beyond"},
        {"offset outside", build_offset_outside, SC_BAD_FILE, "it has 1120 bytes, tensor t ends at byte 1152"},
        {"unknown type outside", build_unknown_type_outside, SC_BAD_FILE, "is truncated"},
        {"version 1", build_version_1, SC_UNSUPPORTED, "is GGUF version 1, Scoria reads versions 2 and 3"},
        {"version 4", build_version_4, SC_UNSUPPORTED, "is GGUF version 4"},
        {"big endian", build_big_endian, SC_UNSUPPORTED, "is a big-endian GGUF file"},
        {"many values", build_many_values, SC_BAD_FILE, "counts 1152921504606846976 metadata entries"},
        {"many tensors", build_many_tensors, SC_BAD_FILE, "counts 1000 tensors"},
        {"terminal codes", build_terminal_codes, SC_BAD_FILE,
         "tensor \\x1b[31m\\xffred\\xe2\\x80\\xae has a dimension of 0"},
        {"split name", build_parts_without_number, SC_BAD_FILE, "is one of 3 parts of a split model, but its name"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gguf_builder b = {0};
        cases[i].build(&b);
        assert_true(gguf_builder_write(&b, path));
        gguf_builder_finish(&b);
        expect_failure(cases[i].what, path, cases[i].code, cases[i].text);
    }
}

static void test_not_a_model(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size_bytes;
        const char *text;
    } cases[] = {
        {"", 0, "is empty"},
        {"GGU", 3, "is not a GGUF file"},
        {"GGUF", 4, "is truncated or damaged: the version at byte 4 needs 4 bytes, the file ends after 0"},
        {"ggjt\1\0\0\0", 8, "is not a GGUF file"},
        {"GGUF\3\0\0\0\1\0\0\0\0\0\0\0\0\0", 18, "is truncated"},
        {"version https://git-lfs.github.com/spec/v1\n", 43, "is a Git LFS pointer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_true(file_write(path, cases[i].bytes, cases[i].size_bytes));
        expect_failure("not a model", path, SC_BAD_FILE, cases[i].text);
    }

    expect_failure("missing", "no_such_file.gguf", SC_IO, "no_such_file.gguf: no such file");
    expect_failure("directory", ".", SC_IO, ". is a directory");
    expect_failure("device", "/dev/null", SC_IO, "is not a regular file");
    assert_int_equal(mkfifo("test_gguf.tmp.fifo", 0600), 0);
    expect_failure("FIFO", "test_gguf.tmp.fifo", SC_IO, "is not a regular file");
    unlink("test_gguf.tmp.fifo");
}

static const char *const parts[] = {
    "test_gguf.tmp-00001-of-00003.gguf",
    "test_gguf.tmp-00002-of-00003.gguf",
    "test_gguf.tmp-00003-of-00003.gguf",
};

static void write_parts(void)
{
    const struct model_spec spec = {.d = 32, .ff = 32, .layers = 1, .heads = 2, .type = "q8_0", .n_files = 3};
    assert_true(model_write(parts[0], &spec));
}

static void test_split(void **state)
{
    (void)state;
    write_parts();
    const struct model_spec whole = {.d = 32, .ff = 32, .layers = 1, .heads = 2, .type = "q8_0"};
    assert_true(model_write(path, &whole));
    struct sc_error e = {0};
    struct sc_gguf *one = sc_gguf_open(path, &e);
    assert_non_null(one);

    for (int i = 0; i < 3; i++) {
        struct sc_gguf *g = sc_gguf_open(parts[i], &e);
        if (!g)
            fail_msg("%s", e.text);
        assert_string_equal(sc_gguf_path(g), parts[i]);
        assert_int_equal(sc_gguf_n_files(g), 3);
        assert_int_equal(sc_gguf_n_tensors(g), sc_gguf_n_tensors(one));
        assert_non_null(sc_gguf_find_value(g, "llama.block_count"));
        uint32_t seen = 0;
        for (size_t k = 0; k < sc_gguf_n_tensors(one); k++) {
            const struct sc_gguf_tensor *a = sc_gguf_tensor(one, k);
            char name[65] = {0};
            memcpy(name, a->name.data, a->name.size_bytes);
            const struct sc_gguf_tensor *b = sc_gguf_find_tensor(g, name);
            assert_non_null(b);
            assert_int_equal(a->size_bytes, b->size_bytes);
            assert_memory_equal(a->data, b->data, a->size_bytes);
            assert_string_equal(sc_gguf_file_path(g, b->file), parts[b->file]);
            seen |= 1u << b->file;
        }
        assert_int_equal(seen, 7);
        sc_gguf_close(g);
    }
    sc_gguf_close(one);
}

static void write_part(int index, uint16_t no, uint16_t count, const char *tensor)
{
    struct gguf_builder b = {0};
    gguf_builder_value(&b, "split.no", SC_GGUF_U16, &no, sizeof no);
    gguf_builder_value(&b, "split.count", SC_GGUF_U16, &count, sizeof count);
    gguf_builder_tensor(&b, tensor, SC_F32, 2, shape_2x32);
    assert_true(gguf_builder_write(&b, parts[index]));
    gguf_builder_finish(&b);
}

/* Keys of the second part are no part of the model, but a file that says two things is damaged all the same. */
static void expect_duplicate_key(void)
{
    struct gguf_builder b = {.allow_duplicates = true};
    gguf_builder_u32(&b, "split.no", 1);
    gguf_builder_u32(&b, "split.count", 3);
    gguf_builder_u32(&b, "general.alignment", 32);
    gguf_builder_u32(&b, "general.alignment", 32);
    assert_true(gguf_builder_write(&b, parts[1]));
    gguf_builder_finish(&b);
    expect_failure("duplicate key in a part", parts[1], SC_BAD_FILE, "key general.alignment is there twice");
}

static void test_damaged_split(void **state)
{
    (void)state;
    write_parts();
    unlink(parts[1]);
    for (int i = 0; i < 3; i += 2) {
        struct sc_error e = {0};
        assert_null(sc_gguf_open(parts[i], &e));
        assert_string_equal(e.text, "test_gguf.tmp-00002-of-00003.gguf: no such file (part 2 of 3 of a split model)");
        assert_int_equal(e.code, SC_IO);
    }
    write_part(1, 1, 3, "another");
    expect_failure("tensors missing", parts[0], SC_BAD_FILE,
                   "the split model should have 13 tensors, its parts have 10");

    for (uint16_t i = 0; i < 3; i++)
        write_part(i, i, 3, i == 2 ? "a" : "b");
    expect_failure("tensor in two parts", parts[0], SC_BAD_FILE, "tensor b is there twice");
    expect_duplicate_key();
    write_part(1, 2, 3, "c");
    expect_failure("wrong number", parts[1], SC_BAD_FILE, "(split.no 2, split.count 3) contradicts its name");
    write_part(0, 0, 4, "c");
    expect_failure("wrong count", parts[0], SC_BAD_FILE, "is one of 4 parts");
}

static void test_printable(void **state)
{
    (void)state;
    char text[400];
    memset(text, 'x', sizeof text);
    assert_string_equal(sc_printable("a\n\xC3\xA9\xC0\x80\x7F", 7).text, "a\\x0a\xC3\xA9\\xc0\\x80\\x7f");
    struct printable cut = sc_printable(text, sizeof text);
    assert_int_equal(strlen(cut.text), SC_PRINTABLE_BYTES - 1);
    assert_string_equal(cut.text + SC_PRINTABLE_BYTES - 5, "x...");
    memset(text, 1, sizeof text);
    assert_string_equal(sc_printable(text, sizeof text).text + 92, "\\x01...");

    memset(text, 'x', sizeof text);
    memcpy(text + 390, "/me.gguf", 9);
    struct printable_path tail = sc_printable_path(text);
    assert_memory_equal(tail.text, "...x", 4);
    assert_string_equal(tail.text + strlen(tail.text) - 9, "x/me.gguf");

    /* every cut of the input and every capacity: the sanitizers watch the buffer's end */
    static const char mixed[] = "caf\xC3\xA9\x80\xE2\x82\xAC plus \xF0\x9F\x98\x80 and some more words to be cut off";
    for (size_t capacity = 8; capacity < 40; capacity++) {
        char *out = malloc(capacity);
        for (size_t n = 0; n < sizeof mixed; n++)
            assert_true(sc_printable_into(out, capacity, mixed, n) < capacity && strlen(out) < capacity);
        free(out);
    }
}

static void test_first_error_wins(void **state)
{
    (void)state;
    struct sc_error e = {0};
    assert_false(sc_fail(&e, SC_BAD_FILE, "file %d", 1));
    assert_false(sc_fail_memory(&e, "nothing"));
    assert_int_equal(e.code, SC_BAD_FILE);
    assert_string_equal(e.text, "file 1");

    char text[1201] = {0};
    for (int i = 0; i < 600; i++)
        memcpy(text + 2 * i, "\xC3\xA9", 2);
    for (int shift = 0; shift < 2; shift++) {
        e = (struct sc_error){0};
        sc_fail(&e, SC_IO, "%.*s%s", shift, "x", text);
        size_t length = strlen(e.text);
        assert_true(length < sizeof e.text && length > sizeof e.text - 8);
        assert_string_equal(e.text + length - 5, "\xC3\xA9...");
    }
}

static int remove_files(void **state)
{
    (void)state;
    unlink(path);
    for (int i = 0; i < 3; i++)
        unlink(parts[i]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),          cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_tensors),         cmocka_unit_test(test_many_tensors),
        cmocka_unit_test(test_damaged_headers), cmocka_unit_test(test_not_a_model),
        cmocka_unit_test(test_split),           cmocka_unit_test(test_damaged_split),
        cmocka_unit_test(test_printable),       cmocka_unit_test(test_first_error_wins),
    };
    return cmocka_run_group_tests(tests, NULL, remove_files);
}
