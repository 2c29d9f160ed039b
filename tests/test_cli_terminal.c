/* SPDX-License-Identifier: Apache-2.0 */
/* The command line on a terminal: progress, editing, Ctrl-C. */
#include "cli_models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define START(...) terminal_start(SCORIA_PROGRAM, (const char *const[]){__VA_ARGS__, NULL})

static void expect(struct terminal *t, const char *text)
{
    if (!terminal_expect(t, text))
        fail_msg("'%s' did not come; seen: %s", text, t->seen ? t->seen + t->n_matched : "nothing");
}

static void run_shows_the_prompt(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    struct terminal t = START("run", "-m", model, "-p", "Hello there", "-n", "4", "--ignore-eos");
    expect(&t, "\033[2mHello there\033[0m");
    expect(&t, "prefill: ");
    expect(&t, "decode: 3 tokens");
    assert_int_equal(terminal_finish(&t), 0);

    t = START("run", "-m", model, "-p", "Hello there", "-n", "4", "--no-display-prompt");
    expect(&t, "prefill: ");
    assert_null(strstr(t.seen, "Hello there"));
    assert_int_equal(terminal_finish(&t), 0);

    setenv("NO_COLOR", "1", 1);
    t = START("run", "-m", model, "-p", "Hello there", "-n", "4");
    unsetenv("NO_COLOR");
    expect(&t, "Hello there");
    expect(&t, "prefill: ");
    assert_null(strstr(t.seen, "\033[2m"));
    assert_int_equal(terminal_finish(&t), 0);
}

static void run_stops_at_ctrl_c(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    struct terminal t = START("run", "-m", model, "-p", "Hello", "--ignore-eos", "-c", "512");
    expect(&t, "Hello");
    terminal_type(&t, "\003");
    expect(&t, "prefill: ");
    int status = terminal_finish(&t);
    assert_true(status == 130 || status == 0); /* 0: it was done before */
}

/*
 * Ctrl-D at the prompt. libedit shows the prompt before it sets the terminal up; a Ctrl-D in between is lost, and no
 * output tells when that time is over.
 */
static void type_end(struct terminal *t)
{
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    terminal_type(t, "\004");
}

static void chat_on_a_terminal(void **state)
{
    size_t n;

    (void)state;
    NEEDS_DEVICE();
    struct terminal t = START("chat", "-m", model, "-c", "512", "--chat-template", "plain", "-s", "1");
    expect(&t, "/help lists the commands");
    expect(&t, "> ");

    terminal_type(&t, "Hxllo\033[D\033[D\033[D\010e\005 you\r"); /* three to the left, x away, e, to the end */
    expect(&t, "you\r\n");
    expect(&t, "w"); /* a word of the model's */
    terminal_type(&t, "\003");
    expect(&t, "^C"); /* the answer may hold a prompt of its own */
    expect(&t, "> ");
    char *history = file_read(in_folder("scoria/history"), &n);
    assert_non_null(history); /* at once: a second Ctrl-C would have ended the program */
    assert_non_null(strstr(history, "Hello\\040you"));
    free(history);

    terminal_type(&t, "half a line");
    expect(&t, "line");
    terminal_type(&t, "\003");
    expect(&t, "> ");

    terminal_type(&t, "/stats\r");
    expect(&t, "prefill: ");
    expect(&t, " of 512 tokens");
    expect(&t, "> ");
    type_end(&t);
    assert_int_equal(terminal_finish(&t), 0);

    history = file_read(in_folder("scoria/history"), &n);
    assert_non_null(history);
    assert_non_null(strstr(history, "/stats"));
    assert_null(strstr(history, "half"));
    free(history);
}

static void chat_leaves_by_command(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    setenv("XDG_STATE_HOME", "/dev/null", 1);
    struct terminal t = START("chat", "-m", model, "-c", "512", "-n", "2");
    setenv("XDG_STATE_HOME", folder, 1);
    expect(&t, "> ");
    terminal_type(&t, "one \\\rtwo\r");
    expect(&t, "... ");
    expect(&t, "> ");
    terminal_type(&t, "/exit\r");
    expect(&t, "scoria: warning: ");
    expect(&t, "history");
    assert_int_equal(terminal_finish(&t), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(run_shows_the_prompt),
        cmocka_unit_test(run_stops_at_ctrl_c),
        cmocka_unit_test(chat_on_a_terminal),
        cmocka_unit_test(chat_leaves_by_command),
    };
    return cmocka_run_group_tests(tests, cli_setup, cli_teardown);
}
