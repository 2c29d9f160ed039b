/* SPDX-License-Identifier: Apache-2.0 */
/* `scoria bench` as a user types it, where it needs no model. */
#include <jansson.h>
#include <string.h>

#include "cli_models.h"

static void wrong_use(void **state)
{
    (void)state;
    check_failure(RUN("bench"), 2, "bench needs -m FILE, or --kernels");
    check_failure(RUN("bench", "--kernels", "--kv", "q8_0"), 2, "--kernels has no use for --kv");
    check_failure(RUN("bench", "--kernels", "-r", "1", "--n-depth", "16"), 2, "--kernels has no use for -d");
    check_failure(RUN("bench", "--kernels", "--curve", "--svg", "x.svg"), 2, "--kernels has no use for --curve");
    check_failure(RUN("bench", "-m", "x.gguf", "--variants"), 2, "--variants says what --kernels measures");
    check_failure(RUN("bench", "-m", "x.gguf", "--type", "q4_k"), 2, "--type says what --kernels measures");
    check_failure(RUN("bench", "-m", "x.gguf", "--svg", "x.svg"), 2, "--svg draws what --curve measures");
    check_failure(RUN("bench", "-m", "x.gguf", "--curve", "-p", "8"), 2, "no use for -p");
    check_failure(RUN("bench", "-m", "x.gguf", "--curve", "-n", "8"), 2, "no use for -n");
    check_failure(RUN("bench", "--kernels", "--type", "q4_k,q4_x"), 2, "not 'q4_k,q4_x'");
    check_failure(RUN("bench", "--kernels", "--shape", "8x8b"), 1, "8x8b");
    check_failure(RUN("bench", "--kernels", "--shape", "tiny", "-n", "0"), 1, "1 to 4096 tokens");
}

static size_t count(const char *text, const char *part)
{
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, part)); at++)
        n++;
    return n;
}

static void tables(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    struct outcome o = RUN("bench", "--kernels", "--shape", "tiny", "--type", "q4_0,f16", "-n", "1", "-r", "1");
    check_success(&o);
    assert_int_equal(count(o.out, "| shape"), 1);
    assert_int_equal(count(o.out, "| qkv"), 2);
    assert_int_equal(count(o.out, "| rms_norm"), 1);
    assert_non_null(strstr(o.error, "GB/s"));
    outcome_finish(&o);

    o = RUN("bench", "--kernels", "--shape", "tiny", "--type", "q4_0", "-n", "1,3", "-r", "1", "--json");
    check_success(&o);
    json_t *rows = json_loads(o.out, 0, NULL);
    assert_true(json_array_size(rows) > 20);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        assert_true(json_number_value(json_object_get(row, "seconds")) > 0);
        assert_true(json_number_value(json_object_get(row, "gb_per_s")) > 0);
        assert_true(json_number_value(json_object_get(row, "copy_gb_per_s")) > 0);
    }
    json_decref(rows);
    outcome_finish(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(wrong_use), cmocka_unit_test(tables)};
    return cmocka_run_group_tests_name("test_cli_bench", tests, cli_setup, cli_teardown);
}
