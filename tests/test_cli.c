/* SPDX-License-Identifier: Apache-2.0 */
/* The command line where no GPU is needed: flags, bad files, inspect, tokenize. */
#include "cli_models.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void help_and_version(void **state)
{
    static const char *const commands[] = {"run", "chat", "plan", "bench", "devices", "inspect", "tokenize", "logits"};
    struct outcome o = RUN("--help");

    (void)state;
    check_success(&o);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        struct outcome help = RUN(commands[i], "--help");
        assert_non_null(strstr(o.out, commands[i]));
        check_success(&help);
        assert_int_equal(help.n_error, 0);
        assert_non_null(strstr(help.out, "-h, --help"));
        for (char *line = strtok(help.out, "\n"); line; line = strtok(NULL, "\n"))
            assert_true(strlen(line) <= 120);
        outcome_finish(&help);
    }
    outcome_finish(&o);
    o = RUN("--version");
    check_success(&o);
    assert_memory_equal(o.out, "scoria ", 7);
    outcome_finish(&o);
}

static void wrong_use(void **state)
{
    static const struct {
        const char *words[8];
        const char *says;
    } cases[] = {
        {{NULL}, "which command"},
        {{"rnu"}, "did you mean 'run'"},
        {{"xyzzy"}, "no command 'xyzzy'"},
        {{"run", "--tmep", "1"}, "did you mean '--temp'"},
        {{"run", "--repeat", "1"}, "did you mean '--repeat-penalty'"},
        {{"run", "--xyzzy=1"}, "run has no flag '--xyzzy'"},
        {{"run"}, "needs -m"},
        {{"run", "-m", "x"}, "needs a prompt"},
        {{"run", "-m", "x", "-p", "a", "-f", "b"}, "one prompt"},
        {{"run", "-m"}, "-m needs a value"},
        {{"run", "-m", "x", "-p", "y", "z"}, "no use for the argument 'z'"},
        {{"run", "-m", "x", "-n", "1x"}, "from -1 to 2147483647, not '1x'"},
        {{"run", "-m", "x", "-n", "-2"}, "from -1"},
        {{"run", "-m", "x", "-n", ""}, "not ''"},
        {{"run", "-m", "x", "-n", "99999999999999999999"}, "from -1"},
        {{"run", "-m", "x", "--temp", "nan"}, "from 0 to 100"},
        {{"run", "-m", "x", "--temp=-1"}, "from 0 to 100, not '-1'"},
        {{"run", "-m", "x", "--top-p", "1.01"}, "from 0 to 1"},
        {{"run", "-m", "x", "--vram", "12Q"}, "not '12Q'"},
        {{"run", "-m", "x", "--vram", "0"}, "at least 1 byte"},
        {{"run", "-m", "x", "--vram", "-1G"}, "not '-1G'"},
        {{"run", "-m", "x", "--cpu-experts", "no"}, "one of auto|on|off|all, not 'no'"},
        {{"run", "-m", "x", "-ub", "8193"}, "from 1 to 8192, not '8193'"},
        {{"run", "-m", "x", "-b", "65536"}, "from 1 to 8192, not '65536'"},
        {{"run", "-m", "x", "--kv", "f8"}, "one of f16|f32|q8_0, not 'f8'"},
        {{"run", "-m", "x", "--json=1"}, "takes no value"},
        {{"inspect", "-m", "x", "--temp", "1"}, "inspect has no flag '--temp'"},
        {{"logits", "-m", "x", "--tokens", "1"}, "needs -o"},
        {{"logits", "-m", "x", "--tokens", "1,b", "-o", "x"}, "not '1,b'"},
        {{"logits", "-m", "x", "--tokens", "", "-o", "x"}, "list of whole numbers"},
        {{"logits", "-m", "x", "--tokens", "-1", "-o", "x"}, "list of whole numbers"},
        {{"bench", "-m", "x", "-p", "0", "-n", "0"}, "nothing to measure"},
        {{"bench", "-m", "x", "-o", "xml"}, "md|csv|json"},
        {{"tokenize", "-m", "x", "a", "b"}, "quotes"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_failure(run_words(NULL, 0, cases[i].words), 2, cases[i].says);
}

static void bad_files(void **state)
{
    static const struct {
        const char *file, *says;
    } cases[] = {
        {"missing.gguf", "missing.gguf"},
        {"truncated.gguf", "truncated.gguf"},
        {"header.gguf", "header.gguf"},
        {"empty.gguf", "empty.gguf"},
        {"text.gguf", "GGUF"},
        {"", "directory"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *path = in_folder(cases[i].file);
        check_failure(RUN("inspect", "-m", path), 1, cases[i].says);
        check_failure(RUN("run", "-m", path, "-p", "x"), 1, cases[i].says);
        check_failure(RUN("tokenize", "-m", path, "x"), 1, cases[i].says);
        check_failure(RUN("bench", "-m", path), 1, cases[i].says);
        check_failure(RUN_WITH("hi\n", "chat", "-m", path), 1, cases[i].says);
    }
    check_failure(RUN("run", "-m", in_folder("mamba.gguf"), "-p", "x"), 1, "mamba");
    check_failure(RUN("run", "-m", in_folder("type.gguf"), "-p", "x"), 1, "iq1_m");
    check_failure(RUN("run", "-m", in_folder("type.gguf"), "-p", "x"), 1, "blk.1.ffn_gate_exps.weight");
    check_failure(RUN("tokenize", "-m", in_folder("mute.gguf"), "x"), 1, "mute.gguf");
    check_failure(RUN("run", "-m", model, "-p", "caf\xe9"), 1, "the prompt is not valid UTF-8: byte 4");
    check_failure(RUN("run", "-m", model, "-f", in_folder("missing.txt")), 1, "missing.txt");
    check_failure(RUN_WITH("\xff", "run", "-m", model, "-f", "-"), 1, "not valid UTF-8");
}

static void inspect(void **state)
{
    struct outcome o = RUN("inspect", "-m", model);

    (void)state;
    check_success(&o);
    assert_non_null(strstr(o.out, "general.architecture = \"llama\""));
    assert_non_null(strstr(o.out, "320 x string: [\"<unk>\", \"<s>\""));
    assert_non_null(strstr(o.out, "blk.1.ffn_down_exps.weight"));
    assert_non_null(strstr(o.out, "4 x 256 x 512"));
    assert_non_null(strstr(o.out, "bits per weight"));
    assert_null(strchr(o.out, '\033'));
    outcome_finish(&o);

    o = RUN("inspect", "-m", model, "--metadata");
    check_success(&o);
    assert_null(strstr(o.out, "blk.1.ffn_down_exps.weight"));
    outcome_finish(&o);
    o = RUN("inspect", "-m", model, "--tensors");
    check_success(&o);
    assert_null(strstr(o.out, "general.architecture"));
    outcome_finish(&o);

    /* what the program cannot run can still be looked at */
    o = RUN("inspect", "-m", in_folder("type.gguf"));
    check_success(&o);
    assert_non_null(strstr(o.out, "iq1_m"));
    outcome_finish(&o);
}

static void inspect_json(void **state)
{
    struct outcome o = RUN("inspect", "-m", model, "--json");
    json_t *json = json_loadb(o.out, o.n_out, 0, NULL);
    const char *architecture, *type;
    json_int_t n_tokens, d2;

    (void)state;
    check_success(&o);
    assert_non_null(json);
    assert_int_equal(json_unpack(json, "{s:{s:s, s:{s:I}}, s:[{s:s, s:[I, I!]}]}", "metadata", "general.architecture",
                                 &architecture, "tokenizer.ggml.tokens", "n_elements", &n_tokens, "tensors", "type",
                                 &type, "shape", &n_tokens, &d2),
                     0);
    assert_string_equal(architecture, "llama");
    assert_int_equal(n_tokens, 320);
    assert_int_equal(d2, 256);
    json_decref(json);
    outcome_finish(&o);
}

static void tokenize(void **state)
{
    static const char text[] = "Two  words, na\xc3\xafve \xf0\x9f\x98\x80\n\ttab and\nlines ";
    struct outcome o = RUN("tokenize", "-m", model, "--ids", "ab"), lines = RUN("tokenize", "-m", model, "ab"), back;

    (void)state;
    check_success(&o);
    assert_memory_equal(o.out, "1 ", 2);
    assert_ptr_equal(strchr(o.out, '\n'), o.out + o.n_out - 1);
    check_success(&lines);
    assert_non_null(strstr(lines.out, "1  <s>\n"));
    outcome_finish(&o);
    outcome_finish(&lines);

    o = RUN("tokenize", "-m", model, "--ids", "--no-bos", "--", "-ab");
    check_success(&o);
    assert_true(strncmp(o.out, "1 ", 2) != 0);
    outcome_finish(&o);

    /* through standard input and back: every byte */
    o = RUN_WITH(text, "tokenize", "-m", model, "--ids");
    check_success(&o);
    back = RUN_WITH(o.out, "tokenize", "-m", model, "--decode");
    check_success(&back);
    assert_non_null(back.out);
    if (strcmp(back.out, text))
        fail_msg("'%s' came back as '%s'", text, back.out);
    outcome_finish(&back);
    outcome_finish(&o);

    back = RUN("tokenize", "-m", model, "--decode", "1,2", "[70]", "--json");
    json_t *json = json_loadb(back.out, back.n_out, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(json, "ids")), 3);
    json_decref(json);
    outcome_finish(&back);
    check_failure(RUN("tokenize", "-m", model, "--decode", "320"), 1, "from 0 to 319");
    check_failure(RUN("tokenize", "-m", model, "--decode", "one"), 1, "from 0 to 319");

    o = RUN("tokenize", "-m", model, "--ids", "a\xff");
    check_success(&o);
    assert_non_null(strstr(o.error, "not valid UTF-8"));
    outcome_finish(&o);
    o = RUN("tokenize", "-m", model, "--json", "a b");
    json = json_loadb(o.out, o.n_out, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(json, "ids")),
                     json_integer_value(json_object_get(json, "n_tokens")));
    json_decref(json);
    outcome_finish(&o);
}

static void full_output(void **state)
{
    char command[2 * PATH_SIZE];

    (void)state;
    snprintf(command, sizeof command, "\"$PROGRAM\" inspect -m %s > /dev/full", model);
    check_failure(program_shell(SCORIA_PROGRAM, command), 1, "cannot write to standard output");
    snprintf(command, sizeof command, "\"$PROGRAM\" inspect -m %s >&-", model);
    check_failure(program_shell(SCORIA_PROGRAM, command), 1, "cannot write to standard output");

    /* a reader that goes away is no error */
    snprintf(command, sizeof command, "{ \"$PROGRAM\" inspect -m %s; echo $? >&2; } | head -c 1 >/dev/null", model);
    struct outcome o = program_shell(SCORIA_PROGRAM, command);
    assert_string_equal(o.error, "0\n");
    outcome_finish(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(help_and_version), cmocka_unit_test(wrong_use),    cmocka_unit_test(bad_files),
        cmocka_unit_test(inspect),          cmocka_unit_test(inspect_json), cmocka_unit_test(tokenize),
        cmocka_unit_test(full_output),
    };
    return cmocka_run_group_tests(tests, cli_setup, cli_teardown);
}
