/* SPDX-License-Identifier: Apache-2.0 */
/* What a command of the program is, and all there are. */
#ifndef SCORIA_CLI_COMMAND_H
#define SCORIA_CLI_COMMAND_H

#include "options.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

struct command {
    const char *name;
    const char *summary; /* for the list of commands */
    const char *usage;   /* what follows "scoria NAME" */
    const char *details; /* paragraphs of its help, each line at most 100 columns, "" or ending in a newline */
    const enum option_id *options; /* (n_options) that it takes, in the order of its help */
    size_t n_options;
    bool takes_arguments;                /* words that belong to no flag */
    int (*run)(const struct options *o); /* returns an exit status */
};

extern const struct command command_run;
extern const struct command command_chat;
extern const struct command command_bench;
extern const struct command command_plan;
extern const struct command command_devices;
extern const struct command command_inspect;
extern const struct command command_tokenize;
extern const struct command command_logits;

#define N_ELEMENTS(array) (sizeof(array) / sizeof(array)[0])

#endif
