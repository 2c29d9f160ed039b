/* SPDX-License-Identifier: Apache-2.0 */
/* Weights times activations, every weight type: op_linear and op_linear_add, for one token (matvec) and for many
 * (matmul), by each variant that the device can run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "op_cases.h"
#include "op_device.h"
#include "op_reference.h"

/* runtime/variants.c counts on it: kernels of one line stand in the order of the types. */
static void test_kernel_table(void **state)
{
    (void)state;
    const struct {
        enum kernel first;
        const char *name;
    } lines[] = {{KERNEL_EMBED_F32, "embed"},
                 {KERNEL_MATVEC_F32, "matvec"},
                 {KERNEL_MATMUL_FEW_F32, "matmul_few"},
                 {KERNEL_MATMUL_F32, "matmul"},
                 {KERNEL_MATMUL_LARGE_F32, "matmul_large"},
                 {KERNEL_MATMUL_CM2_F32, "matmul_cm2"},
                 {KERNEL_MATMUL_CM16_F32, "matmul_cm16"},
                 {KERNEL_MATMUL_CM8_F32, "matmul_cm8"},
                 {KERNEL_MATVEC_ROWS4_F32, "matvec_rows4"},
                 {KERNEL_MATVEC_ROWS8_F32, "matvec_rows8"},
                 {KERNEL_MATMUL_ROWS_FEW_F32, "matmul_rows_few"},
                 {KERNEL_MATMUL_ROWS_F32, "matmul_rows"}};
    size_t n_types;
    const struct sc_type_info *types = sc_types(&n_types);
    for (size_t f = 0; f < sizeof lines / sizeof lines[0]; f++)
        for (size_t i = 0; i < n_types; i++) {
            char name[64];
            snprintf(name, sizeof name, "%s_%s", lines[f].name, types[i].name);
            assert_true(lines[f].first + i < N_KERNELS);
            assert_string_equal(kernel_infos[lines[f].first + i].name, name);
            assert_int_equal(kernel_of_type(lines[f].first, types[i].type), lines[f].first + i);
        }
}

enum product { PLAIN, ADDED, EXACT };

static const char *const product_names[] = {"", " added", " exact"};
static void (*const operations[])(struct commands *c, struct tensor y, struct tensor w,
                                  struct tensor x) = {op_linear, op_linear_add, op_linear_exact};

static void check_case(struct op_judge *j, struct op_device *d, const struct variant *v,
                       const struct sc_type_info *info, struct linear_case c, enum op_fill fill, enum product product,
                       uint64_t seed)
{
    const bool add = product == ADDED;
    op_case(j, d, seed, "%s %s%s %ux%u, %u tokens, %s", info->name, v->name, product_names[product], c.rows, c.cols,
            c.n, op_fill_names[fill]);
    struct tensor w = op_weights(d, info->type, c.rows, c.cols, fill);
    const bool is_whole = v->rounding == ROUNDS_TO_Q8 && seed % 2;
    struct tensor x = is_whole ? op_whole(d, c.n, c.cols) : op_random(d, c.n, c.cols, 1);
    struct tensor y = add ? op_random(d, c.n, c.rows, 1) : op_tensor(d, SC_F32, c.n, c.rows);
    operations[product](&d->commands, y, w, x);
    op_writes(d, y);
    op_judge_run(j, d);

    float *weights = malloc(c.cols * sizeof *weights);
    assert_non_null(weights);
    const float *got = op_floats(d, y), *had = op_floats_before(d, y), *xs = op_floats(d, x);
    for (uint32_t r = 0; r < c.rows; r++) {
        op_expand(d, w, r, 1, weights);
        for (uint32_t t = 0; t < c.n; t++) {
            const float *column = xs + (size_t)t * c.cols;
            struct sum want = reference_dot(weights, column, c.cols);
            const double rounding = is_whole ? 0 : reference_rounding_bound(v->rounding, want, weights, column, c.cols);
            if (add) {
                want.value += (double)had[t * c.rows + r];
                want.magnitude += had[t * c.rows + r] < 0 ? -(double)had[t * c.rows + r] : (double)had[t * c.rows + r];
            }
            op_judge_value(j, t, r, (double)got[t * c.rows + r], want.value,
                           reference_dot_bound(want, c.cols, v->roundings(v, c.cols) + add) + rounding);
        }
    }
    free(weights);
}

/* Runs before anything is compiled. */
static void test_choice(void **state)
{
    struct op_device *d = *state;
    struct op_judge judge = {0};
    size_t n_types;
    const struct sc_type_info *types = sc_types(&n_types);
    for (enum family family = FAMILY_MATVEC; family <= FAMILY_MATMUL; family++)
        for (uint32_t variant = 0; variant < MAX_VARIANTS; variant++)
            for (size_t i = variant % 5; i < n_types; i += 5) {
                const struct variant *v = op_use_variant(d, family, variant, types[i].type);
                const uint32_t n_compiled = op_n_compiled(d), n = family == FAMILY_MATVEC       ? 1
                                                                  : family == FAMILY_MATMUL_FEW ? 2
                                                                                                : 17;
                if (!v)
                    continue;
                check_case(&judge, d, v, &types[i], (struct linear_case){3, 256, n}, OP_FILL_RANDOM, PLAIN, i);
                op_check_compiled(d, n_compiled, v, &types[i]);
            }
    op_judge_report(&judge, "linear, the kernel chosen");
}

static void check_variant(struct op_device *d, enum family family, uint32_t variant)
{
    uint32_t n;
    const struct variant *v = &family_variants(family, &n)[variant];
    struct op_judge judge = {0};
    size_t n_types;
    const struct sc_type_info *types = sc_types(&n_types);
    for (size_t i = 0; i < n_types; i++)
        for (size_t k = 0; k < op_n_linear_cases; k++) {
            const struct linear_case c = op_linear_cases[k];
            const bool huge = c.rows > 10000; /* for its workgroups, not for its weights */
            if (family_for(c.n) != family || !op_type_has_columns(&types[i], c.cols) ||
                !op_takes_case(d, family, variant, types[i].type, k) ||
                !op_use_variant(d, family, variant, types[i].type) ||
                (huge && (types[i].type != SC_Q4_0 || v->constants[CONSTANT_LANES] != 32 ||
                          v->constants[CONSTANT_MAGIC] || v->rounding)))
                continue;
            for (uint32_t fill = 0; fill < (huge ? 1 : OP_N_FILLS); fill++)
                if (v->rounding != ROUNDS_TO_F16 || fill != OP_FILL_LARGE) /* beyond what halves hold */
                    check_case(&judge, d, v, &types[i], c, fill, (fill + k) % 2 ? ADDED : PLAIN,
                               1000 * k + 10 * i + fill);
        }
    if (judge.n_cases)
        op_judge_report(&judge, "linear, %s, %s", family_names[family], v->name);
}

static void check_all(struct op_device *d, enum family family)
{
    uint32_t n;
    (void)family_variants(family, &n);
    for (uint32_t variant = 0; variant < n; variant++)
        check_variant(d, family, variant);
}

static void test_matvec(void **state)
{
    check_all(*state, FAMILY_MATVEC);
}

static void test_matmul_few(void **state)
{
    check_all(*state, FAMILY_MATMUL_FEW);
}

static void test_matmul(void **state)
{
    check_all(*state, FAMILY_MATMUL);
}

/* What op_linear rounds, since it is made to, op_linear_exact does not. */
static void test_exact(void **state)
{
    struct op_device *d = *state;
    struct op_judge judge = {0};
    size_t n_types;
    const struct sc_type_info *types = sc_types(&n_types);
    for (uint32_t variant = 0; variant < MAX_VARIANTS; variant++)
        for (size_t i = 0; i < n_types; i++) {
            const struct variant *v = op_use_variant(d, FAMILY_MATMUL_FEW, variant, types[i].type);
            if (v && v->rounding)
                check_case(&judge, d, variant_of(d->gpu, FAMILY_MATMUL_EXACT, types[i].type, 0, 0), &types[i],
                           (struct linear_case){5, 256, 1 + (uint32_t)i}, OP_FILL_RANDOM, EXACT, i);
        }
    op_judge_report(&judge, "linear_exact");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernel_table), cmocka_unit_test(test_choice), cmocka_unit_test(test_matvec),
        cmocka_unit_test(test_matmul_few),   cmocka_unit_test(test_matmul), cmocka_unit_test(test_exact),
    };
    return cmocka_run_group_tests(tests, op_device_create, op_device_destroy);
}
