/* SPDX-License-Identifier: Apache-2.0 */
#include "line.h"

#include <errno.h>
#include <histedit.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#include "interrupt.h"
#include "terminal.h"

enum { HISTORY_LINES = 1000 };

static EditLine *editor;
static History *past;
static const char *shown_prompt;
static char not_saved[PATH_MAX + 64]; /* why the newest lines are not in the history's file; "": they are */

static char *prompt_of_editor(EditLine *e)
{
    (void)e;
    return (char *)shown_prompt;
}

/*
 * The editor's way to read a character. Its own would block in read, and a signal that comes just before that would be
 * noticed only at the next key.
 */
static int read_character(EditLine *e, wchar_t *out)
{
    mbstate_t state = {0};
    char byte;

    (void)e;
    for (;;) {
        struct pollfd fds[2] = {{0, POLLIN, 0}, {interrupt_fd(), POLLIN, 0}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return -1;
        if (interrupt_requested())
            return -1;
        if (!fds[0].revents)
            continue;
        ssize_t n = read(0, &byte, 1);
        if (n <= 0)
            return (int)n;
        size_t length = mbrtowc(out, &byte, 1, &state);
        if (length == 0 || length == 1)
            return 1;
        if (length == (size_t)-1) /* what is no character is dropped */
            state = (mbstate_t){0};
    }
}

/* $XDG_STATE_HOME/scoria/history, whose folders it makes when asked; false if there is no place. */
static bool history_path(char path[PATH_MAX], bool make_folders)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n;

    if (state && state[0] == '/')
        n = snprintf(path, PATH_MAX, "%s/scoria/history", state);
    else if (home && home[0] == '/')
        n = snprintf(path, PATH_MAX, "%s/.local/state/scoria/history", home);
    else
        return false;
    if (n < 0 || n >= PATH_MAX)
        return false;
    for (char *slash = path + 1; make_folders && (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        if (mkdir(path, 0700) && errno != EEXIST && errno != EISDIR) {
            *slash = '/';
            return false;
        }
        *slash = '/';
    }
    return true;
}

void line_init(void)
{
    HistEvent event;
    char path[PATH_MAX];

    if (!terminal_input() || !terminal_output())
        return;
    editor = el_init("scoria", stdin, stdout, stderr);
    past = history_init();
    if (!editor || !past)
        return;
    history(past, &event, H_SETSIZE, HISTORY_LINES);
    history(past, &event, H_SETUNIQUE, 1);
    if (history_path(path, false))
        history(past, &event, H_LOAD, path); /* there is none at first */
    el_set(editor, EL_EDITOR, "emacs");
    el_set(editor, EL_HIST, history, past);
    el_set(editor, EL_PROMPT, prompt_of_editor);
    el_set(editor, EL_SIGNAL, 0);
    el_set(editor, EL_GETCFN, read_character);
}

/* After every line: a second Ctrl-C, or a driver that fails, may end the program at any time. */
static void save_history(void)
{
    HistEvent event;
    char path[PATH_MAX];

    *not_saved = 0;
    mode_t mask = umask(077); /* what is typed may be private */
    if (!history_path(path, true))
        snprintf(not_saved, sizeof not_saved, "the history is not saved: there is no folder for it");
    else if (history(past, &event, H_SAVE, path) < 0)
        snprintf(not_saved, sizeof not_saved, "%s: the history could not be saved", path);
    umask(mask);
}

static enum line_result read_edited(struct text *line, const char *prompt, struct sc_error *e)
{
    int n = 0;

    shown_prompt = prompt;
    interrupt_catch();
    el_resize(editor); /* the window may have changed during the answer */
    const char *typed = el_gets(editor, &n);
    if (interrupt_requested()) {
        fputs("\n", stdout);
        return LINE_INTERRUPTED;
    }
    if (!typed || n <= 0) {
        fputs("\n", stdout); /* Ctrl-D leaves the cursor behind the prompt */
        return LINE_END;
    }
    if (strspn(typed, " \t\n") < (size_t)n) {
        HistEvent event;
        history(past, &event, H_ENTER, typed);
        save_history();
    }
    return text_append(line, typed, (size_t)n, e) ? LINE_READ : LINE_FAILED;
}

static enum line_result read_plain(struct text *line, struct sc_error *e)
{
    char *data = NULL;
    size_t size = 0;
    enum line_result result = LINE_READ;

    interrupt_leave();
    errno = 0;
    ssize_t n = getline(&data, &size, stdin);
    if (n < 0 && !feof(stdin)) {
        sc_fail(e, SC_IO, "standard input: %s", strerror(errno));
        result = LINE_FAILED;
    } else if (n < 0) {
        result = LINE_END;
    } else if (!text_append(line, data, (size_t)n, e)) {
        result = LINE_FAILED;
    }
    free(data);
    return result;
}

enum line_result line_read(struct text *line, const char *prompt, struct sc_error *e)
{
    line->size_bytes = 0;
    for (;;) {
        enum line_result result = editor && past ? read_edited(line, prompt, e) : read_plain(line, e);
        if (result == LINE_END && line->size_bytes) /* the input ends after a backslash */
            return LINE_READ;
        if (result != LINE_READ)
            return result;
        text_drop_newline(line);
        if (!line->size_bytes || line->data[line->size_bytes - 1] != '\\')
            return LINE_READ;
        line->data[line->size_bytes - 1] = '\n';
        prompt = "... ";
    }
}

void line_finish(void)
{
    if (*not_saved)
        terminal_warning("%s", not_saved);
    if (past)
        history_end(past);
    if (editor)
        el_end(editor);
    past = NULL;
    editor = NULL;
}
