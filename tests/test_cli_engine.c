/* SPDX-License-Identifier: Apache-2.0 */
/* The command line with a model running: run, chat through a pipe, bench, logits, devices. */
#include "cli_models.h"

#include <glob.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gguf_builder.h"

/* Standard output of a run that succeeds; the caller frees it. */
static char *text_of(const char *const *words)
{
    struct outcome o = run_words(NULL, 0, words);

    check_success(&o);
    char *text = o.out;
    o.out = NULL;
    outcome_finish(&o);
    return text;
}

#define TEXT(...) text_of((const char *const[]){__VA_ARGS__, NULL})

static void run_prints(void **state)
{
    struct outcome o;

    (void)state;
    NEEDS_DEVICE();
    o = RUN("run", "-m", model, "-p", "Hello there", "-n", "8", "--ignore-eos");
    check_success(&o);
    assert_null(strstr(o.out, "Hello there")); /* into a pipe goes the new text alone */
    assert_non_null(strstr(o.error, "prefill: "));
    assert_non_null(strstr(o.error, "decode: 7 tokens"));
    assert_non_null(strstr(o.error, " GB/s"));
    assert_null(strchr(o.error, '\r')); /* no progress where nobody watches */
    assert_null(strchr(o.error, '\033'));
    outcome_finish(&o);

    o = RUN("run", "-m", model, "-p", "Hello there", "-n", "2", "--display-prompt");
    check_success(&o);
    assert_memory_equal(o.out, "Hello there", 11);
    outcome_finish(&o);
    o = RUN_WITH("Hello there\n", "run", "-m", model, "-f", "-", "-n", "1", "--display-prompt", "--ignore-eos");
    check_success(&o);
    assert_memory_equal(o.out, "Hello there", 11);
    assert_int_not_equal(o.out[11], '\n');
    outcome_finish(&o);
    o = RUN("run", "-m", model, "-p", "x", "-n", "0");
    check_success(&o);
    assert_string_equal(o.out, "\n");
    outcome_finish(&o);
}

static void run_json(void **state)
{
    struct outcome o;
    const char *text, *stop;
    json_int_t seed;
    double speed;

    (void)state;
    NEEDS_DEVICE();
    o = RUN("run", "-m", model, "-p", "Hello", "-n", "8", "-s", "7", "--ignore-eos", "--json");
    check_success(&o);
    json_t *json = json_loadb(o.out, o.n_out, JSON_ALLOW_NUL, NULL), *ids;
    assert_non_null(json);
    assert_int_equal(json_unpack(json, "{s:s%, s:o, s:s, s:I, s:{s:F}, s:{}, s:{}}", "text", &text, &(size_t){0},
                                 "tokens", &ids, "stop", &stop, "seed", &seed, "timings", "decode_tokens_per_second",
                                 &speed, "stats", "placement"),
                     0);
    assert_int_equal(json_array_size(ids), 8);
    assert_string_equal(stop, "max_tokens");
    assert_int_equal(seed, 7);
    assert_true(speed > 0);
    json_decref(json);
    outcome_finish(&o);
}

static void seeds(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    char *a = TEXT("run", "-m", model, "-p", "Hello", "-n", "16", "--ignore-eos", "-s", "1", "--temp", "1.5");
    char *b = TEXT("run", "-m", model, "-p", "Hello", "-n", "16", "--ignore-eos", "-s", "1", "--temp", "1.5");
    char *c = TEXT("run", "-m", model, "-p", "Hello", "-n", "16", "--ignore-eos", "-s", "2", "--temp", "1.5");
    char *d = TEXT("run", "-m", model, "-p", "Hello", "-n", "16", "--ignore-eos", "-s", "1", "--temp", "0");
    char *e = TEXT("run", "-m", model, "-p", "Hello", "-n", "16", "--ignore-eos", "-s", "2", "--temp", "0");

    assert_string_equal(a, b);
    assert_string_not_equal(a, c);
    assert_string_equal(d, e);
    free(a), free(b), free(c), free(d), free(e);
}

static void contexts(void **state)
{
    char prompt[801];
    struct outcome o;

    (void)state;
    NEEDS_DEVICE();
    memset(prompt, 'a', 800);
    prompt[800] = 0;
    check_failure(RUN("run", "-m", model, "-p", prompt, "-c", "100"), 1, "802 tokens but the context holds 100");
    check_failure(RUN("run", "-m", model, "-p", prompt), 1, "802 tokens but the context holds 512");
    check_failure(RUN("run", "-m", model, "-p", "x", "-c", "100000"), 1, "512");
    check_failure(RUN("logits", "-m", model, "--tokens", "1,2,3", "-c", "2", "-o", in_folder("l")), 1, "3 tokens");

    o = RUN("run", "-m", model, "-p", "aaaaaaaaaa", "-c", "20", "--ignore-eos");
    check_success(&o);
    assert_non_null(strstr(o.error, "the context of 20 tokens is full"));
    outcome_finish(&o);
}

/* The smallest --vram that the model runs with, as the program tells it. */
static void least_budget(char out[32])
{
    struct outcome o = RUN("run", "-m", model, "-p", "Hello", "-n", "8", "--temp", "0", "--ignore-eos", "--vram", "4K");
    const char *number = o.error ? strstr(o.error, "at least ") : NULL;
    unsigned least;

    assert_non_null(number);
    assert_int_equal(sscanf(number, "at least %u MiB", &least), 1);
    snprintf(out, 32, "%uMiB", least);
    check_failure(o, 1, "budget");
}

static void budgets(void **state)
{
    char size[32];

    (void)state;
    NEEDS_DEVICE();
    least_budget(size);
    char *small = TEXT("run", "-m", model, "-p", "Hello", "-n", "8", "--temp", "0", "--ignore-eos", "--vram", size);
    char *large = TEXT("run", "-m", model, "-p", "Hello", "-n", "8", "--temp", "0", "--ignore-eos");
    assert_string_equal(small, large);
    free(small), free(large);
}

/* With --cpu-experts, a thread count or without: the text, and how many of the misses the CPU computed. */
static json_int_t host_runs(const char *const *words, char **text)
{
    struct outcome o = run_words(NULL, 0, words);
    json_int_t n_runs;
    const char *t;
    double seconds;

    check_success(&o);
    json_t *json = json_loadb(o.out, o.n_out, JSON_ALLOW_NUL, NULL);
    assert_int_equal(json_unpack(json, "{s:s%, s:{s:I, s:F}}", "text", &t, &(size_t){0}, "stats", "expert_host_runs",
                                 &n_runs, "host_seconds", &seconds),
                     0);
    assert_int_equal(n_runs > 0, seconds > 0);
    *text = strdup(t);
    json_decref(json);
    outcome_finish(&o);
    return n_runs;
}

#define HOST_RUNS(text, ...) host_runs((const char *const[]){GENERATE, __VA_ARGS__, "--json", NULL}, text)
#define GENERATE "run", "-m", model, "-p", "Hello", "-n", "16", "--temp", "0", "--ignore-eos", "--vram", size

static void cpu_experts(void **state)
{
    char size[32], *on, *one_thread, *off;

    (void)state;
    NEEDS_DEVICE();
    least_budget(size);
    assert_true(HOST_RUNS(&on, "--cpu-experts", "on") > 0);
    assert_true(HOST_RUNS(&one_thread, "--cpu-experts", "on", "-t", "1") > 0);
    assert_int_equal(HOST_RUNS(&off, "--cpu-experts", "off"), 0);
    assert_string_equal(on, off);
    assert_string_equal(one_thread, off);
    free(on), free(one_thread), free(off);

    struct outcome o = RUN(GENERATE, "--cpu-experts", "on");
    check_success(&o);
    assert_non_null(strstr(o.error, " on the CPU in "));
    assert_non_null(strstr(o.error, " lost waiting for uploads"));
    outcome_finish(&o);
    o = RUN(GENERATE, "--cpu-experts", "off");
    check_success(&o);
    assert_null(strstr(o.error, " on the CPU in "));
    outcome_finish(&o);
}

static void devices(void **state)
{
    struct outcome o;

    (void)state;
    check_failure(RUN("run", "-m", model, "-p", "x", "--device", "no such device"), 1,
                  has_device ? "no such device" : "Vulkan");
    NEEDS_DEVICE();
    o = RUN("devices", "--json");
    json_t *json = json_loadb(o.out, o.n_out, 0, NULL);
    const char *name;
    json_t *kernels, *kernel;
    int usable;
    size_t i, n_used = 0;
    assert_int_equal(
        json_unpack(json_array_get(json, 0), "{s:s, s:o, s:b}", "name", &name, "kernels", &kernels, "usable", &usable),
        0);
    json_array_foreach(kernels, i, kernel)
    {
        if (strcmp(json_string_value(json_object_get(kernel, "state")), "used") == 0) {
            n_used++;
            assert_string_equal(json_string_value(json_object_get(kernel, "self_test")), "passed");
        } else {
            assert_non_null(json_string_value(json_object_get(kernel, "why")));
        }
    }
    assert_int_equal(usable, n_used >= 3);
    check_failure(RUN("run", "-m", model, "-p", "x", "--device", "no such device"), 1,
                  name); /* lists those that exist */
    check_failure(RUN("run", "-m", model, "-p", "x", "--device", "99"), 1, name);
    check_failure(RUN("devices", "--device", "no such device"), 1, name);
    struct outcome one = RUN("devices", "--device", name, "--json");
    check_success(&one);
    json_t *only = json_loadb(one.out, one.n_out, 0, NULL);
    assert_int_equal(json_array_size(only), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(only, 0), "name")), name);
    json_decref(only);
    outcome_finish(&one);
    struct outcome table = RUN("devices");
    check_success(&table);
    assert_non_null(strstr(table.out, name));
    assert_non_null(strstr(table.out, "features"));
    assert_non_null(strstr(table.out, "passed"));
    assert_null(strstr(table.out, "spare"));
    outcome_finish(&table);
    json_decref(json);
    outcome_finish(&o);
}

/* Without the CPU's kernels: which engine computes would be up to what was measured, and the bits with it. */
#define LOGITS "logits", "-m", model, "--tokens", "1,5,9,300", "--kv", "f32", "--cpu-experts", "off"

static void logits(void **state)
{
    size_t n, n_again;
    struct outcome o;
    glob_t found;

    (void)state;
    NEEDS_DEVICE();
    const char *path = in_folder("logits.f32");
    o = RUN(LOGITS, "-o", path);
    check_success(&o);
    outcome_finish(&o);
    char *first = file_read(path, &n);
    assert_non_null(first);
    assert_int_equal(n, 4 * 320 * sizeof(float));

    o = RUN(LOGITS, "-o", "-", "--decode");
    check_success(&o);
    assert_int_equal(o.n_out, n);
    for (size_t i = 0; i < n / sizeof(float); i++) {
        float a, b;
        memcpy(&a, first + i * sizeof a, sizeof a);
        memcpy(&b, o.out + i * sizeof b, sizeof b);
        assert_true(fabsf(a - b) <= 1e-3f * (1 + fabsf(a)));
    }
    outcome_finish(&o);

    /* what fails leaves the file that was there, and nothing beside it */
    check_failure(RUN("logits", "-m", model, "--tokens", "1,320", "-o", path), 1,
                  "token 320 is not in the vocabulary of 320");
    check_failure(RUN("logits", "-m", in_folder("truncated.gguf"), "--tokens", "1", "-o", path), 1, "truncated.gguf");
    check_failure(RUN("logits", "-m", model, "--tokens", "1", "-o", in_folder("none/x")), 1, "none/x");
    check_failure(RUN("logits", "-m", model, "--tokens", "1", "-o", folder), 1, "directory");
    check_failure(RUN("logits", "-m", model, "--tokens", "1", "-o", "/dev/full"), 1, "/dev/full");
    char *second = file_read(path, &n_again);
    assert_int_equal(n, n_again);
    assert_memory_equal(first, second, n);
    free(second);

    /* a link stays one, and the file behind it is new */
    const char *behind = in_folder("behind"), *links[] = {in_folder("link"), in_folder("link2"), in_folder("link3")};
    assert_true(file_write(in_folder("behind"), "old", 3));
    assert_int_equal(symlink("behind", links[0]), 0);
    assert_int_equal(symlink(links[0], links[1]), 0);
    assert_int_equal(symlink("new", links[2]), 0);
    for (size_t i = 1; i < 3; i++) {
        struct stat status;
        o = RUN(LOGITS, "-o", links[i]);
        check_success(&o);
        outcome_finish(&o);
        assert_int_equal(lstat(links[i], &status), 0);
        assert_true(S_ISLNK(status.st_mode));
        second = file_read(i == 1 ? behind : in_folder("new"), &n_again);
        assert_int_equal(n, n_again);
        assert_memory_equal(first, second, n);
        free(second);
    }
    assert_int_equal(glob(in_folder("behind?*"), 0, NULL, &found), GLOB_NOMATCH);
    assert_int_equal(glob(in_folder("logits.f32?*"), 0, NULL, &found), GLOB_NOMATCH);
    free(first);
}

static void bench(void **state)
{
    struct outcome o;

    (void)state;
    NEEDS_DEVICE();
    o = RUN("bench", "-m", model, "-p", "8,16", "-n", "4", "-r", "2");
    check_success(&o);
    assert_non_null(strstr(o.out, "| model "));
    assert_non_null(strstr(o.out, " pp8 |"));
    assert_non_null(strstr(o.out, " pp16 |"));
    assert_non_null(strstr(o.out, " tg4 |"));
    outcome_finish(&o);
    o = RUN("bench", "-m", model, "-p", "8", "-n", "4", "-r", "1", "-o", "csv");
    check_success(&o);
    assert_non_null(strstr(o.out, "model,size,params,device,test,t/s,GB/s,VRAM,RAM,disk,% bound\n\"random model\","));
    outcome_finish(&o);
    o = RUN("bench", "-m", model, "-p", "8", "-n", "4", "-r", "2", "--json");
    check_success(&o);
    json_t *json = json_loadb(o.out, o.n_out, 0, NULL);
    assert_int_equal(json_array_size(json), 2);
    assert_int_equal(json_array_size(json_object_get(json_array_get(json, 1), "samples_ts")), 2);
    assert_true(json_number_value(json_object_get(json_array_get(json, 1), "avg_ts")) > 0);
    assert_true(json_number_value(json_object_get(json_array_get(json, 1), "bound_percent")) > 0);
    assert_true(json_number_value(json_object_get(json_array_get(json, 1), "vram_gb_per_s")) > 0);
    assert_true(json_is_null(json_object_get(json_array_get(json, 0), "bound_percent")));
    json_decref(json);
    outcome_finish(&o);

    o = RUN("bench", "-m", model, "--curve", "-c", "13", "-r", "1", "--no-warmup", "--svg", in_folder("curve.svg"));
    check_success(&o);
    assert_non_null(strstr(o.out, " pp12 |"));
    assert_null(strstr(o.out, " pp16 |"));
    assert_null(strstr(o.out, " tg"));
    outcome_finish(&o);
    assert_int_equal(access(in_folder("curve.svg"), R_OK), 0);

    /* what was not asked for fits by itself */
    o = RUN("bench", "-m", model, "-r", "1", "-c", "24", "--no-warmup");
    check_success(&o);
    assert_non_null(strstr(o.out, " pp24 |"));
    assert_non_null(strstr(o.out, " tg24 |"));
    outcome_finish(&o);
    o = RUN("bench", "-m", in_folder("short.gguf"), "-r", "1", "-n", "0", "--no-warmup");
    check_success(&o);
    assert_non_null(strstr(o.out, " pp40 |"));
    outcome_finish(&o);
    o = RUN("bench", "-m", in_folder("short.gguf"), "-r", "1", "-d", "0,30", "--no-warmup");
    check_success(&o);
    assert_non_null(strstr(o.out, " pp10 |"));
    assert_non_null(strstr(o.out, " tg10 @ d30 |"));
    outcome_finish(&o);
    check_failure(RUN("bench", "-m", in_folder("short.gguf"), "-d", "40"), 1, "more than the 40");
    o = RUN("bench", "-m", model, "-p", "8", "-n", "4", "-d", "0,16", "-r", "1", "-o", "csv");
    check_success(&o);
    assert_non_null(strstr(o.out, "\"pp8 @ d16\""));
    assert_non_null(strstr(o.out, "\"tg4 @ d16\""));
    outcome_finish(&o);
    check_failure(RUN("bench", "-m", model, "-p", "9", "-n", "4", "-d", "16", "-c", "24"), 1,
                  "25 tokens but the context holds 24");
    check_failure(RUN("bench", "-m", model, "-p", "25", "-c", "24"), 1, "25 tokens but the context holds 24");
    check_failure(RUN("bench", "-m", in_folder("short.gguf"), "-p", "41"), 1, "more than the 40");
}

static size_t count(const char *text, char c)
{
    size_t n = 0;

    for (; *text; text++)
        n += *text == c;
    return n;
}

static void chat_through_a_pipe(void **state)
{
    char input[600];
    struct outcome o;
    size_t n;

    (void)state;
    NEEDS_DEVICE();
    snprintf(input, sizeof input, "Hello\nand\\\nagain\n/save %s\n/reset\n/load %s\n/stats\n/exit\nnever\n",
             in_folder("talk"), in_folder("talk"));
    o = RUN_WITH(input, "chat", "-m", model, "-n", "4", "--temp", "0");
    check_success(&o);
    assert_true(count(o.out, '\n') >= 2);
    assert_null(strstr(o.out, "> ")); /* no prompt */
    assert_non_null(strstr(o.error, "4 messages saved"));
    assert_non_null(strstr(o.error, "4 messages loaded"));
    assert_non_null(strstr(o.error, "prefill: "));
    outcome_finish(&o);
    char *saved = file_read(in_folder("talk"), &n);
    json_t *json = json_loadb(saved, n, JSON_ALLOW_NUL, NULL), *list = json_object_get(json, "messages");
    assert_int_equal(json_array_size(list), 4);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 2), "content")), "and\nagain");
    json_decref(json);
    free(saved);

    /* what goes wrong is said, the rest goes on, and the status tells */
    o = RUN_WITH("/hlep\n/load nowhere\n\xff\n/save\n/system \xc3\nHello\n", "chat", "-m", model, "-n", "2",
                 "--chat-template", "plain");
    assert_int_equal(o.status, 1);
    assert_non_null(strstr(o.error, "did you mean '/help'"));
    assert_non_null(strstr(o.error, "scoria: nowhere: "));
    assert_non_null(strstr(o.error, "the question is not valid UTF-8"));
    assert_non_null(strstr(o.error, "the system message is not valid UTF-8"));
    assert_non_null(strstr(o.error, "/save needs a FILE"));
    outcome_finish(&o);
    check_failure(RUN_WITH("", "chat", "-m", model, "--chat-template", "nonsense"), 1, "nonsense");
}

static void chat_forgets(void **state)
{
    static const char input[] =
        "first question\nsecond question\nthird question\nfourth question\nfifth question\n/stats\n";
    char question[400];
    struct outcome o;

    (void)state;
    NEEDS_DEVICE();
    o = RUN_WITH(input, "chat", "-m", model, "-n", "10", "-c", "128", "--chat-template", "plain", "-sys", "Be brief.");
    check_success(&o);
    assert_non_null(strstr(o.error, "the context is full: the oldest "));
    assert_non_null(strstr(o.error, "of 128 tokens"));
    outcome_finish(&o);

    /* a question too long for all of it */
    memset(question, 'q', sizeof question);
    memcpy(question + sizeof question - 2, "\n", 2);
    o = RUN_WITH(question, "chat", "-m", model, "-c", "128", "--chat-template", "plain");
    check_failure(o, 1, "the context holds 128");
}

static void interrupts(void **state)
{
    struct outcome o;

    (void)state;
    NEEDS_DEVICE();
    const char *const words[] = {"run", "-m", model, "-p", "Hello", "--ignore-eos", "-c", "512", NULL};
    o = program_interrupt(SCORIA_PROGRAM, words);
    if (o.status == 0) {
        outcome_finish(&o);
        skip(); /* it was done before the signal came */
    }
    assert_int_equal(o.status, 130);
    assert_non_null(strstr(o.error, "prefill: "));
    outcome_finish(&o);
}

static void full_output(void **state)
{
    char command[3 * PATH_SIZE];
    struct outcome o;

    (void)state;
    NEEDS_DEVICE();
    snprintf(command, sizeof command, "\"$PROGRAM\" run -m %s -p x -n 4 > /dev/full", model);
    check_failure(program_shell(SCORIA_PROGRAM, command), 1, "cannot write to standard output");
    snprintf(command, sizeof command,
             "{ \"$PROGRAM\" run -m %s -p x --ignore-eos; echo status $? >&2; } | head -c 1 >/dev/null", model);
    o = program_shell(SCORIA_PROGRAM, command);
    assert_non_null(strstr(o.error, "status 0\n"));
    outcome_finish(&o);
}

static void routing_traces(void **state)
{
    size_t n;

    (void)state;
    NEEDS_DEVICE();
    const char *path = in_folder("some.trace");
    struct outcome o = RUN("run", "-m", model, "-p", "x", "-n", "2", "--ignore-eos", "--routing-trace", path);
    check_success(&o);
    outcome_finish(&o);
    char *bytes = file_read(path, &n);
    assert_non_null(bytes);
    assert_memory_equal(bytes, "SCROUTE1", 8);
    free(bytes);
    check_failure(RUN("run", "-m", model, "-p", "x", "--routing-trace", "/dev/full"), 1, "/dev/full cannot be written");
    check_failure(RUN("run", "-m", model, "-p", "x", "--routing-trace", model), 1, "is the model");
    o = RUN("inspect", "-m", model); /* which is still whole */
    check_success(&o);
    outcome_finish(&o);
    check_failure(RUN("run", "-m", model, "-p", "x", "--device", "nothing", "--routing-trace", folder), 1,
                  "cannot be written");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(run_prints),   cmocka_unit_test(run_json),       cmocka_unit_test(seeds),
        cmocka_unit_test(contexts),     cmocka_unit_test(budgets),        cmocka_unit_test(devices),
        cmocka_unit_test(logits),       cmocka_unit_test(bench),          cmocka_unit_test(chat_through_a_pipe),
        cmocka_unit_test(chat_forgets), cmocka_unit_test(interrupts),     cmocka_unit_test(full_output),
        cmocka_unit_test(cpu_experts),  cmocka_unit_test(routing_traces),
    };
    return cmocka_run_group_tests(tests, cli_setup, cli_teardown);
}
