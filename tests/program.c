/* SPDX-License-Identifier: Apache-2.0 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { MAX_WORDS = 64, MAX_SECONDS = 120, MAX_TERMINAL_SECONDS = 60 };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* argv for exec: the path, then the words. */
static void argv_of(char *argv[MAX_WORDS + 2], const char *path, const char *const *words)
{
    size_t n = 0;

    argv[n++] = (char *)path;
    while (*words && n < MAX_WORDS)
        argv[n++] = (char *)*words++;
    argv[n] = NULL;
}

static int status_of(int wait_status)
{
    return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 1000 + WTERMSIG(wait_status);
}

/* Adds what can be read. False at the end. */
static bool take(int fd, char **data, size_t *n)
{
    char *grown = realloc(*data, *n + 65536 + 1);

    if (!grown)
        abort();
    *data = grown;
    ssize_t got = read(fd, *data + *n, 65536);
    *n += got > 0 ? (size_t)got : 0;
    (*data)[*n] = 0;
    return got > 0;
}

static pid_t spawn(const char *path, const char *const *words, int pipes[3][2])
{
    posix_spawn_file_actions_t actions;
    char *argv[MAX_WORDS + 2];
    pid_t pid;

    argv_of(argv, path, words);
    posix_spawn_file_actions_init(&actions);
    for (int i = 0; i < 3; i++) {
        if (pipe(pipes[i]))
            abort();
        fcntl(pipes[i][0], F_SETFD, FD_CLOEXEC);
        fcntl(pipes[i][1], F_SETFD, FD_CLOEXEC);
        posix_spawn_file_actions_adddup2(&actions, pipes[i][i != 0], i);
    }
    if (posix_spawn(&pid, path, &actions, NULL, argv, environ))
        abort();
    posix_spawn_file_actions_destroy(&actions);
    for (int i = 0; i < 3; i++)
        close(pipes[i][i != 0]);
    return pid;
}

static struct outcome run(const char *path, const char *const *words, const char *input, size_t n_input, bool interrupt)
{
    struct outcome o = {0};
    int pipes[3][2], wait_status;
    pid_t pid = spawn(path, words, pipes);
    double end = now() + MAX_SECONDS;
    bool out_open = true, error_open = true, in_open = true;

    signal(SIGPIPE, SIG_IGN); /* it may leave its input unread */
    fcntl(pipes[0][1], F_SETFL, O_NONBLOCK);
    while (out_open || error_open) {
        struct pollfd fds[3] = {{out_open ? pipes[1][0] : -1, POLLIN, 0},
                                {error_open ? pipes[2][0] : -1, POLLIN, 0},
                                {in_open && n_input ? pipes[0][1] : -1, POLLOUT, 0}};
        if (in_open && !n_input) {
            close(pipes[0][1]);
            in_open = false;
        }
        if (poll(fds, 3, 1000) < 0 && errno != EINTR)
            abort();
        if (fds[2].revents) {
            ssize_t n = write(pipes[0][1], input, n_input);
            input += n > 0 ? n : 0;
            n_input = n >= 0 ? n_input - (size_t)n : 0;
        }
        if (fds[0].revents)
            out_open = take(pipes[1][0], &o.out, &o.n_out);
        if (fds[1].revents)
            error_open = take(pipes[2][0], &o.error, &o.n_error);
        if (interrupt && o.n_out) {
            kill(pid, SIGINT);
            interrupt = false;
        }
        if (now() > end)
            kill(pid, SIGKILL);
    }
    if (in_open)
        close(pipes[0][1]);
    close(pipes[1][0]);
    close(pipes[2][0]);
    waitpid(pid, &wait_status, 0);
    o.status = status_of(wait_status);
    return o;
}

struct outcome program_run(const char *path, const char *const *words, const char *input, size_t n_input)
{
    return run(path, words, input, n_input, false);
}

struct outcome program_interrupt(const char *path, const char *const *words)
{
    return run(path, words, NULL, 0, true);
}

struct outcome program_shell(const char *path, const char *command)
{
    const char *const words[] = {"-c", command, NULL};

    setenv("PROGRAM", path, 1);
    return run("/bin/sh", words, NULL, 0, false);
}

void outcome_finish(struct outcome *o)
{
    free(o->out);
    free(o->error);
    *o = (struct outcome){0};
}

struct terminal terminal_start(const char *path, const char *const *words)
{
    struct terminal t = {0};
    struct winsize size = {.ws_row = 40, .ws_col = 100};
    char *argv[MAX_WORDS + 2];

    argv_of(argv, path, words);
    t.pid = forkpty(&t.fd, NULL, NULL, &size);
    if (t.pid < 0)
        abort();
    if (t.pid == 0) {
        setenv("TERM", "xterm", 1);
        execv(path, argv);
        _exit(127);
    }
    return t;
}

/* Waits for more. False at the end, or at the time `end`. */
static bool more(struct terminal *t, double end)
{
    struct pollfd fd = {t->fd, POLLIN, 0};
    int left = (int)(1000 * (end - now()));

    if (left <= 0 || poll(&fd, 1, left) <= 0)
        return false;
    return take(t->fd, &t->seen, &t->n_seen); /* EIO when the other side is closed */
}

bool terminal_expect(struct terminal *t, const char *text)
{
    double end = now() + MAX_TERMINAL_SECONDS;

    do {
        const char *found = t->seen ? strstr(t->seen + t->n_matched, text) : NULL;
        if (found) {
            t->n_matched = (size_t)(found - t->seen) + strlen(text);
            return true;
        }
    } while (more(t, end));
    return false;
}

void terminal_type(struct terminal *t, const char *text)
{
    if (write(t->fd, text, strlen(text)) < 0)
        abort();
}

int terminal_finish(struct terminal *t)
{
    double end = now() + MAX_TERMINAL_SECONDS;
    int wait_status;

    while (more(t, end))
        ;
    if (now() >= end)
        kill(t->pid, SIGKILL);
    close(t->fd);
    waitpid(t->pid, &wait_status, 0);
    free(t->seen);
    t->seen = NULL;
    return status_of(wait_status);
}
