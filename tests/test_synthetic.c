/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files cut off after their header: they open as such and not as models, everything that the header says is checked all
 * the same, and the weights made up for them are valid wherever they are read, also where tensors share memory.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "config.h"
#include "model_builder.h"

static const char path[] = "test_synthetic.tmp.gguf";

static struct sc_gguf *open_header(const struct model_spec *spec)
{
    struct sc_error e = {0};
    assert_true(model_write(path, spec));
    struct sc_gguf *g = sc_gguf_open_header(path, &e);
    if (!g)
        fail_msg("%s", e.text);
    assert_true(sc_gguf_is_header(g));
    return g;
}

/* The known models: as large as they are known to be, and found complete by those who look for their weights. */
static void test_presets(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double parameters, gigabytes;
    } known[] = {
        {"8x7b", 46.70e9, 28.45}, {"8x22b", 140.62e9, 85.59}, {"7b", 7.24e9, 4.37}, {"30b-a3b", 30.53e9, 18.55}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        struct model_spec spec = {0};
        struct config c;
        struct weights w;
        struct sc_error e = {0};
        assert_true(model_preset(&spec, known[i].name));
        spec.header_only = true;
        struct sc_gguf *g = open_header(&spec);
        if (!config_read(&c, g, &e) || !weights_init(&w, &c, g, &e))
            fail_msg("%s: %s", known[i].name, e.text);
        double parameters = 0;
        for (size_t k = 0; k < sc_gguf_n_tensors(g); k++) {
            double n = 1;
            for (uint32_t d = 0; d < sc_gguf_tensor(g, k)->n_dims; d++)
                n *= (double)sc_gguf_tensor(g, k)->shape[d];
            parameters += n;
        }
        const double gigabytes = (double)sc_gguf_size_bytes(g) / 1e9;
        print_message("%s: %.2f B parameters, %.2f GB\n", known[i].name, parameters / 1e9, gigabytes);
        if (!(fabs(parameters / known[i].parameters - 1) < 1e-3) || !(fabs(gigabytes / known[i].gigabytes - 1) < 0.01))
            fail_msg("%s: %.2f B parameters, %.2f GB", known[i].name, parameters / 1e9, gigabytes);
        weights_finish(&w);
        sc_gguf_close(g);

        assert_null(sc_gguf_open(path, &e));
        assert_int_equal(e.code, SC_BAD_FILE);
        assert_non_null(strstr(e.text, "is truncated"));
    }
}

/* Anything shorter is no header, also where it ends between two tensors. */
static void test_truncations(void **state)
{
    (void)state;
    struct gguf_builder b = {0};
    struct byte_buffer image = {0};
    model_fill(&b, &(struct model_spec){.layers = 1, .header_only = true});
    assert_true(gguf_builder_image(&b, &image));
    gguf_builder_finish(&b);
    size_t least = image.size_bytes;
    for (size_t n = image.size_bytes; n > 0; n--) {
        struct sc_error e = {0};
        assert_true(file_write(path, image.data, n));
        struct sc_gguf *g = sc_gguf_open_header(path, &e);
        if (g)
            least = n;
        sc_gguf_close(g);
        assert_true(g || (e.code != SC_OK && strstr(e.text, path)));
    }
    assert_true(image.size_bytes - least < 32); /* of padding after the last entry */
    byte_buffer_finish(&image);
}

static void expect_failure(struct gguf_builder *b, enum sc_code code, const char *text)
{
    struct sc_error e = {0};
    b->header_only = true;
    assert_true(gguf_builder_write(b, path));
    gguf_builder_finish(b);
    assert_null(sc_gguf_open_header(path, &e));
    if (e.code != code || !strstr(e.text, text))
        fail_msg("expected %d and \"%s\", got %d and \"%s\"", code, text, e.code, e.text);
}

static void test_checks(void **state)
{
    (void)state;
    static const uint64_t shape[] = {4, 32}, none[] = {0, 32}, odd[] = {4, 33}, huge[] = {1ull << 59, 32},
                          large[] = {1ull << 55, 32};
    struct gguf_builder b = {0};
    gguf_builder_tensor_info(&b, "a", SC_F32, 2, shape, 0);
    gguf_builder_tensor_info(&b, "b", SC_F32, 2, shape, 256);
    expect_failure(&b, SC_BAD_FILE, "tensor a overlaps tensor b");
    gguf_builder_tensor_info(&b, "a", SC_F32, 2, shape, 8);
    expect_failure(&b, SC_BAD_FILE, "does not begin at a multiple");
    gguf_builder_tensor_info(&b, "a", SC_F32, 2, shape, UINT64_MAX - 31);
    expect_failure(&b, SC_BAD_FILE, "ends beyond");
    gguf_builder_tensor_info(&b, "a", SC_F32, 2, none, 0);
    expect_failure(&b, SC_BAD_FILE, "a dimension of 0");
    gguf_builder_tensor_info(&b, "a", SC_Q8_0, 2, odd, 0);
    expect_failure(&b, SC_BAD_FILE, "not a multiple of 32");
    gguf_builder_tensor_info(&b, "a", SC_F32, 2, huge, 0);
    expect_failure(&b, SC_BAD_FILE, "more weights than");
    gguf_builder_tensor_info(&b, "a", SC_F32, 2, large, 0);
    expect_failure(&b, SC_UNSUPPORTED, "addresses reach");
}

static void add_vectors(struct gguf_builder *b, const char *prefix, uint32_t n, uint64_t length, uint64_t from)
{
    char name[16];
    for (uint32_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s%u", prefix, i);
        gguf_builder_tensor_info(b, name, SC_F32, 1, &length, from + 4 * i * length);
    }
}

/* Vectors are written when a header is opened: a small file must not take much memory by them. */
static void test_vectors(void **state)
{
    (void)state;
    struct gguf_builder b = {0};
    struct sc_error e = {0};
    add_vectors(&b, "large", 65, 1 << 20, 0);
    expect_failure(&b, SC_BAD_FILE, "0.3 GB of vectors");
    add_vectors(&b, "large", 63, 1 << 20, 0);
    add_vectors(&b, "small", 1025, 8, UINT64_C(63) << 22); /* each takes a page */
    expect_failure(&b, SC_BAD_FILE, "0.3 GB of vectors");

    b.header_only = true;
    add_vectors(&b, "norm", 64, 1 << 10, 0);
    assert_true(gguf_builder_write(&b, path));
    gguf_builder_finish(&b);
    struct sc_gguf *g = sc_gguf_open_header(path, &e);
    if (!g)
        fail_msg("%s", e.text);
    for (size_t i = 0; i < sc_gguf_n_tensors(g); i++)
        for (uint32_t k = 0; k < 1 << 10; k++)
            assert_true(((const float *)(const void *)sc_gguf_tensor(g, i)->data)[k] == 1);
    sc_gguf_close(g);
}

static double largest(const struct sc_gguf_tensor *t)
{
    const struct sc_type_info *info = sc_type_info(t->type);
    const uint64_t n = t->size_bytes / info->block_bytes;
    double most = 0;
    float values[256];
    for (uint64_t i = 0; i < n; i++) {
        info->dequantize(t->data + i * info->block_bytes, values, 1);
        for (uint32_t k = 0; k < info->block_size; k++) {
            if (!isfinite(values[k]))
                return HUGE_VAL;
            most = fabs((double)values[k]) > most ? fabs((double)values[k]) : most;
        }
    }
    return most;
}

static bool rows_differ(const struct sc_gguf_tensor *t)
{
    const uint64_t row_bytes = t->size_bytes / t->shape[0];
    for (uint64_t i = 1; i < t->shape[0]; i++)
        if (memcmp(t->data, t->data + i * row_bytes, row_bytes) == 0)
            return false;
    return true;
}

/* Every type, some with too little memory: valid blocks everywhere, no two rows of a matrix the same. */
static void test_fabricate(void **state)
{
    (void)state;
    size_t n_types;
    const struct sc_type_info *types = sc_types(&n_types);
    for (size_t i = 0; i <= n_types; i++)
        for (int share = 0; share < (i % 5 == 0 ? 3 : 1); share++) {
            struct model_spec spec = {.type = i < n_types ? types[i].name : "q4_k_m",
                                      .d = 512,
                                      .ff = 1024,
                                      .experts = 8,
                                      .layers = 2,
                                      .header_only = true};
            struct sc_gguf *g = open_header(&spec);
            struct sc_error e = {0};
            uint64_t distinct = 0, most = share == 0 ? UINT64_MAX : share == 1 ? 5000000 : 1;
            if (!sc_gguf_fabricate(g, most, 3, NULL, NULL, &distinct, &e))
                fail_msg("%s", e.text);
            if (share == 1)
                assert_true(distinct < most + 1000000 && distinct > most / 2); /* whole units of each kind */
            for (size_t k = 0; k < sc_gguf_n_tensors(g); k++) {
                const struct sc_gguf_tensor *t = sc_gguf_tensor(g, k);
                const bool is_embedding = k == 0;
                const double value = largest(t);
                const double least = t->n_dims == 1 || is_embedding ? 1 : 1 / sqrt(512);
                const double bound = t->n_dims == 1 ? 1 : is_embedding ? 16 : 16 / sqrt(512);
                if (!(value >= least && value <= bound))
                    fail_msg("%s, share %d: a weight of %.*s is %g", spec.type, share, (int)t->name.size_bytes,
                             t->name.data, value);
                if (share == 0 && t->n_dims > 1)
                    assert_true(rows_differ(t));
            }
            sc_gguf_close(g);
        }
}

static bool stop(void *user, uint64_t done, uint64_t total)
{
    ++*(int *)user;
    return done > total;
}

static void test_cancel(void **state)
{
    (void)state;
    struct sc_gguf *g = open_header(&(struct model_spec){.header_only = true});
    struct sc_error e = {0};
    uint64_t distinct;
    int calls = 0;
    assert_false(sc_gguf_fabricate(g, UINT64_MAX, 1, stop, &calls, &distinct, &e));
    assert_int_equal(e.code, SC_CANCELLED);
    assert_int_equal(calls, 1);
    sc_gguf_close(g);
}

/* A complete model opens as a header too; what it holds is not read. A split one needs all its parts' headers. */
static void test_complete(void **state)
{
    (void)state;
    struct sc_gguf *g = open_header(&(struct model_spec){.layers = 1});
    const struct sc_gguf_tensor *t = sc_gguf_find_tensor(g, "token_embd.weight");
    assert_non_null(t);
    assert_true(largest(t) == 0);
    struct sc_error e = {0};
    struct sc_gguf *strict = sc_gguf_open(path, &e);
    assert_non_null(strict);
    assert_false(sc_gguf_is_header(strict));
    assert_true(sc_gguf_size_bytes(strict) == sc_gguf_size_bytes(g));
    sc_gguf_close(strict);
    sc_gguf_close(g);

    static const char first[] = "test_synthetic.tmp-00001-of-00002.gguf",
                      second[] = "test_synthetic.tmp-00002-of-00002.gguf";
    assert_true(model_write(first, &(struct model_spec){.n_files = 2, .header_only = true}));
    g = sc_gguf_open_header(second, &e);
    if (!g)
        fail_msg("%s", e.text);
    assert_non_null(sc_gguf_find_tensor(g, "output.weight"));
    sc_gguf_close(g);
    unlink(first);
    assert_null(sc_gguf_open_header(second, &e));
    unlink(second);
}

static int clean(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_presets), cmocka_unit_test(test_truncations),
                                       cmocka_unit_test(test_checks),  cmocka_unit_test(test_fabricate),
                                       cmocka_unit_test(test_cancel),  cmocka_unit_test(test_complete),
                                       cmocka_unit_test(test_vectors)};
    return cmocka_run_group_tests(tests, NULL, clean);
}
