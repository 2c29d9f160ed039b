/* SPDX-License-Identifier: Apache-2.0 */
/* Files that shrink while they are mapped: zeros and an error, no death; and what is not ours still kills. */
#define _DEFAULT_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "guard.h"
#include "load_everything.h"
#include "mapping.h"
#include "model_builder.h"

enum { PAGES = 8 };
static const char path[] = "test_guard.tmp";
static long page;

static int make_file(void **state)
{
    (void)state;
    page = sysconf(_SC_PAGESIZE);
    uint8_t *bytes = malloc((size_t)page * PAGES);
    assert_non_null(bytes);
    memset(bytes, 0xA5, (size_t)page * PAGES);
    assert_true(file_write(path, bytes, (size_t)page * PAGES));
    free(bytes);
    return 0;
}

static int remove_file(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

/* cmocka sets its own handlers for each test. */
static void install_again(void)
{
    static struct sigaction ours;
    static bool installed;
    if (!installed) {
        guard_remove(guard_add(path, 1));
        sigaction(SIGBUS, NULL, &ours);
    }
    installed = true;
    sigaction(SIGBUS, &ours, NULL);
}

static void test_shrinks(void **state)
{
    (void)state;
    install_again();
    struct sc_error e = {0};
    struct mapping whole = {0}, shrunk = {0};
    assert_true(mapping_init(&shrunk, path, &e));
    assert_true(mapping_check(&shrunk, path, &e));
    assert_int_equal(truncate(path, 3 * page), 0);
    assert_true(mapping_init(&whole, path, &e));

    assert_int_equal(shrunk.data[0], 0xA5);
    assert_true(mapping_check(&shrunk, path, &e)); /* nothing that is lost was wanted yet */
    for (long p = PAGES; p-- > 0;)
        assert_int_equal(shrunk.data[p * page + 7], p < 3 ? 0xA5 : 0);
    assert_false(mapping_check(&shrunk, path, &e));
    assert_int_equal(e.code, SC_IO);
    assert_string_equal(e.text, "test_guard.tmp was truncated or could not be read while it was in use");
    mapping_finish(&shrunk);

    e = (struct sc_error){0};
    assert_int_equal(whole.data[2 * page], 0xA5);
    assert_true(mapping_check(&whole, path, &e));
    mapping_finish(&whole);
}

/* How a child ended that maps the file after `before`, truncates it and touches what is lost. */
static int status_of_child(void (*before)(void), void (*fault)(const uint8_t *data))
{
    struct sc_error e = {0};
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        before();
        const int fd = open(path, O_RDONLY);
        const uint8_t *data = mmap(NULL, (size_t)page, PROT_READ, MAP_PRIVATE, fd, 0);
        struct mapping m;
        if (data == MAP_FAILED || !mapping_init(&m, path, &e) || truncate(path, 0) != 0)
            _exit(1);
        fault(data);
        _exit(0);
    }
    int status = 0;
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void handle_before(int number)
{
    (void)number;
    _exit(42);
}

static void install_handler(void)
{
    signal(SIGBUS, handle_before);
}

static void install_default(void)
{
    signal(SIGBUS, SIG_DFL);
}

static void install_ignore(void)
{
    signal(SIGBUS, SIG_IGN);
}

static void touch(const uint8_t *data)
{
    *(volatile const uint8_t *)data;
}

static void send(const uint8_t *data)
{
    (void)data;
    raise(SIGBUS);
}

/* Runs before any other: the first mapping of the process finds the handler that was there before. */
static void test_others(void **state)
{
    static const struct {
        const char *name;
        void (*before)(void);
        void (*fault)(const uint8_t *);
        bool killed;
        int exit_status;
    } cases[] = {
        {"default, fault", install_default, touch, true, 0},   {"default, sent", install_default, send, true, 0},
        {"handler, fault", install_handler, touch, false, 42}, {"handler, sent", install_handler, send, false, 42},
        {"ignored, fault", install_ignore, touch, true, 0},    {"ignored, sent", install_ignore, send, false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        make_file(state);
        const int status = status_of_child(cases[i].before, cases[i].fault);
        const bool right = cases[i].killed ? WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS
                                           : WIFEXITED(status) && WEXITSTATUS(status) == cases[i].exit_status;
        if (!right)
            fail_msg("%s: status %x", cases[i].name, (unsigned)status);
    }
}

static void test_many(void **state)
{
    (void)state;
    static struct guard *guards[2000];
    size_t n = 0;
    while (n < 2000 && (guards[n] = guard_add((void *)(uintptr_t)(page * (long)(n + 1)), (size_t)page)))
        n++;
    assert_int_equal(n, 1024);
    struct mapping m;
    struct sc_error e = {0};
    assert_false(mapping_init(&m, path, &e));
    assert_int_equal(e.code, SC_UNSUPPORTED);
    mapping_finish(&m);
    while (n-- > 0)
        guard_remove(guards[n]);
    e = (struct sc_error){0};
    assert_true(mapping_init(&m, path, &e));
    mapping_finish(&m);
}

/* A model that loses its end at every page: it opens, or not, with one sentence; its weights are gone. */
static void test_model(void **state)
{
    (void)state;
    install_again();
    static const char model[] = "test_guard.tmp.gguf";
    const struct model_spec spec = {.d = 64, .ff = 64, .layers = 1, .type = "q8_0"};
    for (long left = 0; left < 12; left++) {
        struct sc_error e = {0};
        assert_true(model_write(model, &spec));
        struct sc_gguf *g = sc_gguf_open(model, &e);
        assert_non_null(g);
        assert_true((uint64_t)(left * page) < sc_gguf_size_bytes(g));
        assert_int_equal(truncate(model, left * page), 0);
        struct sc_error consequence = {0};
        if (touch_everything(g, &consequence))
            assert_int_equal(consequence.code, SC_OK);
        assert_false(sc_gguf_check(g, &e));
        assert_non_null(strstr(e.text, model));
        sc_gguf_close(g);
    }
    unlink(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_others, remove_file),
        cmocka_unit_test_setup_teardown(test_shrinks, make_file, remove_file),
        cmocka_unit_test_setup_teardown(test_many, make_file, remove_file),
        cmocka_unit_test(test_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
