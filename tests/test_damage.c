/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Damaged files: every truncation, and every byte of the header changed, of small models. Whatever is in the file, it
 * either loads, and then everything that loading promises may be touched, or gives one clear error. Run it under the
 * sanitizers.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "load_everything.h"
#include "model_builder.h"

static const char path[] = "test_damage.tmp.gguf";

static void check_load(const char *what, size_t at, int byte, size_t *n_loaded)
{
    struct sc_error e = {0};
    bool ok = load_everything(path, &e);
    *n_loaded += ok;
    if (ok && e.code == SC_OK)
        return;

    /* also not out of memory: a number in a file must not make us ask for more than the file's size explains */
    bool clear = !ok && (e.code == SC_BAD_FILE || e.code == SC_UNSUPPORTED) && strstr(e.text, path);
    for (const char *p = e.text; *p; p++)
        clear = clear && (unsigned char)*p >= 0x20 && *p != 0x7F;
    if (!clear)
        fail_msg("%s at byte %zu, value %d: loaded %d, code %d, \"%s\"", what, at, byte, ok, e.code, e.text);
}

/* The file's regions: metadata ends where tensor infos begin, these where the data does. */
struct regions {
    size_t infos, data;
};

static struct regions write_image(struct gguf_builder *b, struct byte_buffer *image)
{
    assert_true(gguf_builder_image(b, image));
    struct regions r = {24 + b->values.size_bytes, image->size_bytes - b->data.size_bytes};
    gguf_builder_finish(b);
    assert_true(file_write(path, image->data, image->size_bytes));
    struct sc_error e = {0};
    if (!load_everything(path, &e))
        fail_msg("undamaged: %s", e.text);
    return r;
}

/* A whole model with a tokenizer, as small as it gets. */
static struct regions build_model(struct byte_buffer *image, bool separate_experts)
{
    struct gguf_builder b = {0};
    const struct model_spec spec = {.d = 16,
                                    .ff = 16,
                                    .layers = 1,
                                    .heads = 1,
                                    .kv = 1,
                                    .experts = 2,
                                    .used = 1,
                                    .vocab = 259,
                                    .type = "f16",
                                    .split_experts = separate_experts,
                                    .rope_factors = true,
                                    .rope_linear = 2};
    model_fill(&b, &spec);
    return write_image(&b, image);
}

/* No tokenizer: few bytes, so that each can take all its values; every kind of value. */
static struct regions build_header(struct byte_buffer *image)
{
    struct gguf_builder b = {0};
    gguf_builder_u32(&b, "general.alignment", 32);
    gguf_builder_array(&b, "f", SC_GGUF_F32, 2, (float[]){1, 2}, 8);
    gguf_builder_array(&b, "b", SC_GGUF_BOOL, 2, (uint8_t[]){1, 0}, 2);
    gguf_builder_strings(&b, "s", (const char *const[]){"one", ""}, 2);
    gguf_builder_value(&b, "i", SC_GGUF_I64, (int64_t[]){-5}, 8);
    const struct model_spec spec = {.d = 16,
                                    .ff = 16,
                                    .layers = 1,
                                    .heads = 1,
                                    .kv = 1,
                                    .experts = 1,
                                    .used = 1,
                                    .vocab = 259,
                                    .type = "f32",
                                    .tied = true};
    b.omit = "tokenizer.ggml.tokens";
    gguf_builder_u32(&b, "tokenizer.ggml.scores", 0);
    gguf_builder_u32(&b, "tokenizer.ggml.token_type", 0);
    model_fill(&b, &spec);
    return write_image(&b, image);
}

static void change_bytes(const struct byte_buffer *image, size_t from, size_t to, const uint8_t *values,
                         size_t n_values, bool flips)
{
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    size_t n_loaded = 0;
    for (size_t at = from; at < to; at++) {
        uint8_t right = image->data[at];
        for (size_t k = 0; k < n_values + (flips ? 8 : 0); k++) {
            uint8_t byte = (uint8_t)(k < n_values ? values[k] : right ^ 1 << (k - n_values));
            assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
            check_load("changed", at, byte, &n_loaded);
        }
        assert_int_equal(pwrite(fd, &right, 1, (off_t)at), 1);
    }
    close(fd);
    assert_true(n_loaded > 0); /* padding and names of keys that nothing reads */
}

static void test_every_value_of_every_byte(void **state)
{
    (void)state;
    uint8_t all[256];
    for (int i = 0; i < 256; i++)
        all[i] = (uint8_t)i;
    struct byte_buffer image = {0};
    struct regions r = build_header(&image);
    change_bytes(&image, 0, r.data, all, sizeof all, false);
    byte_buffer_finish(&image);
}

static void test_every_byte_of_a_model(void **state)
{
    (void)state;
    static const uint8_t values[] = {0, 0x7F, 0x80, 0xFF};
    for (int separate = 0; separate < 2; separate++) {
        struct byte_buffer image = {0};
        struct regions r = build_model(&image, separate);
        change_bytes(&image, separate ? r.infos : 0, r.data, values, sizeof values, true); /* metadata is the same */
        byte_buffer_finish(&image);
    }
}

static void test_every_truncation(void **state)
{
    (void)state;
    struct byte_buffer image = {0};
    build_model(&image, false);
    size_t n_loaded = 0;
    for (size_t n = image.size_bytes; n-- > 0;) {
        assert_int_equal(truncate(path, (off_t)n), 0);
        check_load("truncated", n, -1, &n_loaded);
    }
    assert_int_equal(n_loaded, 0);
    byte_buffer_finish(&image);
}

/* Two numbers wrong at once: random 8-byte words where lengths, counts, dimensions and offsets stand. */
static void test_random_words(void **state)
{
    (void)state;
    static const uint64_t words[] = {
        0, 1, 8, 31, 1 << 16, UINT32_MAX, UINT64_C(1) << 32, INT64_MAX, UINT64_MAX - 31, UINT64_MAX};
    struct byte_buffer image = {0};
    size_t header = build_model(&image, true).data, n_loaded = 0;
    uint64_t seed = 42;
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    for (int round = 0; round < 20000; round++) {
        size_t at[2];
        for (int i = 0; i < 2; i++) {
            at[i] = (size_t)(random_u64(&seed) % (header - 8));
            uint64_t word = words[random_u64(&seed) % (sizeof words / sizeof words[0])];
            assert_int_equal(pwrite(fd, &word, sizeof word, (off_t)at[i]), sizeof word);
        }
        check_load("random words", at[0], round, &n_loaded);
        for (int i = 0; i < 2; i++)
            assert_int_equal(pwrite(fd, image.data + at[i], 8, (off_t)at[i]), 8);
    }
    close(fd);
    byte_buffer_finish(&image);
}

static int remove_file(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_value_of_every_byte),
        cmocka_unit_test(test_every_byte_of_a_model),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_random_words),
    };
    return cmocka_run_group_tests(tests, NULL, remove_file);
}
