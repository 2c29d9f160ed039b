/* SPDX-License-Identifier: Apache-2.0 */
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "output.h"
#include "scoria.h"
#include "terminal.h"

static const struct command *const commands[] = {
    &command_run,     &command_chat,    &command_plan,     &command_bench,
    &command_devices, &command_inspect, &command_tokenize, &command_logits,
};

static void print_help(void)
{
    output_printf("scoria runs mixture-of-experts language models on any GPU with a Vulkan driver,\n"
                  "also when the model is larger than the GPU's memory.\n\n"
                  "Usage: scoria COMMAND [FLAGS]\n\nCommands:\n");
    for (size_t i = 0; i < N_ELEMENTS(commands); i++)
        output_printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
    output_printf("\n'scoria COMMAND --help' lists a command's flags. 'scoria --version' prints the version.\n"
                  "Exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted.\n");
}

static int unknown(const char *word)
{
    const char *names[N_ELEMENTS(commands)];

    for (size_t i = 0; i < N_ELEMENTS(commands); i++)
        names[i] = commands[i]->name;
    const char *near = options_nearest(word, names, N_ELEMENTS(names));
    if (near)
        terminal_error("there is no command '%s'; did you mean '%s'?", word, near);
    else
        terminal_error("there is no command '%s'; 'scoria --help' lists those that there are", word);
    return EXIT_USAGE;
}

static int run(const struct command *command, int argc, char **argv)
{
    struct options options;
    int status = EXIT_USAGE;

    switch (options_init(&options, command, argc, argv)) {
    case OPTIONS_OK: status = command->run(&options); break;
    case OPTIONS_HELP: status = EXIT_OK; break;
    case OPTIONS_WRONG: break;
    }
    options_finish(&options);
    return status;
}

static int dispatch(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";

    if (!strcmp(word, "--version")) {
        output_printf("scoria %s\n", SC_VERSION);
        return EXIT_OK;
    }
    if (!strcmp(word, "--help") || !strcmp(word, "-h") || (!strcmp(word, "help") && argc == 2)) {
        print_help();
        return EXIT_OK;
    }
    if (!*word) {
        terminal_error("which command? 'scoria --help' lists them");
        return EXIT_USAGE;
    }
    bool help = !strcmp(word, "help");
    for (size_t i = 0; i < N_ELEMENTS(commands); i++) {
        char *words[] = {"--help"};
        if (!strcmp(argv[help ? 2 : 1], commands[i]->name))
            return help ? run(commands[i], 1, words) : run(commands[i], argc - 2, argv + 2);
    }
    return unknown(argv[help ? 2 : 1]);
}

int main(int argc, char **argv)
{
    terminal_init();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of write, and output.c takes it for a quiet end */

    /* Line editing needs to know that characters are UTF-8; numbers stay as in C. */
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1)
        setlocale(LC_CTYPE, "C.UTF-8");
    return output_finish(dispatch(argc, argv));
}
