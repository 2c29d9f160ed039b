/* SPDX-License-Identifier: Apache-2.0 */
/* Who computes the experts, by the rates of machines as people have them, and seconds that can be computed by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "expert_cost.h"

enum { DESKTOP, SLOW_CPU, CPU_DRIVER };

/* Bytes/s of one token's experts alone and beside the other engine, FLOP/s of batches, upload, the wait of a layer. */
static struct rates machine(int kind)
{
    const double g = 1e9, t = 1e12;
    struct rates r = {.device_read = 800 * g,
                      .device_expert = 700 * g,
                      .device_batch = 20 * t,
                      .host_read = 70 * g,
                      .host_expert = 60 * g,
                      .host_batch_small = 0.3 * t,
                      .host_batch = 0.6 * t,
                      .upload = 24 * g,
                      .transfer = 25 * g,
                      .round_trip = 60e-6};
    if (kind == SLOW_CPU)
        r.host_expert = r.host_read = 8 * g, r.host_batch_small = r.host_batch = 0.02 * t;
    if (kind == CPU_DRIVER)
        r.device_expert = 1 * g, r.device_batch = 0.05 * t, r.upload = 6 * g;
    r.device_beside_host = r.device_expert;
    r.host_beside_device = r.host_expert;
    if (kind == CPU_DRIVER)
        r.device_beside_host /= 2, r.host_beside_device /= 2;
    return r;
}

/* Mixtral 8x7B at 4.5 bits. */
static struct expert_cost mixtral(const struct rates *r, double resident)
{
    const double weights = 3.0 * 4096 * 14336;
    return (struct expert_cost){.rates = r,
                                .n_experts = 8,
                                .n_used = 2,
                                .bytes = weights * 4.5 / 8,
                                .flops = 2 * weights,
                                .upload = r->upload,
                                .resident = resident,
                                .in_ram = 1};
}

static void expect_seconds(double got, double want, const char *what)
{
    if (!(fabs(got - want) <= 1e-9 + 1e-6 * want))
        fail_msg("%s: %g s instead of %g s", what, got, want);
}

static void test_by_hand(void **state)
{
    (void)state;
    const struct rates r = machine(DESKTOP);
    const struct expert_cost half = mixtral(&r, 0.5), all = mixtral(&r, 1), none = mixtral(&r, 0);
    const double device = half.bytes / 700e9, host = half.bytes / 60e9;
    expect_seconds(expert_cost_layer(&all, PATH_DEVICE, 1), 2 * device, "resident");
    expect_seconds(expert_cost_layer(&all, PATH_BOTH, 1), 2 * device, "both, resident");
    expect_seconds(expert_cost_layer(&half, PATH_HOST, 1), 2 * host + 60e-6, "host");
    expect_seconds(expert_cost_layer(&none, PATH_BOTH, 1), 2 * host + 60e-6, "both, none resident");
    /* four of eight are there: of 28 pairs 6 are both missing, 16 one, 6 none */
    expect_seconds(expert_cost_layer(&half, PATH_BOTH, 1), (6 * 2 * host + 16 * host + 6 * 2 * device) / 28 + 60e-6,
                   "both, half resident");
    expect_seconds(expert_cost_layer(&half, PATH_DEVICE, 1), 2 * device + half.bytes / 24e9 + 60e-6, "upload");
    /* 128 tokens choose all experts; four of them are on their way while others compute, which takes less */
    expect_seconds(expert_cost_layer(&half, PATH_DEVICE, 128), 4 * half.bytes / 24e9, "prompt");
    /* with 512 tokens each has 128 */
    expect_seconds(expert_cost_layer(&half, PATH_DEVICE, 512), 8 * 128 * half.flops / 20e12, "long prompt");
}

/* Half on the device, a quarter in RAM: the rest is read from disk when it is used, by the CPU alone three quarters. */
static void test_disk(void **state)
{
    (void)state;
    const struct rates r = machine(DESKTOP);
    const struct expert_cost enough = mixtral(&r, 0.5);
    struct expert_cost c = enough;
    c.in_ram = 0.25;
    c.disk = 2e9;
    const double quarter = 2 * c.bytes / 4 / 2e9;
    for (enum expert_path path = PATH_DEVICE; path <= PATH_HOST; path++)
        expect_seconds(expert_cost_layer(&c, path, 1) - expert_cost_layer(&enough, path, 1),
                       (path == PATH_HOST ? 3 : 1) * quarter, "disk");
    expect_seconds(expert_cost_layer(&c, PATH_DEVICE, 128), 2 * c.bytes / 2e9, "prompt from disk");
    c.in_ram = 0.5;
    expect_seconds(expert_cost_layer(&c, PATH_BOTH, 1), expert_cost_layer(&enough, PATH_BOTH, 1), "just enough RAM");
}

/* One engine works at full rate once the other is done. */
static void test_slower_together(void **state)
{
    (void)state;
    struct rates r = machine(DESKTOP);
    r.device_beside_host = r.device_expert / 2;
    r.host_beside_device = r.host_expert / 1.5;
    r.round_trip = 0;
    const struct expert_cost half = mixtral(&r, 0.5);
    const double device = half.bytes / 700e9, host = half.bytes / 60e9;
    const double one_each = 2 * device + (host - 2 * device / 1.5);
    expect_seconds(expert_cost_layer(&half, PATH_BOTH, 1), (6 * 2 * host + 16 * one_each + 6 * 2 * device) / 28,
                   "slower together");
}

static void test_path(void **state)
{
    (void)state;
    const struct {
        int machine;
        double resident;
        enum expert_path want;
    } cases[] = {
        {DESKTOP, 0.1, PATH_BOTH},  {DESKTOP, 0.5, PATH_BOTH},  {SLOW_CPU, 0.5, PATH_DEVICE},
        {SLOW_CPU, 1, PATH_DEVICE}, {CPU_DRIVER, 0, PATH_BOTH}, {CPU_DRIVER, 0.3, PATH_HOST},
        {CPU_DRIVER, 1, PATH_HOST},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct rates r = machine(cases[i].machine);
        const struct expert_cost cost = mixtral(&r, cases[i].resident);
        const enum expert_path got = expert_cost_path(&cost);
        if (got != cases[i].want)
            fail_msg("case %zu: path %d instead of %d", i, (int)got, (int)cases[i].want);
    }
}

/* Where the path stops paying for batches: with a slow processor at once, with a fast one after some tens of tokens. */
static void test_host_tokens(void **state)
{
    (void)state;
    const struct rates desktop = machine(DESKTOP), slow = machine(SLOW_CPU), driver = machine(CPU_DRIVER);
    const struct expert_cost d = mixtral(&desktop, 0.5), s = mixtral(&slow, 0.5), c = mixtral(&driver, 0.5);
    const uint32_t n = expert_cost_host_tokens(&d, PATH_BOTH, 512);
    assert_in_range(n, 8, 128);
    assert_true(expert_cost_layer(&d, PATH_BOTH, n) <= expert_cost_layer(&d, PATH_DEVICE, n));
    assert_true(expert_cost_layer(&d, PATH_BOTH, n + 1) > expert_cost_layer(&d, PATH_DEVICE, n + 1));
    assert_int_equal(expert_cost_host_tokens(&s, PATH_BOTH, 512), 1);
    assert_int_equal(expert_cost_host_tokens(&c, PATH_HOST, 64), 64);

    /* long prompts: a processor beside a GPU is no match for its large passes, one that drives Vulkan is the faster one
     */
    assert_int_equal(expert_cost_prompt_batch(&d, PATH_BOTH, n, 512), 512);
    assert_int_equal(expert_cost_prompt_batch(&c, PATH_HOST, 64, 512), 64);
    assert_int_equal(expert_cost_prompt_batch(&c, PATH_HOST, 64, 16), 16);
    assert_int_equal(expert_cost_prompt_batch(&s, PATH_BOTH, 1, 512), 512);
}

/* Uploads of half of the experts, 4 of 99 MB a layer, take as long as some 470 tokens. */
static void test_batch(void **state)
{
    (void)state;
    struct rates r = machine(DESKTOP);
    const struct expert_cost half = mixtral(&r, 0.5), all = mixtral(&r, 1);
    const double tokens = 4 * half.bytes / 24e9 / (2 * half.flops / 20e12);
    expect_seconds(expert_cost_batch(&half), tokens, "batch");
    assert_in_range((uint64_t)tokens, 400, 600);
    assert_true(expert_cost_batch(&all) == 0);
    r.device_batch = 0.02e12; /* a small GPU must not be given more than it computes in time */
    expect_seconds(expert_cost_batch(&half), tokens / 1000, "batch of a small GPU");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),     cmocka_unit_test(test_slower_together), cmocka_unit_test(test_path),
        cmocka_unit_test(test_host_tokens), cmocka_unit_test(test_batch),           cmocka_unit_test(test_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
