/* SPDX-License-Identifier: Apache-2.0 */
/* op_quantize: activations rounded to 8 bits, as they are and normed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "op_device.h"
#include "op_reference.h"

enum { MAX_COLUMNS = 14336 };

static const struct quantize_case {
    uint32_t cols, n;
    float sigma;
} cases[] = {{32, 1, 1},      {64, 2, 1e-4F}, {96, 33, 100},   {256, 3, 1},        {288, 31, 1e-20F},
             {768, 65, 0.1F}, {4096, 2, 1},   {160, 7, 1e20F}, {MAX_COLUMNS, 1, 3}};

/* Every byte within half a step of its value, steps a 127th of the largest of their blocks, the sums exact. */
static void check_row(struct op_judge *j, uint32_t row, const uint32_t *y, const struct bounded *want, uint32_t cols)
{
    const int8_t *q = (const int8_t *)y;
    for (uint32_t i = 0; i < cols; i += ROUNDED_BLOCK) {
        const uint32_t *block = y + cols / 4 + i / ROUNDED_BLOCK * 2;
        struct bounded largest = {0};
        float step;
        int sums[2] = {0};
        memcpy(&step, block, sizeof step);
        for (uint32_t k = i; k < i + ROUNDED_BLOCK; k++) {
            largest.value = fmax(largest.value, fabs(want[k].value));
            largest.bound = fmax(largest.bound, want[k].bound);
            sums[(k - i) / 16] += q[k];
        }
        op_judge_value(j, row, i, (double)step, largest.value / 127,
                       (largest.bound + 3 * OP_EPS * largest.value) / 127);
        for (uint32_t k = i; k < i + ROUNDED_BLOCK; k++)
            op_judge_value(j, row, k, q[k] * (double)step, want[k].value,
                           OP_SECOND_ORDER * ((double)step / 2 + want[k].bound) + 6 * OP_EPS * largest.value);
        op_judge_word(j, row, i, block[1], ((uint32_t)sums[0] & 0xFFFF) | (uint32_t)sums[1] << 16);
    }
}

static void check_case(struct op_judge *j, struct op_device *d, struct quantize_case c, bool is_normed, uint64_t seed)
{
    static struct bounded want[MAX_COLUMNS];
    const float eps = 1e-5F;
    op_case(j, d, seed, "%u x %u, sigma %g%s", c.n, c.cols, (double)c.sigma, is_normed ? ", normed" : "");
    const struct tensor x = op_random(d, c.n, c.cols, c.sigma), y = op_tensor(d, SC_F32, c.n, ROUNDED_WORDS(c.cols));
    const struct norm norm = {.w = op_random(d, 1, c.cols, 1), .eps = eps};
    memset(op_host(d, x.address), 0, ROUNDED_BLOCK * sizeof(float)); /* a block of zeros */
    op_quantize(&d->commands, y, x, is_normed ? &norm : NULL);
    op_writes(d, y);
    op_judge_run(j, d);
    for (uint32_t r = 0; r < c.n; r++) {
        const float *row = op_floats(d, x) + (size_t)r * c.cols;
        if (is_normed)
            reference_rms_norm(want, row, op_floats(d, norm.w), c.cols, eps);
        for (uint32_t i = 0; !is_normed && i < c.cols; i++)
            want[i] = (struct bounded){.value = (double)row[i]};
        check_row(j, r, op_words(d, y) + (size_t)r * ROUNDED_WORDS(c.cols), want, c.cols);
    }
}

static void test_quantize(void **state)
{
    struct op_judge judge = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int is_normed = 0; is_normed < 2; is_normed++)
            if (!is_normed || cases[i].sigma < 1e19F) /* whose squares are no floats */
                check_case(&judge, *state, cases[i], is_normed, 10 * i + (uint64_t)is_normed);
    op_judge_report(&judge, "quantize");
}

static bool is_step_nan(const uint32_t *y, uint32_t cols, uint32_t block)
{
    return (y[cols / 4 + 2 * block] & 0x7fffffffu) > 0x7f800000u;
}

/* One value of the middle row is no number: its block has no step, and with a norm the row has none. */
static void check_nan(struct op_judge *j, struct op_device *d, uint32_t cols, uint32_t at, uint32_t nan, bool is_normed)
{
    enum { ROWS = 3, MIDDLE = 1 };
    op_case(j, d, at, "%u columns, %08x at %u%s", cols, nan, at, is_normed ? ", normed" : "");
    const struct tensor x = op_random(d, ROWS, cols, 1), y = op_tensor(d, SC_F32, ROWS, ROUNDED_WORDS(cols));
    const struct norm norm = {.w = op_random(d, 1, cols, 1), .eps = 1e-5F};
    op_words(d, x)[MIDDLE * cols + at] = nan;
    op_quantize(&d->commands, y, x, is_normed ? &norm : NULL);
    op_writes(d, y);
    op_judge_run(j, d);
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t b = 0; b < cols / ROUNDED_BLOCK; b++) {
            const bool want = r == MIDDLE && (is_normed || b == at / ROUNDED_BLOCK);
            if (is_step_nan(op_words(d, y) + (size_t)r * ROUNDED_WORDS(cols), cols, b) != want)
                fail_msg("%s: row %u, block %u", j->what, r, b);
        }
}

static void test_nan(void **state)
{
    static const uint32_t nans[] = {0x7fc00000, 0xffc00000, 0x7f800001, 0xffffffff}, cols[] = {32, 288, 512};
    struct op_judge judge = {0};
    for (size_t i = 0; i < sizeof cols / sizeof cols[0]; i++)
        for (uint32_t k = 0; k < 8; k++)
            for (int is_normed = 0; is_normed < 2; is_normed++)
                check_nan(&judge, *state, cols[i], k * 37 % cols[i], nans[k % 4], is_normed);
    op_judge_report(&judge, "quantize, NaN");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_quantize), cmocka_unit_test(test_nan)};
    return cmocka_run_group_tests(tests, op_device_create, op_device_destroy);
}
