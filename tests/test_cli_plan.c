/* SPDX-License-Identifier: Apache-2.0 */
/* The command line on a model of which nothing but the header is there: plan, and bench with made-up weights. */
#include "cli_models.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model_builder.h"

static const struct model_spec small = {
    .type = "q8_0", .d = 128, .ff = 256, .layers = 3, .experts = 8, .vocab = 512, .header_only = true};

static const char *write_header(const char *name, const struct model_spec *spec)
{
    const char *path = in_folder(name);
    assert_true(model_write(path, spec));
    return path;
}

static json_t *json_of(struct outcome o)
{
    check_success(&o);
    json_t *json = json_loadb(o.out, o.n_out, 0, NULL);
    assert_non_null(json);
    outcome_finish(&o);
    return json;
}

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value))
        fail_msg("%s is no number", key);
    return json_number_value(value);
}

static double speed(const json_t *plan, const char *way, const char *key)
{
    const double t = number(json_object_get(json_object_get(plan, "ways"), way), key);
    assert_true(t > 0 && isfinite(t));
    return t;
}

static bool is_way(const json_t *plan, const char *way)
{
    return strcmp(json_string_value(json_object_get(plan, "way")), way) == 0;
}

/* With everything on the device, then with the least, and with RAM for some of the rest. */
static void plans(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    const char *path = write_header("small.gguf", &small);
    json_t *all = json_of(RUN("plan", "-m", path, "-c", "64", "-ub", "16", "--json"));
    const double expert_bytes = 3 * 128 * 256 / 32. * 34, used = 3 * 2 * expert_bytes;
    assert_true(number(all, "hit_rate") == 1);
    const double all_bytes = number(all, "vram_token_bytes") + number(all, "ram_token_bytes");
    assert_true(all_bytes > used);
    assert_true(number(all, "ram_token_bytes") == (is_way(all, "cpu") ? used : 0));
    assert_false(is_way(all, "both"));
    assert_true(json_is_false(json_object_get(all, "has_weights")));
    const json_t *placement = json_object_get(all, "placement");
    assert_true(number(placement, "n_slots") == 24);
    const double least = number(placement, "minimum_bytes");
    const double resident = number(all, "resident_budget_bytes");
    assert_true(resident > least && resident <= number(placement, "budget_bytes"));

    char vram[32];
    snprintf(vram, sizeof vram, "%.0f", least);
    json_t *some = json_of(RUN("plan", "-m", path, "-c", "64", "-ub", "16", "--vram", vram, "--json"));
    assert_true(number(json_object_get(some, "placement"), "n_slots") == 2);
    assert_true(fabs(number(some, "hit_rate") - 2. / 24) < 1e-9);
    const double outside = is_way(some, "cpu") ? 24 : 22;
    assert_true(fabs(number(some, "ram_token_bytes") - used * outside / 24) < 1);
    assert_true(fabs(number(some, "vram_token_bytes") - all_bytes + used * outside / 24) < 1);
    assert_true(number(some, "disk_token_bytes") == 0);
    assert_true(number(some, "ram_needed_bytes") == outside * expert_bytes);
    const char *way = json_string_value(json_object_get(some, "way"));
    for (int i = 0; i < 3; i++) {
        static const char *const ways[] = {"device", "both", "cpu"};
        assert_true(speed(some, ways[i], "tokens_per_second") <= speed(some, way, "tokens_per_second"));
        assert_true(speed(some, ways[i], "bound_tokens_per_second") > 0);
    }

    json_t *little =
        json_of(RUN("plan", "-m", path, "-c", "64", "-ub", "16", "--vram", vram, "--ram", "1100KB", "--json"));
    const double beside = is_way(little, "cpu") ? 24 : 22;
    assert_true(fabs(number(little, "disk_token_bytes") - used * beside / 24 * (1 - 1100e3 / (beside * expert_bytes))) <
                1);
    json_decref(little), json_decref(some), json_decref(all);

    check_failure(RUN("plan", "-m", path, "-c", "64", "-ub", "16", "--vram", "300K"), 1, "the model needs at least");
    check_failure(RUN("plan", "-m", in_folder("nothing.gguf")), 1, "no such file");
    check_failure(RUN("plan", "-m", path, "--routing-trace", "x"), 2, "plan has no flag '--routing-trace'");
    check_failure(RUN("plan", "-m", path, "--ram", "1K"), 1, "the experts of this model need at least");
}

static void plans_complete_and_dense(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    json_t *plan = json_of(RUN("plan", "-m", model, "--json"));
    assert_true(json_is_true(json_object_get(plan, "has_weights")));
    assert_true(json_is_false(json_object_get(plan, "disk_is_measured"))); /* too small */
    json_decref(plan);
    const char *path = write_header("dense.gguf", &(struct model_spec){.dense = true, .header_only = true});
    struct outcome o = RUN("plan", "-m", path);
    check_success(&o);
    assert_non_null(strstr(o.out, "GPU, which holds it all"));
    assert_null(strstr(o.out, "experts on CPU"));
    outcome_finish(&o);
}

/* A model of 85 GB on any machine: what it needs, and what it would do. */
static void plans_8x22b(void **state)
{
    struct model_spec spec;

    (void)state;
    NEEDS_DEVICE();
    assert_true(model_preset(&spec, "8x22b"));
    spec.header_only = true;
    const char *path = write_header("8x22b.gguf", &spec);
    check_failure(RUN("plan", "-m", path, "--vram", "3G"), 1, "the model needs at least");
    struct outcome o = RUN("plan", "-m", path, "--vram", "6G");
    check_success(&o);
    assert_non_null(
        strstr(o.out, "8x22b: 141 B parameters, 39.2 B of them active, 79.7 GiB (only its header is here)"));
    assert_non_null(strstr(o.out, " of 448 experts"));
    assert_non_null(strstr(o.out, "<- this way"));
    assert_non_null(strstr(o.out, "Generation is limited by "));
    assert_non_null(strstr(o.out, "on the device it would hold everything: "));
    outcome_finish(&o);
}

static void benches(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    const char *path = write_header("small.gguf", &small);
    check_failure(RUN("bench", "-m", path, "-p", "8", "-n", "4", "-r", "1"), 1, "is truncated");
    check_failure(RUN("run", "-m", path, "-p", "x"), 1, "is truncated");
    static const char *const vram[] = {"64M", "3M"};
    for (int i = 0; i < 2; i++) {
        json_t *list = json_of(RUN("bench", "-m", path, "--synthetic", "-p", "16", "-n", "8", "-r", "2", "-c", "64",
                                   "-ub", "16", "--cpu-experts", "on", "--vram", vram[i], "--json"));
        const json_t *generated = json_array_get(list, 1);
        assert_int_equal(json_array_size(list), 2);
        assert_true(number(generated, "avg_ts") > 0);
        assert_true(number(generated, "bound_percent") > 0);
        assert_true(number(generated, "synthetic_bytes") > 2.5e6);
        assert_int_equal(number(generated, "n_slots") == 24, i == 0);
        json_decref(list);
    }
    struct outcome o = RUN("bench", "-m", path, "--synthetic", "-p", "0", "-n", "4", "-r", "1", "--ram", "1M");
    check_success(&o);
    assert_non_null(strstr(o.error, "of weights are made up, in "));
    assert_non_null(strstr(o.error, "caches may flatter the speed"));
    outcome_finish(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(plans), cmocka_unit_test(plans_complete_and_dense),
                                       cmocka_unit_test(plans_8x22b), cmocka_unit_test(benches)};
    return cmocka_run_group_tests(tests, cli_setup, cli_teardown);
}
