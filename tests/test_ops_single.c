/* SPDX-License-Identifier: Apache-2.0 */
/* The fused operations of a single token, every weight type, by each variant that the device has. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model_builder.h"
#include "op_cases.h"
#include "op_device.h"
#include "op_reference.h"

enum { MAX_COLUMNS = 2048, OFFSET_BYTES = 48 };

static const float EPS = 1e-5F;

/* x, and an RMSNorm of it. */
struct input {
    struct tensor x;
    struct norm norm;
    double normed[MAX_COLUMNS];
    float nearly[MAX_COLUMNS]; /* the same in fp32 */
};

static void make_input(struct input *in, struct op_device *d, uint32_t cols)
{
    in->x = op_random(d, 1, cols, 3);
    in->norm = (struct norm){.w = op_random(d, 1, cols, 1), .eps = EPS};
    const float *x = op_floats(d, in->x), *w = op_floats(d, in->norm.w);
    double squares = 0;
    for (uint32_t i = 0; i < cols; i++)
        squares += (double)x[i] * (double)x[i];
    for (uint32_t i = 0; i < cols; i++) {
        in->normed[i] = (double)x[i] / sqrt(squares / cols + (double)EPS) * (double)w[i];
        in->nearly[i] = (float)in->normed[i];
    }
}

/* One row of a (rows, cols) matrix times the norm of x, and what the variant may be off by. */
static struct bounded normed_dot(struct op_device *d, const struct variant *v, struct tensor w, uint32_t row,
                                 const struct input *in)
{
    float weights[MAX_COLUMNS];
    op_expand(d, w, row, 1, weights);
    struct sum s = {0};
    for (uint32_t i = 0; i < w.cols; i++) {
        s.value += (double)weights[i] * in->normed[i];
        s.magnitude += fabs((double)weights[i] * in->normed[i]);
        s.x_magnitude += fabs(in->normed[i]);
    }
    return (struct bounded){s.value, reference_dot_bound(s, w.cols, v->roundings(v, w.cols)) +
                                         reference_rounding_bound(v->rounding, s, weights, in->nearly, w.cols)};
}

static struct tensor make_weights(struct op_device *d, enum sc_type type, uint32_t rows, uint32_t cols)
{
    return op_weights(d, type, rows, cols, OP_FILL_RANDOM);
}

/* The angles of a position for one token. */
static struct tensor make_angles(struct op_device *d, uint32_t n_rot, uint32_t position)
{
    struct tensor angles = op_tensor(d, SC_F32, 1, n_rot);
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        const double angle = position * pow(10000, -2.0 * i / n_rot);
        op_floats(d, angles)[2 * i] = (float)cos(angle);
        op_floats(d, angles)[2 * i + 1] = (float)sin(angle);
    }
    return angles;
}

/* Turns two neighbours, as RoPE does with q and k. */
static void turn(struct bounded v[2], const float *angle)
{
    const struct bounded a = v[0], b = v[1];
    const double c = (double)angle[0], s = (double)angle[1], wrong = fabs(c) * a.bound + fabs(s) * b.bound;
    v[0].value = a.value * c - b.value * s;
    v[1].value = a.value * s + b.value * c;
    for (int i = 0; i < 2; i++) /* two products, a sum; and the bound's own share of them */
        v[i].bound = (wrong + fabs(s) * a.bound + fabs(c) * b.bound + 1.5 * OP_EPS * (fabs(a.value) + fabs(b.value))) *
                     OP_SECOND_ORDER;
}

static const struct qkv_case {
    uint32_t n_heads, n_kv_heads, head_dim, n_rot, cols, n_past;
} qkv_cases[] = {{4, 2, 32, 32, 256, 0}, {6, 1, 64, 32, 512, 77}, {2, 2, 4, 2, 768, 3}, {3, 3, 20, 20, 2048, 1000}};

static double cache_value(const struct op_device *d, struct tensor cache, size_t index)
{
    if (cache.type == SC_F32)
        return (double)op_floats(d, cache)[index];
    float value;
    sc_type_info(SC_F16)->dequantize((const uint8_t *)op_host(d, cache.address) + 2 * index, &value, 1);
    return (double)value;
}

static void check_qkv(struct op_judge *j, struct op_device *d, const struct variant *v, struct qkv_case c,
                      const enum sc_type types[3], enum sc_type kv_type, uint64_t seed)
{
    op_case(j, d, seed, "%s %s %s, %u + %u heads of %u, %u turned, %u columns, position %u, %s",
            sc_type_info(types[0])->name, sc_type_info(types[2])->name, v->name, c.n_heads, c.n_kv_heads, c.head_dim,
            c.n_rot, c.cols, c.n_past, sc_type_info(kv_type)->name);
    const uint32_t kv_cols = c.n_kv_heads * c.head_dim, cols[3] = {c.n_heads * c.head_dim, kv_cols, kv_cols};
    struct input in;
    make_input(&in, d, c.cols);
    struct tensor w[3], q = op_tensor(d, SC_F32, 1, cols[0]), unused = op_tensor(d, SC_F32, 1, kv_cols);
    for (uint32_t i = 0; i < 3; i++)
        w[i] = make_weights(d, types[i], cols[i], c.cols);
    const struct kv_cache kv = {op_tensor(d, kv_type, c.n_past + 2, kv_cols),
                                op_tensor(d, kv_type, c.n_past + 2, kv_cols)};
    const struct tensor angles = make_angles(d, c.n_rot, c.n_past),
                        step = op_tensor(d, SC_F32, 1, sizeof(struct step) / 4);
    *(struct step *)op_host(d, step.address) = (struct step){.n_past = c.n_past, .n_tokens = 1};
    op_qkv(&d->commands, kv, q, unused, unused, w, in.x, in.norm, angles, step,
           (struct heads){.n = c.n_heads, .n_kv = c.n_kv_heads, .dim = c.head_dim, .n_rot = c.n_rot});
    op_writes(d, q);
    op_writes_rows(d, kv.k, c.n_past, 1);
    op_writes_rows(d, kv.v, c.n_past, 1);
    op_judge_run(j, d);

    const struct tensor to[3] = {q, kv.k, kv.v};
    for (uint32_t i = 0; i < 3; i++)
        for (uint32_t row = 0; row < cols[i]; row += 2) {
            struct bounded want[2] = {normed_dot(d, v, w[i], row, &in), normed_dot(d, v, w[i], row + 1, &in)};
            const uint32_t in_head = row % c.head_dim;
            if (i < 2 && in_head < c.n_rot)
                turn(want, op_floats(d, angles) + in_head);
            for (uint32_t k = 0; k < 2; k++) {
                const size_t at = (i == 0 ? 0 : (size_t)c.n_past * kv_cols) + row + k;
                if (to[i].type == SC_F16)
                    want[k].bound += half_spacing(fabs(want[k].value) + want[k].bound) / 2;
                op_judge_value(j, i, row + k, cache_value(d, to[i], at), want[k].value, want[k].bound);
            }
        }
}

/*
 * Calls `check` for every variant of the family, a third of the types, each family another one, and each of n cases.
 * What knows types is shared by all these kernels and matvec, which test_ops_linear tests with every one; compiling is
 * slow.
 */
static void for_each(struct op_device *d, enum family family, size_t n_cases,
                     void (*check)(struct op_judge *, struct op_device *, const struct variant *, enum sc_type, size_t))
{
    uint32_t n;
    size_t n_types;
    const struct sc_type_info *types = sc_types(&n_types);
    (void)family_variants(family, &n);
    for (uint32_t variant = 0; variant < n; variant++) {
        struct op_judge judge = {0};
        const struct variant *v = NULL;
        for (size_t i = 0; i < n_types * n_cases; i++) {
            const enum sc_type type = types[i % n_types].type;
            if ((i % n_types + family) % 3 || !op_takes_case(d, family, variant, type, i / n_types) ||
                !op_use_variant(d, family, variant, type))
                continue;
            v = op_use_variant(d, family, variant, type);
            check(&judge, d, v, type, i / n_types);
        }
        if (v)
            op_judge_report(&judge, "%s, %s", family_names[family], v->name);
    }
}

static void qkv_case(struct op_judge *j, struct op_device *d, const struct variant *v, enum sc_type type, size_t i)
{
    /* the last two of another type now and then: then it takes more than one dispatch */
    const enum sc_type types[3] = {type, i % 4 == 3 ? SC_F32 : type, i % 4 >= 2 ? SC_Q6_K : type};
    const enum sc_type kv_type = (i + type) % 2 ? SC_F16 : SC_F32;
    check_qkv(j, d, v, qkv_cases[i], types, kv_type, 100 * i + type);
}

static void test_qkv(void **state)
{
    for_each(*state, FAMILY_QKV, sizeof qkv_cases / sizeof qkv_cases[0], qkv_case);
}

static const struct ffn_case {
    uint32_t rows, cols, n_experts, n_used; /* n_experts 0: dense */
    uint32_t missing;                       /* how many of those chosen have no slot */
} ffn_cases[] = {{3, 256, 0, 1, 0}, {70, 512, 8, 2, 0}, {33, 768, 5, 3, 1}, {130, 2048, 2, 1, 0}, {9, 256, 128, 8, 2}};

/* Weights of those experts that are chosen, in the matrices of their slots, and the choice. */
struct chosen {
    struct routing r;
    struct tensor table, w[2][16]; /* (matrix, k) */
    uint32_t ids[16];
};

static void choose(struct chosen *x, struct op_device *d, enum sc_type type, struct ffn_case c, uint32_t n_matrices)
{
    *x = (struct chosen){.r = {.ids = op_tensor(d, SC_F32, 1, c.n_used), .probs = op_random(d, 1, c.n_used, 1)},
                         .table = op_tensor(d, SC_F32, c.n_experts, 2)};
    memset(op_host(d, x->table.address), 0, (size_t)c.n_experts * 8);
    for (uint32_t k = 0; k < c.n_used; k++) {
        x->ids[k] = (uint32_t)(k * 37 + 1) % c.n_experts;
        op_words(d, x->r.ids)[k] = x->ids[k];
        for (uint32_t m = 0; m < n_matrices; m++) /* a slot: the matrices one behind the other */
            x->w[m][k] = make_weights(d, type, c.rows, c.cols);
        if (k + c.missing < c.n_used)
            ((VkDeviceAddress *)op_host(d, x->table.address))[x->ids[k]] = x->w[0][k].address - OFFSET_BYTES;
    }
}

static struct expert_tensor expert_tensor_of(const struct chosen *x, struct ffn_case c, enum sc_type type,
                                             uint32_t matrix)
{
    const uint32_t offset = (uint32_t)(x->w[matrix][0].address - x->w[0][0].address);
    return (struct expert_tensor){.slots = x->table.address,
                                  .offset = OFFSET_BYTES + offset,
                                  .n_experts = c.n_experts,
                                  .type = type,
                                  .rows = c.rows,
                                  .cols = c.cols};
}

static void gate_up_case(struct op_judge *j, struct op_device *d, const struct variant *v, enum sc_type type, size_t i)
{
    struct ffn_case c = ffn_cases[i];
    const struct sc_type_info *info = sc_type_info(type);
    /* a second matrix begins on a word of its own */
    c.rows += c.rows * (c.cols / info->block_size) * info->block_bytes % 4 ? 1 : 0;
    op_case(j, d, 100 * i + type, "%s %s, %ux%u, %u of %u experts, %u missing", info->name, v->name, c.rows, c.cols,
            c.n_used, c.n_experts, c.missing);
    struct input in;
    struct chosen x = {0};
    make_input(&in, d, c.cols);
    struct tensor y = op_tensor(d, SC_F32, c.n_used, c.rows);
    if (c.n_experts) {
        choose(&x, d, type, c, 2);
        op_expert_gate_up(&d->commands, y, expert_tensor_of(&x, c, type, 0), expert_tensor_of(&x, c, type, 1), in.x,
                          in.norm, x.r);
    } else {
        x.w[0][0] = make_weights(d, type, c.rows, c.cols);
        x.w[1][0] = make_weights(d, type, c.rows, c.cols);
        op_gate_up(&d->commands, y, x.w[0][0], x.w[1][0], in.x, in.norm);
    }
    op_writes_rows(d, y, 0, c.n_used - c.missing);
    op_judge_run(j, d);
    for (uint32_t k = 0; k + c.missing < c.n_used; k++)
        for (uint32_t row = 0; row < c.rows; row++) {
            const struct bounded g = normed_dot(d, v, x.w[0][k], row, &in), u = normed_dot(d, v, x.w[1][k], row, &in);
            struct bounded want = reference_silu_mul((float)g.value, (float)u.value);
            const double silu = g.value / (1 + exp(-g.value)); /* its slope is 1.1 at most */
            want.value = silu * u.value;
            want.bound += 1.1 * (g.bound + OP_EPS * fabs(g.value)) * (fabs(u.value) + u.bound) +
                          fabs(silu) * (u.bound + OP_EPS * fabs(u.value));
            op_judge_value(j, k, row, (double)op_floats(d, y)[k * c.rows + row], want.value, want.bound);
        }
}

static void test_gate_up(void **state)
{
    for_each(*state, FAMILY_GATE_UP, sizeof ffn_cases / sizeof ffn_cases[0], gate_up_case);
}

static void down_case(struct op_judge *j, struct op_device *d, const struct variant *v, enum sc_type type, size_t i)
{
    const struct ffn_case c = ffn_cases[i + 1]; /* without the dense one */
    const struct sc_type_info *info = sc_type_info(type);
    op_case(j, d, 100 * i + type, "%s %s, %ux%u, %u of %u experts, %u missing", info->name, v->name, c.rows, c.cols,
            c.n_used, c.n_experts, c.missing);
    struct chosen x;
    choose(&x, d, type, c, 1);
    struct tensor h = op_random(d, c.n_used, c.cols, 1), y = op_random(d, 1, c.rows, 1);
    op_expert_down(&d->commands, y, expert_tensor_of(&x, c, type, 0), h, x.r);
    op_writes(d, y);
    op_judge_run(j, d);
    float *weights = malloc(c.cols * sizeof *weights);
    assert_non_null(weights);
    for (uint32_t row = 0; row < c.rows; row++) {
        struct sum want = {.value = (double)op_floats_before(d, y)[row]};
        double rounding = 0;
        want.magnitude = fabs(want.value);
        for (uint32_t k = 0; k + c.missing < c.n_used; k++) {
            op_expand(d, x.w[0][k], row, 1, weights);
            const struct sum s = reference_dot(weights, op_floats(d, h) + k * c.cols, c.cols);
            const double prob = (double)op_floats(d, x.r.probs)[k];
            want.value += prob * s.value;
            want.magnitude += fabs(prob) * s.magnitude;
            want.x_magnitude += fabs(prob) * s.x_magnitude;
            rounding +=
                fabs(prob) * reference_rounding_bound(v->rounding, s, weights, op_floats(d, h) + k * c.cols, c.cols);
        }
        op_judge_value(j, 0, row, (double)op_floats(d, y)[row], want.value,
                       reference_dot_bound(want, c.cols * c.n_used, v->roundings(v, c.cols * c.n_used) + c.n_used) +
                           rounding);
    }
    free(weights);
}

static void test_down(void **state)
{
    for_each(*state, FAMILY_DOWN, sizeof ffn_cases / sizeof ffn_cases[0] - 1, down_case);
}

static const struct router_case {
    uint32_t n_experts, n_used, cols;
} router_cases[] = {{8, 2, 256}, {1, 1, 512}, {128, 8, 768}, {256, 16, 256}, {70, 3, 2048}};

/* Twice, because the counter has to be what it was. */
static void router_case(struct op_judge *j, struct op_device *d, const struct variant *v, enum sc_type type, size_t i)
{
    const struct router_case c = router_cases[i];
    const bool has_host = (i + type) % 2;
    op_case(j, d, 100 * i + type, "%s %s, %u of %u experts, %u columns%s", sc_type_info(type)->name, v->name, c.n_used,
            c.n_experts, c.cols, has_host ? ", for the host too" : "");
    struct input in;
    make_input(&in, d, c.cols);
    struct tensor w = make_weights(d, type, c.n_experts, c.cols), counter = op_tensor(d, SC_F32, 1, 1);
    struct tensor logits = op_tensor(d, SC_F32, 1, c.n_experts), normed = op_tensor(d, SC_F32, 1, c.cols);
    struct tensor copy = op_tensor(d, SC_F32, 1, c.n_used), none = {0};
    struct routing r = {.ids = op_tensor(d, SC_F32, 1, c.n_used),
                        .probs = op_tensor(d, SC_F32, 1, c.n_used),
                        .counter = counter.address,
                        .host_ids = has_host ? copy.address : 0};
    op_words(d, counter)[0] = 0;
    for (int round = 0; round < 2; round++)
        op_router(&d->commands, r, logits, w, in.x, in.norm, has_host ? normed : none);
    op_writes(d, logits);
    op_writes(d, r.ids);
    op_writes(d, r.probs);
    if (has_host) {
        op_writes(d, normed);
        op_writes(d, copy);
    }
    op_judge_run(j, d);

    for (uint32_t e = 0; e < c.n_experts; e++) {
        const struct bounded want = normed_dot(d, v, w, e, &in);
        op_judge_value(j, 0, e, (double)op_floats(d, logits)[e], want.value, want.bound);
    }
    for (uint32_t k = 0; k < c.cols && has_host; k++) {
        struct sum one = {in.normed[k], fabs(in.normed[k]), 1};
        op_judge_value(j, 1, k, (double)op_floats(d, normed)[k], one.value,
                       reference_dot_bound(one, 1, v->roundings(v, c.cols)));
    }
    uint32_t ids[16];
    struct bounded probs[16];
    reference_route(ids, probs, op_floats(d, logits), c.n_experts, c.n_used);
    for (uint32_t k = 0; k < c.n_used; k++) {
        op_judge_word(j, 2, k, op_words(d, r.ids)[k], ids[k]);
        if (has_host)
            op_judge_word(j, 3, k, op_words(d, copy)[k], ids[k]);
        op_judge_value(j, 2, k, (double)op_floats(d, r.probs)[k], probs[k].value, probs[k].bound);
    }
    assert_int_equal(op_words(d, counter)[0], 0);
}

static void test_router(void **state)
{
    for_each(*state, FAMILY_ROUTER, sizeof router_cases / sizeof router_cases[0], router_case);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qkv),
        cmocka_unit_test(test_gate_up),
        cmocka_unit_test(test_down),
        cmocka_unit_test(test_router),
    };
    return cmocka_run_group_tests(tests, op_device_create, op_device_destroy);
}
