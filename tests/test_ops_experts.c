/* SPDX-License-Identifier: Apache-2.0 */
/* The experts' matrices, every weight type: op_expert_linear for one token and for tokens grouped by expert, by each
 * variant that the device can run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model_builder.h"
#include "op_cases.h"
#include "op_device.h"
#include "op_reference.h"

enum { OFFSET_BYTES = 48, MAX_EXPERTS = 256 };

/*
 * n_used different experts for each token, but where there are enough of them none for expert 0, and only one pair, the
 * first, for expert 1.
 */
static void choose_experts(struct op_device *d, uint32_t *ids, struct expert_case c)
{
    const uint32_t first = c.n_experts >= c.n_used + 2 ? 2 : 0;
    for (uint32_t t = 0; t < c.n; t++)
        for (uint32_t k = 0; k < c.n_used; k++) {
            bool again = true;
            while (again) {
                ids[t * c.n_used + k] = first + (uint32_t)(random_u64(&d->seed) % (c.n_experts - first));
                again = false;
                for (uint32_t i = 0; i < k; i++)
                    again = again || ids[t * c.n_used + i] == ids[t * c.n_used + k];
            }
        }
    if (first)
        ids[0] = 1;
}

static bool is_missing(struct expert_case c, uint32_t expert)
{
    return c.missing_every && expert % c.missing_every == c.missing_every - 1;
}

static void check_case(struct op_judge *j, struct op_device *d, const struct variant *v,
                       const struct sc_type_info *info, struct expert_case c, enum op_fill fill, uint64_t seed)
{
    op_case(j, d, seed, "%s %s %ux%u, %u of %u experts, %u tokens, %s", info->name, v->name, c.rows, c.cols, c.n_used,
            c.n_experts, c.n, op_fill_names[fill]);
    const uint32_t n_pairs = c.n * c.n_used;
    const uint32_t x_rows = c.x_per_pair ? n_pairs : c.n;
    const bool is_whole = v->rounding == ROUNDS_TO_Q8 && seed % 2;
    struct tensor table = op_tensor(d, SC_F32, c.n_experts, 2),
                  x = is_whole ? op_whole(d, x_rows, c.cols) : op_random(d, x_rows, c.cols, 1);
    struct tensor y = op_tensor(d, SC_F32, n_pairs, c.rows);
    struct routing r = op_routing(d, c.n, c.n_used, c.n_experts);
    uint32_t *ids = op_words(d, r.ids);
    choose_experts(d, ids, c);

    VkDeviceAddress *slots = op_host(d, table.address);
    struct tensor w[MAX_EXPERTS];
    for (uint32_t e = 0; e < c.n_experts; e++) {
        w[e] = op_weights(d, info->type, c.rows, c.cols, fill);
        slots[e] = is_missing(c, e) ? 0 : w[e].address - OFFSET_BYTES;
    }
    const struct expert_tensor experts = {.slots = table.address,
                                          .offset = OFFSET_BYTES,
                                          .n_experts = c.n_experts,
                                          .type = info->type,
                                          .rows = c.rows,
                                          .cols = c.cols};
    if (c.n > 1)
        op_group_all(d, r, experts);
    op_expert_linear(&d->commands, y, experts, x, r);
    for (uint32_t i = 0; i < n_pairs; i++)
        if (!is_missing(c, ids[i]))
            op_writes_rows(d, y, i, 1);
    op_judge_run(j, d);

    float *weights = malloc((size_t)c.rows * c.cols * sizeof *weights);
    assert_non_null(weights);
    for (uint32_t e = 0; e < c.n_experts; e++) {
        if (!is_missing(c, e))
            op_expand(d, w[e], 0, c.rows, weights);
        for (uint32_t i = 0; i < n_pairs; i++)
            for (uint32_t row = 0; row < c.rows && ids[i] == e && !is_missing(c, e); row++) {
                const float *w_row = weights + (size_t)row * c.cols,
                            *column = op_floats(d, x) + (c.x_per_pair ? i : i / c.n_used) * c.cols;
                const struct sum want = reference_dot(w_row, column, c.cols);
                const double rounding =
                    is_whole ? 0 : reference_rounding_bound(v->rounding, want, w_row, column, c.cols);
                op_judge_value(j, i, row, (double)op_floats(d, y)[i * c.rows + row], want.value,
                               reference_dot_bound(want, c.cols, v->roundings(v, c.cols)) + rounding);
            }
    }
    free(weights);
}

static enum family family_of(struct expert_case c)
{
    if (c.n == 1)
        return FAMILY_MATVEC;
    return family_for((c.n * c.n_used + c.n_experts - 1) / c.n_experts) == FAMILY_MATMUL ? FAMILY_MATMUL
                                                                                         : FAMILY_MATMUL_FEW;
}

static void check_variant(struct op_device *d, enum family family, uint32_t variant)
{
    uint32_t n;
    const struct variant *v = &family_variants(family, &n)[variant];
    struct op_judge judge = {0};
    size_t n_types;
    const struct sc_type_info *types = sc_types(&n_types);
    for (size_t i = 0; i < n_types; i++)
        for (size_t k = 0; k < op_n_expert_cases; k++) {
            const struct expert_case c = op_expert_cases[k];
            if (family_of(c) == family && op_type_has_columns(&types[i], c.cols) &&
                op_takes_case(d, family, variant, types[i].type, k) &&
                op_use_variant(d, family, variant, types[i].type)) {
                const enum op_fill fill = (enum op_fill)((i + k) % OP_N_FILLS);
                const bool fits = v->rounding != ROUNDS_TO_F16 || fill != OP_FILL_LARGE; /* in halves */
                check_case(&judge, d, v, &types[i], c, fits ? fill : OP_FILL_RANDOM, 1000 * k + i);
            }
        }
    if (judge.n_cases)
        op_judge_report(&judge, "expert_linear, %s, %s", family_names[family], v->name);
}

static void check_all(struct op_device *d, enum family family)
{
    uint32_t n;
    (void)family_variants(family, &n);
    for (uint32_t variant = 0; variant < n; variant++)
        check_variant(d, family, variant);
}

static void test_one_token(void **state)
{
    check_all(*state, FAMILY_MATVEC);
}

static void test_few_tokens(void **state)
{
    check_all(*state, FAMILY_MATMUL_FEW);
}

static void test_many_tokens(void **state)
{
    check_all(*state, FAMILY_MATMUL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_token),
        cmocka_unit_test(test_few_tokens),
        cmocka_unit_test(test_many_tokens),
    };
    return cmocka_run_group_tests(tests, op_device_create, op_device_destroy);
}
