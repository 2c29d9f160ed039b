/* SPDX-License-Identifier: Apache-2.0 */
/* The command line with a model that is larger than RAM may be, and with a file that is truncated under it. */
#include "cli_models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model_builder.h"

static const struct model_spec spec = {
    .type = "q8_0", .d = 128, .ff = 256, .layers = 4, .experts = 8, .used = 2, .n_ctx = 4096, .seed = 3};

/* The number of MiB behind `before` in the error of a run that fails. */
static void size_of(struct outcome o, const char *before, char out[32])
{
    const char *number = o.error ? strstr(o.error, before) : NULL;
    unsigned size;

    assert_non_null(number);
    assert_int_equal(sscanf(number + strlen(before), "%u MiB", &size), 1);
    snprintf(out, 32, "%uMiB", size);
    check_failure(o, 1, before);
}

static void ways(void **state)
{
    enum { NEVER, SOME, EITHER }; /* EITHER: what the device held at the start and gave up later */
    static const struct {
        const char *flags[2];
        int reads; /* while it runs, and not before */
    } cases[] = {
        {{NULL}, NEVER},
        {{"--mlock"}, NEVER},
        {{"--ram", "RAM"}, SOME},
        {{"--ram", "1T"}, EITHER},
        {{"--no-mmap", "--mlock"}, EITHER},
    };
    char *want = NULL, vram[32], ram[32];
    const char *path = in_folder("disk.gguf");

    (void)state;
    NEEDS_DEVICE();
    assert_true(model_write(path, &spec));
    /* with the context of the runs, so that slots are too few whichever engine was measured to be the faster one */
    size_of(RUN("run", "-m", path, "-p", "Hello", "-c", "64", "--vram", "4K"), "at least ", vram);
    size_of(RUN("run", "-m", path, "-p", "Hello", "-c", "64", "--vram", vram, "--ram", "4K"), "at least ", ram);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *words[20] = {"run", "-m",           path,     "-p", "Hello", "-n",
                                 "16",  "--temp",       "0",      "-c", "64",    "--cpu-experts",
                                 "on",  "--ignore-eos", "--vram", vram};
        size_t n = 16;
        for (size_t k = 0; k < 2 && cases[i].flags[k]; k++)
            words[n++] = strcmp(cases[i].flags[k], "RAM") == 0 ? ram : cases[i].flags[k];
        struct outcome o = run_words(NULL, 0, words);
        check_success(&o);
        if (cases[i].reads != EITHER && (cases[i].reads == SOME) != (strstr(o.error, "disk: ") != NULL))
            fail_msg("case %zu: %s", i, o.error);
        if (!want)
            want = strdup(o.out);
        assert_string_equal(o.out, want);
        outcome_finish(&o);
    }
    free(want);
}

/* Truncated when the first text has come. */
static void truncated(void **state)
{
    static const char *const flags[] = {"", "--ram 2M"};
    char command[1000], vram[32];
    const char *path = in_folder("truncated.gguf"), *text = in_folder("text");

    (void)state;
    NEEDS_DEVICE();
    for (int i = 0; i < 2; i++) {
        assert_true(model_write(path, &spec));
        size_of(RUN("run", "-m", path, "-p", "Hello", "--vram", "4K"), "at least ", vram);
        remove(text);
        snprintf(command, sizeof command,
                 "\"$PROGRAM\" run -m %s -p Hello -n 4000 -c 4096 --ignore-eos --cpu-experts on --vram %s %s >%s & "
                 "while [ ! -s %s ] && kill -0 $!; do sleep 0.01; done; truncate -s 20K %s; wait $!",
                 path, vram, flags[i], text, text, path);
        check_failure(program_shell(SCORIA_PROGRAM, command), 1, "truncated");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ways),
        cmocka_unit_test(truncated),
    };
    return cmocka_run_group_tests(tests, cli_setup, cli_teardown);
}
