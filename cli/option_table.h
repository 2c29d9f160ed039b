/* SPDX-License-Identifier: Apache-2.0 */
/* A row of the table of flags: only options.c reads it. */
#ifndef SCORIA_CLI_OPTION_TABLE_H
#define SCORIA_CLI_OPTION_TABLE_H

#include "options.h"

enum option_kind {
    OPTION_IS_SWITCH,   /* bool */
    OPTION_IS_TEXT,     /* const char * */
    OPTION_IS_INTEGER,  /* int64_t, from min to max */
    OPTION_IS_INTEGERS, /* struct integers, each from min to max */
    OPTION_IS_REAL,     /* double, from min to max */
    OPTION_IS_SIZE,     /* uint64_t */
    OPTION_IS_CHOICE,   /* int: which of the names in `value`, in the order of its enum */
};

struct option {
    enum option_id id;
    enum option_kind kind;
    const char *flags; /* all ways to write it, separated by spaces, the best known first */
    const char *value; /* how the help names the value, NULL for a switch */
    size_t field;      /* where in struct options the value goes */
    double min, max;
    bool required; /* by every command that takes it */
    const char *help;
};

const struct option *option_row(enum option_id id);

extern const struct options option_defaults;

#endif
