/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the command line share: a folder with models, right and wrong ones, and how to call the program. */
#ifndef SCORIA_TESTS_CLI_MODELS_H
#define SCORIA_TESTS_CLI_MODELS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "program.h"

enum { FOLDER_SIZE = 64, PATH_SIZE = 128 };

extern char folder[FOLDER_SIZE]; /* a new one; the caches and the history of the program go there as well */
extern char model[PATH_SIZE];    /* a small random mixture of experts */
extern bool has_device;          /* there is a Vulkan device that the program can use */

int cli_setup(void **state);    /* of a cmocka group */
int cli_teardown(void **state); /* removes the folder */

/* A path in the folder; holds until the eighth call after it. */
const char *in_folder(const char *name);

/* Whole file, ended by a 0 that *n does not count; the caller frees it. NULL if there is none. */
char *file_read(const char *path, size_t *n);

struct outcome run_words(const char *input, size_t n_input, const char *const *words);

#define RUN(...) run_words(NULL, 0, (const char *const[]){__VA_ARGS__, NULL})
#define RUN_WITH(input, ...) run_words(input, strlen(input), (const char *const[]){__VA_ARGS__, NULL})

/* The status, and exactly one line of standard error that begins with "scoria: " and holds the text; finishes o. */
void check_failure(struct outcome o, int status, const char *text);

/* The status is 0; prints standard error otherwise. */
void check_success(const struct outcome *o);

#define NEEDS_DEVICE() \
    do { \
        if (!has_device) \
            skip(); \
    } while (0)

#endif
