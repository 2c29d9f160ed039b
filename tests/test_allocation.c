/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading a model while the Nth allocation fails, for every N: an error that says so, nothing crashed, and nothing
 * leaked, for which the leak sanitizer looks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "failing_malloc.h"
#include "load_everything.h"
#include "model_builder.h"

static void check_all_allocations(const char *path)
{
    long n = 0;
    for (bool loaded = false; !loaded; n++) {
        struct sc_error e = {0};
        fail_malloc(n);
        loaded = load_everything(path, &e);
        bool failed = malloc_has_failed();
        fail_malloc(-1);
        if (loaded == failed || (!loaded && e.code != SC_OUT_OF_MEMORY))
            fail_msg("allocation %ld, failed %d: loaded %d, code %d, \"%s\"", n, failed, loaded, e.code, e.text);
    }
    assert_true(n > 8);
}

static void test_one_file(void **state)
{
    (void)state;
    static const char path[] = "test_allocation.tmp.gguf";
    const struct model_spec spec = {.d = 32, .ff = 32, .layers = 2, .heads = 2, .type = "q8_0", .split_experts = true};
    assert_true(model_write(path, &spec));
    check_all_allocations(path);
    unlink(path);
}

static void test_split_set(void **state)
{
    (void)state;
    static const char *const parts[] = {"test_allocation.tmp-00001-of-00002.gguf",
                                        "test_allocation.tmp-00002-of-00002.gguf"};
    const struct model_spec spec = {.d = 32, .ff = 32, .layers = 1, .heads = 2, .type = "q8_0", .n_files = 2};
    assert_true(model_write(parts[0], &spec));
    check_all_allocations(parts[1]);
    unlink(parts[0]);
    unlink(parts[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_file),
        cmocka_unit_test(test_split_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
