/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the program that is tested as a user does: through pipes, or on a terminal of its own. */
#ifndef SCORIA_TESTS_PROGRAM_H
#define SCORIA_TESTS_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct outcome {
    int status;        /* exit status, or 1000 + the signal that ended it */
    char *out, *error; /* what it printed, ended by a 0; owned: outcome_finish */
    size_t n_out, n_error;
};

/* Runs path with the arguments (words[0] to the NULL) and input on its standard input. Kills it after two minutes. */
struct outcome program_run(const char *path, const char *const *words, const char *input, size_t n_input);

/* The same, sending SIGINT when it has printed anything on standard output. */
struct outcome program_interrupt(const char *path, const char *const *words);

/* The same through the shell, for redirections: "$PROGRAM" is the path. */
struct outcome program_shell(const char *path, const char *command);

void outcome_finish(struct outcome *o);

/* On a pseudo terminal of 100 x 40. */
struct terminal {
    pid_t pid;
    int fd;
    char *seen;               /* all that was printed so far, with a 0 at the end; owned */
    size_t n_seen, n_matched; /* terminal_expect looks behind what it found last */
};

struct terminal terminal_start(const char *path, const char *const *words);
bool terminal_expect(struct terminal *t, const char *text); /* waits for it, at most a minute */
void terminal_type(struct terminal *t, const char *text);
int terminal_finish(struct terminal *t); /* waits for the end, at most a minute; returns the status as outcome has it */

#endif
