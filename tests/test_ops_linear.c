/* SPDX-License-Identifier: Apache-2.0 */
/* Weights times activations, every weight type: op_linear and op_linear_add, for one token (matvec) and for many
 * (matmul). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "op_cases.h"
#include "op_device.h"
#include "op_reference.h"

static float *expanded(const struct op_device *d, struct tensor w)
{
    const struct sc_type_info *info = sc_type_info(w.type);
    float *values = malloc((size_t)w.rows * w.cols * sizeof *values);
    assert_non_null(values);
    info->dequantize(op_host(d, w.address), values, (size_t)w.rows * (w.cols / info->block_size));
    return values;
}

/*
 * Roundings that a term goes through. The weights have none: a block's value is exact in fp32 or rounded once, in the
 * reference's dequantizer just as in the kernel's, which test_embed of test_ops.c proves bit by bit.
 *   matvec: the product, 3 additions of quads, an addition for each part of the lane, 3 over the components, one for
 * each other lane matmul: the product and an addition for each column, the tile's parts in turn and one more when it is
 * added to y.
 */
static uint32_t roundings(const struct op_device *d, struct linear_case c, bool add)
{
    const uint32_t lanes = gpu_lanes_per_row(d->gpu), parts = (c.cols / 16 + lanes - 1) / lanes;
    return (c.n == 1 ? 1 + 3 + parts + 3 + lanes - 1 : 1 + c.cols) + add;
}

static void check_case(struct op_judge *j, struct op_device *d, const struct sc_type_info *info, struct linear_case c,
                       enum op_fill fill, bool add, uint64_t seed)
{
    op_case(j, d, seed, "%s%s %ux%u, %u tokens, %s", info->name, add ? " added" : "", c.rows, c.cols, c.n,
            op_fill_names[fill]);
    struct tensor w = op_tensor(d, info->type, c.rows, c.cols);
    struct tensor x = op_random(d, c.n, c.cols, 1);
    struct tensor y = add ? op_random(d, c.n, c.rows, 1) : op_tensor(d, SC_F32, c.n, c.rows);
    op_fill_weights(op_host(d, w.address), info->type, c.rows, c.cols, fill, &d->seed);
    if (add)
        op_linear_add(&d->commands, y, w, x);
    else
        op_linear(&d->commands, y, w, x);
    op_writes(d, y);
    op_judge_run(j, d);

    float *weights = expanded(d, w);
    const float *got = op_floats(d, y), *had = op_floats_before(d, y), *xs = op_floats(d, x);
    for (uint32_t t = 0; t < c.n; t++)
        for (uint32_t r = 0; r < c.rows; r++) {
            struct sum want = reference_dot(weights + (size_t)r * c.cols, xs + (size_t)t * c.cols, c.cols);
            if (add) {
                want.value += (double)had[t * c.rows + r];
                want.magnitude += had[t * c.rows + r] < 0 ? -(double)had[t * c.rows + r] : (double)had[t * c.rows + r];
            }
            op_judge_value(j, t, r, (double)got[t * c.rows + r], want.value,
                           reference_dot_bound(want, c.cols, roundings(d, c, add)));
        }
    free(weights);
}

static void check_all(struct op_device *d, bool many, const char *op)
{
    struct op_judge judge = {0};
    size_t n_types;
    const struct sc_type_info *types = sc_types(&n_types);
    for (size_t i = 0; i < n_types; i++)
        for (size_t k = 0; k < op_n_linear_cases; k++) {
            const struct linear_case c = op_linear_cases[k];
            const bool huge = c.rows > 10000; /* for its workgroups, not for its weights */
            if ((c.n > 1) != many || !op_type_has_columns(&types[i], c.cols) || (huge && types[i].type != SC_F16))
                continue;
            for (uint32_t fill = 0; fill < (huge ? 1 : OP_N_FILLS); fill++)
                check_case(&judge, d, &types[i], c, fill, (fill + k) % 2 == 1, 1000 * k + 10 * i + fill);
        }
    op_judge_report(&judge, op);
}

static void test_matvec(void **state)
{
    check_all(*state, false, "linear, one token");
}

static void test_matmul(void **state)
{
    check_all(*state, true, "linear, many tokens");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matvec),
        cmocka_unit_test(test_matmul),
    };
    return cmocka_run_group_tests(tests, op_device_create, op_device_destroy);
}
