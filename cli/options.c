/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <float.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "option_table.h"
#include "output.h"
#include "terminal.h"

enum { MAX_FLAGS = 4, FLAG_SIZE = 32, HELP_COLUMN = 29 };

/* The row's flags, split at spaces. */
static size_t split_flags(const struct option *option, char flags[MAX_FLAGS][FLAG_SIZE])
{
    size_t n = 0;

    for (const char *at = option->flags; *at && n < MAX_FLAGS; n++) {
        size_t length = strcspn(at, " ");
        snprintf(flags[n], FLAG_SIZE, "%.*s", (int)length, at);
        at += length + (at[length] == ' ');
    }
    return n;
}

/* Of the flags of this command, the row that is written so; NULL if there is none. */
static const struct option *find(const struct command *command, const char *flag, size_t length)
{
    char flags[MAX_FLAGS][FLAG_SIZE];

    for (size_t i = 0; i <= command->n_options; i++) {
        const struct option *option = option_row(i < command->n_options ? command->options[i] : OPTION_HELP);
        size_t n = split_flags(option, flags);
        for (size_t f = 0; f < n; f++)
            if (strlen(flags[f]) == length && !memcmp(flags[f], flag, length))
                return option;
    }
    return NULL;
}

static size_t minimum(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Letters to change, add, drop, or swap with their neighbour, to come from one word to the other. */
static size_t distance(const char *a, const char *b)
{
    size_t rows[3][FLAG_SIZE + 1], *before = rows[0], *last = rows[1], *row = rows[2];
    size_t n_a = strlen(a), n_b = strlen(b);

    if (n_a > FLAG_SIZE || n_b > FLAG_SIZE)
        return SIZE_MAX;
    for (size_t j = 0; j <= n_b; j++)
        before[j] = last[j] = j;
    for (size_t i = 1; i <= n_a; i++) {
        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            row[j] = minimum(last[j - 1] + (a[i - 1] != b[j - 1]), minimum(last[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = minimum(row[j], before[j - 2] + 1);
        }
        size_t *spare = before;
        before = last, last = row, row = spare;
    }
    return last[n_b];
}

const char *options_nearest(const char *word, const char *const *words, size_t n_words)
{
    const char *best = NULL;
    size_t least = strlen(word) / 3 + 2; /* further than this it is another word */

    for (size_t i = 0; i < n_words; i++) {
        size_t d = distance(word, words[i]);
        /* what was only cut short is near as well: --repeat for --repeat-penalty */
        if (strlen(word) > 3 && !strncmp(word, words[i], strlen(word)))
            d = minimum(d, 1);
        if (d < least && d < strlen(words[i])) {
            least = d;
            best = words[i];
        }
    }
    return best;
}

static enum option_result unknown(const struct command *command, const char *flag)
{
    static char flags[MAX_FLAGS * (N_OPTIONS + 1)][FLAG_SIZE];
    const char *words[MAX_FLAGS * (N_OPTIONS + 1)];
    char wanted[FLAG_SIZE * 2];
    size_t n = 0;

    snprintf(wanted, sizeof wanted, "%.*s", (int)minimum(strcspn(flag, "="), sizeof wanted - 1), flag);
    for (size_t i = 0; i <= command->n_options; i++)
        n += split_flags(option_row(i < command->n_options ? command->options[i] : OPTION_HELP), flags + n);
    for (size_t i = 0; i < n; i++)
        words[i] = flags[i];

    const char *near = options_nearest(wanted, words, n);
    if (near)
        terminal_error("%s has no flag '%s'; did you mean '%s'?", command->name, wanted, near);
    else
        terminal_error("%s has no flag '%s'; 'scoria %s --help' lists those that it has", command->name, wanted,
                       command->name);
    return OPTIONS_WRONG;
}

static enum option_result wrong_value(const struct option *option, const char *flag, const char *text)
{
    char range[160];

    switch (option->kind) {
    case OPTION_IS_INTEGER:
    case OPTION_IS_INTEGERS:
        snprintf(range, sizeof range, "%s from %.0f to %.0f",
                 option->kind == OPTION_IS_INTEGER ? "a whole number" : "a list of whole numbers", option->min,
                 option->max);
        break;
    case OPTION_IS_REAL: snprintf(range, sizeof range, "a number from %g to %g", option->min, option->max); break;
    case OPTION_IS_SIZE: snprintf(range, sizeof range, "a size such as 800M, 12G or 1.5GiB, at least 1 byte"); break;
    default: snprintf(range, sizeof range, "one of %s", option->value);
    }
    terminal_error("%s takes %s, not '%s'", flag, range, text);
    return OPTIONS_WRONG;
}

/* The index of `text` among names such as "f16|f32", -1 if it is none of them. */
static int choice(const char *names, const char *text)
{
    for (int i = 0; *names; i++) {
        size_t length = strcspn(names, "|");
        if (strlen(text) == length && !memcmp(names, text, length))
            return i;
        names += length + (names[length] == '|');
    }
    return -1;
}

static bool set(struct options *o, const struct option *option, const char *text)
{
    void *field = (char *)o + option->field;
    int index;

    switch (option->kind) {
    case OPTION_IS_SWITCH: *(bool *)field = true; return true;
    case OPTION_IS_TEXT: *(const char **)field = text; return true;
    case OPTION_IS_INTEGER: return number_integer(text, (int64_t)option->min, (int64_t)option->max, field);
    case OPTION_IS_INTEGERS: {
        struct integers *list = field;
        integers_finish(list); /* the last one counts, as for every flag */
        return number_integers(text, strlen(text), (int64_t)option->min, (int64_t)option->max, list) && list->n > 0;
    }
    case OPTION_IS_REAL: return number_real(text, option->min, option->max, field);
    case OPTION_IS_SIZE: return number_size(text, field);
    case OPTION_IS_CHOICE:
        index = choice(option->value, text);
        if (index >= 0)
            *(int *)field = index;
        return index >= 0;
    }
    return false;
}

static void print_option(const struct option *option)
{
    char left[128];
    size_t n = 0;

    for (const char *c = option->flags; *c && n + 2 < sizeof left; c++) {
        if (*c == ' ')
            left[n++] = ',';
        left[n++] = *c;
    }
    snprintf(left + n, sizeof left - n, "%s%s", option->value ? " " : "", option->value ? option->value : "");
    output_printf("  %-*s", HELP_COLUMN - 2, left);
    if (strlen(left) > HELP_COLUMN - 3)
        output_printf("\n%*s", HELP_COLUMN, "");
    for (const char *line = option->help;; line++) {
        size_t length = strcspn(line, "\n");
        output_printf("%.*s\n", (int)length, line);
        line += length;
        if (!*line)
            break;
        output_printf("%*s", HELP_COLUMN, "");
    }
}

static enum option_result print_help(const struct command *command)
{
    output_printf("scoria %s: %s\n\nUsage: scoria %s %s\n\n%s", command->name, command->summary, command->name,
                  command->usage, command->details);
    output_printf("%sFlags:\n", *command->details ? "\n" : "");
    for (size_t i = 0; i < command->n_options; i++)
        print_option(option_row(command->options[i]));
    print_option(option_row(OPTION_HELP));
    return OPTIONS_HELP;
}

static enum option_result argument(struct options *o, const struct command *command, const char *word)
{
    if (!command->takes_arguments) {
        terminal_error("%s has no use for the argument '%s'; 'scoria %s --help' shows how to call it", command->name,
                       word, command->name);
        return OPTIONS_WRONG;
    }
    o->arguments[o->n_arguments++] = word;
    return OPTIONS_OK;
}

/* One flag with its value, which may stand in the same word after '='. Sets *used to the words that it took. */
static enum option_result flag(struct options *o, const struct command *command, char **words, int n_words, int *used)
{
    const char *equals = !strncmp(words[0], "--", 2) ? strchr(words[0], '=') : NULL;
    size_t length = equals ? (size_t)(equals - words[0]) : strlen(words[0]);
    const struct option *option = find(command, words[0], length);
    const char *value = NULL;
    char name[FLAG_SIZE];

    *used = 1;
    if (!option)
        return unknown(command, words[0]);
    if (option->id == OPTION_HELP)
        return print_help(command);
    snprintf(name, sizeof name, "%.*s", (int)length, words[0]);
    if (option->kind == OPTION_IS_SWITCH) {
        if (equals) {
            terminal_error("%s takes no value, '%s' gives it one", name, words[0]);
            return OPTIONS_WRONG;
        }
    } else if (equals) {
        value = equals + 1;
    } else if (n_words > 1) {
        value = words[1];
        *used = 2;
    } else {
        terminal_error("%s needs a value: %s", name, option->value);
        return OPTIONS_WRONG;
    }
    if (!set(o, option, value))
        return wrong_value(option, name, value);
    o->given[option->id] = true;
    return OPTIONS_OK;
}

enum option_result options_init(struct options *o, const struct command *command, int argc, char **argv)
{
    bool only_arguments = false;

    *o = option_defaults;
    o->arguments = calloc((size_t)argc + 1, sizeof *o->arguments);
    if (!o->arguments) {
        terminal_error("out of memory while reading the command line");
        return OPTIONS_WRONG;
    }
    for (int i = 0, used; i < argc; i += used) {
        enum option_result result;
        used = 1;
        if (!only_arguments && !strcmp(argv[i], "--")) {
            only_arguments = true;
            continue;
        }
        if (!only_arguments && argv[i][0] == '-' && argv[i][1])
            result = flag(o, command, argv + i, argc - i, &used);
        else
            result = argument(o, command, argv[i]);
        if (result != OPTIONS_OK)
            return result;
    }
    for (size_t i = 0; i < command->n_options; i++) {
        const struct option *option = option_row(command->options[i]);
        if (option->required && !o->given[option->id]) {
            terminal_error("%s needs %.*s %s", command->name, (int)strcspn(option->flags, " "), option->flags,
                           option->value);
            return OPTIONS_WRONG;
        }
    }
    return OPTIONS_OK;
}

void options_finish(struct options *o)
{
    integers_finish(&o->bench_prompt);
    integers_finish(&o->bench_depth);
    integers_finish(&o->bench_generate);
    integers_finish(&o->tokens);
    free(o->arguments);
    o->arguments = NULL;
}
