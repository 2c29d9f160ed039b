/* SPDX-License-Identifier: Apache-2.0 */
/* Attention over every kind of cache, whole and in splits. The cache beyond the last token is NaN and must not leak. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "op_cases.h"
#include "op_device.h"
#include "op_kv.h"
#include "op_reference.h"

enum { SPARE_POSITIONS = 70 };

static enum family family_of(struct attention_case c)
{
    return op_attention_family(c.n, c.n_splits, (struct heads){.n = c.n_heads, .n_kv = c.n_kv_heads});
}

/* Returns the result, which the next case overwrites. */
static struct tensor check_case(struct op_judge *j, struct op_device *d, struct attention_case c, enum sc_type type,
                                uint64_t seed)
{
    const enum family family = family_of(c);
    const bool in_halves = variant_of(d->gpu, family, type, 0, 0)->rounding == ROUNDS_TO_F16;
    op_case(j, d, seed, "%s cache, %u heads on %u of %u, %u tokens after %u, %u splits, sigma %g, window %u",
            sc_type_name(type), c.n_heads, c.n_kv_heads, c.head_dim, c.n, c.n_past, c.n_splits, (double)c.sigma,
            c.window);
    const struct heads h = {
        .n = c.n_heads, .n_kv = c.n_kv_heads, .dim = c.head_dim, .n_rot = c.head_dim, .window = c.window};
    const uint32_t n_positions = c.n_past + c.n, n_ctx = n_positions + SPARE_POSITIONS;
    struct kv_cache kv = {.k = op_kv(d, type, n_ctx, h.n_kv * h.dim), .v = op_kv(d, type, n_ctx, h.n_kv * h.dim)};
    struct tensor q = op_random(d, c.n, h.n * h.dim, c.sigma), y = op_tensor(d, SC_F32, c.n, h.n * h.dim);
    struct tensor partial = op_tensor(d, SC_F32, c.n * h.n * c.n_splits, h.dim + 4), step = op_tensor(d, SC_F32, 1, 4);
    struct tensor done = op_tensor(d, SC_F32, 1, attention_tiles(c.n, h) * h.n_kv);
    memset(op_words(d, done), 0, tensor_size_bytes(&done)); /* and 0 again in the end: nothing says that it changes */
    op_words(d, step)[0] = c.n_past;
    op_words(d, step)[1] = c.n;
    float *k = op_kv_fill(d, kv.k, n_positions, h.n_kv * h.dim);
    float *v = op_kv_fill(d, kv.v, n_positions, h.n_kv * h.dim);
    op_attention(&d->commands, y, q, kv, partial, done, step, h);
    op_writes(d, y);
    if (c.n_splits > 1)
        op_writes(d, partial);
    op_judge_run(j, d);

    const struct attention_shape shape = {c.n_heads,  c.n_kv_heads, c.head_dim, c.n_past,
                                          c.n_splits, c.window,     in_halves};
    struct bounded want[256];
    for (uint32_t t = 0; t < c.n; t++)
        for (uint32_t head = 0; head < h.n; head++) {
            reference_attention(want, op_floats(d, q), k, v, shape, t, c.n, head);
            for (uint32_t i = 0; i < h.dim; i++)
                op_judge_value(j, t, head * h.dim + i, (double)op_floats(d, y)[(t * h.n + head) * h.dim + i],
                               want[i].value, want[i].bound);
        }
    free(k);
    free(v);
    return y;
}

/* Of other types than f16, variants that the device would not take unasked compute every second case: to compile them
 * takes longest. */
static bool takes_case(const struct op_device *d, enum family family, uint32_t variant, enum sc_type type,
                       size_t number)
{
    uint32_t first = 0;
    while (!variant_is_usable(d->gpu, family, first, type))
        first++;
    return variant == first || type == SC_F16 || (uint32_t)number % 2 == variant % 2;
}

static void check_variant(struct op_device *d, enum family family, uint32_t variant, enum sc_type type)
{
    const struct variant *v = op_use_variant(d, family, variant, type);
    struct op_judge judge = {0};
    for (size_t i = 0; v && i < op_n_attention_cases; i++)
        if (family_of(op_attention_cases[i]) == family && op_kv_has_heads(type, op_attention_cases[i].head_dim) &&
            takes_case(d, family, variant, type, i))
            (void)check_case(&judge, d, op_attention_cases[i], type, 1 + i);
    if (v)
        op_judge_report(&judge, "%s, %s, %s cache", family_names[family], v->name, sc_type_name(type));
    d->gpu->choices.forced[family] = 0;
}

static void check_family(struct op_device *d, enum family family)
{
    uint32_t n;
    (void)family_variants(family, &n);
    for (uint32_t variant = 0; variant < n; variant++)
        for (uint32_t t = 0; t < OP_N_KV_TYPES; t++)
            check_variant(d, family, variant, op_kv_types[t]);
}

static void test_few(void **state)
{
    check_family(*state, FAMILY_ATTENTION);
}

static void test_many(void **state)
{
    check_family(*state, FAMILY_ATTENTION_MANY);
}

/* The result of a case, to be freed; *n_dispatches: into how many it was cut where so much work was wanted of each. */
static float *run_cut(struct op_device *d, struct attention_case c, double piece_work, uint32_t *n_dispatches)
{
    const double usual = d->gpu->piece_work;
    const uint64_t n_bytes = (uint64_t)c.n * c.n_heads * c.head_dim * sizeof(float);
    struct op_judge judge = {0};
    float *y = malloc(n_bytes);
    assert_non_null(y);
    d->gpu->piece_work = piece_work;
    const struct tensor got = check_case(&judge, d, c, SC_F16, 7);
    d->gpu->piece_work = usual;
    *n_dispatches = d->commands.n_dispatches;
    memcpy(y, op_floats(d, got), n_bytes);
    return y;
}

static void test_bits_of_cuts(void **state)
{
    static const struct attention_case cases[] = {{4, 2, 32, 130, 70, 1, 1, 0}, {8, 2, 64, 9, 700, 5, 1, 300}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t n_whole, n_cut;
        float *whole = run_cut(*state, cases[i], 1e18, &n_whole), *cut = run_cut(*state, cases[i], 1, &n_cut);
        assert_int_equal(n_whole, 1);
        assert_true(n_cut > 2);
        assert_memory_equal(whole, cut, (size_t)cases[i].n * cases[i].n_heads * cases[i].head_dim * sizeof(float));
        free(whole);
        free(cut);
    }
}

/* One query over every length up to three steps of 64, and every number of splits up to 5. */
static void test_every_length(void **state)
{
    struct op_judge judge = {0};
    for (uint32_t n_past = 0; n_past < 193; n_past++) {
        const struct attention_case c = {2, 1, 8, 1, n_past, 1 + n_past % 5, 2, n_past % 7 ? 0 : n_past / 2 + 1};
        (void)check_case(&judge, *state, c, n_past % 2 ? SC_F16 : SC_F32, 100 + n_past);
    }
    op_judge_report(&judge, "attention, every length");
}

/* Scores hundreds apart, so that most weights are 0 and the maximum jumps: exp must not overflow on the way. */
static void test_sharp(void **state)
{
    struct op_judge judge = {0};
    for (uint32_t splits = 1; splits <= 4; splits++)
        (void)check_case(&judge, *state, (struct attention_case){2, 1, 16, 3, 200, splits, 100, 0}, SC_F32,
                         500 + splits);
    op_judge_report(&judge, "attention, sharp");
}

/* Deeper than 16 bits count, in decode and in a prompt, with all pieces and with one. */
static void test_deep(void **state)
{
    static const struct attention_case cases[] = {
        {4, 2, 32, 1, 69999, ATTENTION_MAX_PIECES, 1, 0},
        {2, 1, 32, 1, 65536, 1, 8, 0},
        {3, 1, 32, 5, 66000, 7, 4, 0},
        {2, 1, 32, 9, 68000, 2, 1, 66000},
    };
    struct op_judge judge = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (uint32_t t = 0; t < OP_N_KV_TYPES; t++)
            (void)check_case(&judge, *state, cases[i], op_kv_types[t], 600 + i);
    op_judge_report(&judge, "attention, deep");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_few),   cmocka_unit_test(test_many), cmocka_unit_test(test_every_length),
        cmocka_unit_test(test_sharp), cmocka_unit_test(test_deep), cmocka_unit_test(test_bits_of_cuts),
    };
    return cmocka_run_group_tests(tests, op_device_create, op_device_destroy);
}
