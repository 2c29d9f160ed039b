/* SPDX-License-Identifier: Apache-2.0 */
/* The formula that plans and percentages rest on: cases computed by hand, and the table of the design. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bound.h"

static void expect(const char *what, double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance * fabs(want)))
        fail_msg("%s: %.9g, expected %.9g", what, got, want);
}

/* 2 of 4 experts, of which 1 is on the device: with probability 1/2 a token meets it. */
static void test_by_hand(void **state)
{
    (void)state;
    const struct token_work w = {.n_layers = 10, .n_experts = 4, .n_used = 2, .dense_bytes = 500, .expert_bytes = 100};
    const struct links l = {
        .device = 1000, .host = 100, .device_beside = 1000, .host_beside = 100, .upload = 50, .round_trip = 0.5};
    expect("resident", bound_resident(&w, &l), 0.5 + 10 * 0.2, 1e-12);
    expect("host", bound_host(&w, &l), 0.5 + 10 * (2 + 0.5), 1e-12);
    expect("uploading", bound_uploading(&w, &l, 0.25), 0.5 + 10 * (0.2 + 1.5 * 2 + 0.5), 1e-12);
    expect("both, 1 of 4", bound_both(&w, &l, 0.25), 0.5 + 10 * (0.5 * 2 + 0.5 * 1 + 0.5), 1e-12);
    /* 2 of 4: 1/6 no hit, 4/6 one, 1/6 two */
    expect("both, 2 of 4", bound_both(&w, &l, 0.5), 0.5 + 10 * (2. / 6 + 4. / 6 + 0.2 / 6 + 0.5), 1e-12);
    /* halfway between them */
    expect("both, 1.5 of 4", bound_both(&w, &l, 0.375), 0.5 + 10 * ((1.5 + 2. / 6 + 4. / 6 + 0.2 / 6) / 2 + 0.5),
           1e-12);
    expect("both, none", bound_both(&w, &l, 0), 0.5 + 10 * 2.5, 1e-12);
    expect("both, all", bound_both(&w, &l, 1), 0.5 + 10 * (0.2 + 0.5), 1e-12);
    expect("a hit rate of more than 1", bound_both(&w, &l, 1.5), bound_both(&w, &l, 1), 1e-12);

    const struct token_work dense = {
        .n_layers = 3, .n_experts = 1, .n_used = 1, .dense_bytes = 100, .expert_bytes = 10};
    expect("dense", bound_both(&dense, &l, 1), 0.1 + 3 * (0.01 + 0.5), 1e-12);
}

/* One after the other is done, the one that is left has the memory for itself. */
static void test_contention(void **state)
{
    (void)state;
    const struct token_work w = {.n_layers = 1, .n_experts = 2, .n_used = 2, .expert_bytes = 100};
    struct links l = {.device = 100, .host = 100, .device_beside = 50, .host_beside = 50, .upload = 1};
    expect("both slowed to half", bound_both(&w, &l, 0.5), 2, 1e-12);
    l.device = 200, l.device_beside = 100; /* done after 1, when the host has done 50 of 100 */
    expect("one is done first", bound_both(&w, &l, 0.5), 1.5, 1e-12);
    l.device = 25, l.device_beside = 20; /* the host is done after 2, when the device has done 40 of 100 */
    expect("the other is", bound_both(&w, &l, 0.5), 2 + 60. / 25, 1e-12);
}

/*
 * DESIGN.md, section 5: all links at 80 % of their peak, 4.5 bits, 8k context, uniform routing, 1.8 GB of the device's
 * memory kept free. The bandwidths are the devices' data sheets'.
 */
struct machine {
    const char *name;
    double vram_bytes, vram, ram, link; /* GB/s at peak */
    double tokens_per_second[2][4];     /* 8x22B and 8x7B: CPU, upload, both, both with 20 % fewer misses */
};

struct model {
    double n_layers, expert_weights, dense_weights, kv_bytes;
};

static void test_design_table(void **state)
{
    (void)state;
    static const struct machine machines[] = {
        {"RTX 4090", 24, 1008, 96, 31.5, {{4.0, 1.7, 5.2, 6.4}, {11.9, 24.4, 56, 62}}},
        {"RX 7900 XTX", 24, 960, 96, 31.5, {{4.0, 1.7, 5.2, 6.4}, {11.9, 24.1, 55, 61}}},
        {"Arc B580", 12, 456, 96, 15.75, {{3.9, 0.7, 4.2, 5.1}, {11.7, 2.9, 17, 20}}},
        {"RTX 3060", 12, 360, 51.2, 31.5, {{2.1, 1.3, 2.3, 2.8}, {6.3, 5.4, 9.5, 11}}},
    };
    static const struct model models[] = {
        {56, 3 * 6144. * 16384, 56 * 88.08e6 + 2 * 196.6e6, 56 * 2 * 1024 * 2 * 8192.},
        {32, 3 * 4096. * 14336, 32 * 41.94e6 + 2 * 131.1e6, 32 * 2 * 1024 * 2 * 8192.},
    };
    for (size_t i = 0; i < sizeof machines / sizeof machines[0]; i++)
        for (int k = 0; k < 2; k++) {
            const struct machine *m = &machines[i];
            const struct model *x = &models[k];
            const struct token_work w = {.n_layers = (uint32_t)x->n_layers,
                                         .n_experts = 8,
                                         .n_used = 2,
                                         .dense_bytes = x->dense_weights * 4.5 / 8,
                                         .expert_bytes = x->expert_weights * 4.5 / 8};
            const struct links l = {.device = 0.8e9 * m->vram,
                                    .host = 0.8e9 * m->ram,
                                    .device_beside = 0.8e9 * m->vram,
                                    .host_beside = 0.8e9 * m->ram,
                                    .upload = 0.8e9 * m->link};
            const double room = m->vram_bytes * 0x1p30 - 1.8e9 - w.dense_bytes - x->kv_bytes;
            const double hit_rate = room / (w.n_layers * 8 * w.expert_bytes);
            const double got[] = {1 / bound_host(&w, &l), 1 / bound_uploading(&w, &l, hit_rate),
                                  1 / bound_both(&w, &l, hit_rate), 1 / bound_both(&w, &l, 1 - 0.8 * (1 - hit_rate))};
            for (int path = 0; path < 4; path++) {
                const double want = m->tokens_per_second[k][path];
                if (!(fabs(got[path] - want) <= 0.05 * want + 0.05))
                    fail_msg("%s, %s, %c: %.2f t/s, the design says %.1f", m->name, k ? "8x7B" : "8x22B", 'a' + path,
                             got[path], want);
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_by_hand), cmocka_unit_test(test_contention),
                                       cmocka_unit_test(test_design_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
