/* SPDX-License-Identifier: Apache-2.0 */
/* The operations that are not matrix products: embed, rms_norm, rope_store, silu_mul, combine, route, group. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model_builder.h"
#include "op_cases.h"
#include "op_device.h"
#include "op_kv.h"
#include "op_reference.h"
#include "variants.h"

/*
 * Equal, not near: a block's value takes at most one rounding, whichever way it is computed. The products of a scale of
 * 11 bits, a sub-scale of up to 8 and a code of up to 8 are exact in 24, but q6_k's last (25 bits), and the minimum's
 * subtraction rounds an exact product's difference, fused or not.
 */
static void test_embed(void **state)
{
    struct op_device *d = *state;
    struct op_judge judge = {0};
    size_t n_types;
    const struct sc_type_info *types = sc_types(&n_types);
    float want[2048];
    for (size_t i = 0; i < n_types * op_n_embed_cases * OP_N_FILLS; i++) {
        const struct sc_type_info *info = &types[i % n_types];
        const struct embed_case c = op_embed_cases[i / n_types % op_n_embed_cases];
        const enum op_fill fill = (enum op_fill)(i / n_types / op_n_embed_cases);
        if (!op_type_has_columns(info, c.cols))
            continue;
        op_case(&judge, d, i, "%s %ux%u, %u tokens, %s", info->name, c.n_vocab, c.cols, c.n, op_fill_names[fill]);
        struct tensor w = op_weights(d, info->type, c.n_vocab, c.cols, fill), tokens = op_tensor(d, SC_F32, c.n, 1);
        struct tensor y = op_tensor(d, SC_F32, c.n, c.cols);
        for (uint32_t t = 0; t < c.n; t++)
            op_words(d, tokens)[t] = t == 0 ? c.n_vocab - 1 : (uint32_t)(random_u64(&d->seed) % c.n_vocab);
        op_embed(&d->commands, y, w, tokens, (struct tensor){0});
        op_writes(d, y);
        op_judge_run(&judge, d);
        for (uint32_t t = 0; t < c.n; t++) {
            op_expand(d, w, op_words(d, tokens)[t], 1, want);
            for (uint32_t col = 0; col < c.cols; col++) {
                /* any bits may be a subnormal of f32 and bf16, which a device may take for zero */
                const bool flushed = fabsf(want[col]) < FLT_MIN;
                op_judge_value(&judge, t, col, (double)op_floats(d, y)[t * c.cols + col], (double)want[col],
                               flushed ? (double)FLT_MIN : 0);
            }
        }
    }
    op_judge_report(&judge, "embed");
}

static void test_rms_norm(void **state)
{
    struct op_device *d = *state;
    struct op_judge judge = {0};
    static struct bounded want[8192];
    for (size_t i = 0; i < op_n_norm_cases; i++) {
        const struct norm_case c = op_norm_cases[i];
        op_case(&judge, d, i, "%u columns, %u tokens, sigma %g", c.cols, c.n, (double)c.sigma);
        struct tensor x = op_random(d, c.n, c.cols, c.sigma), w = op_random(d, 1, c.cols, 1);
        struct tensor y = op_tensor(d, SC_F32, c.n, c.cols);
        op_rms_norm(&d->commands, y, x, w, c.eps);
        op_writes(d, y);
        op_judge_run(&judge, d);
        for (uint32_t t = 0; t < c.n; t++) {
            reference_rms_norm(want, op_floats(d, x) + t * c.cols, op_floats(d, w), c.cols, c.eps);
            for (uint32_t col = 0; col < c.cols; col++)
                op_judge_value(&judge, t, col, (double)op_floats(d, y)[t * c.cols + col], want[col].value,
                               want[col].bound);
        }
    }
    op_judge_report(&judge, "rms_norm");
}

/* Value i of token t's head, turned; what is beyond n_rot stays. Two products and their sum: each term rounds twice. */
static struct bounded turned(const float *head, const float *angles, uint32_t i, uint32_t n_rot)
{
    if (i >= n_rot)
        return (struct bounded){(double)head[i], 0};
    const double cosine = (double)angles[i / 2 * 2], sine = (double)angles[i / 2 * 2 + 1];
    const double even = (double)head[i / 2 * 2], odd = (double)head[i / 2 * 2 + 1];
    const double a = i % 2 ? even * sine : even * cosine, b = i % 2 ? odd * cosine : -odd * sine;
    return (struct bounded){a + b, OP_EPS * OP_SECOND_ORDER * (fabs(a) + fabs(b)) + 2 * (double)FLT_MIN};
}

/*
 * Vulkan leaves open how it rounds to half: the result is one of the two halves around the value, itself if it is one.
 * Of q8_0 the scale is such a half, and the byte the nearest by the scale before it was one.
 */
static void judge_stored(struct op_judge *j, struct op_device *d, struct tensor cache, uint32_t row, uint32_t col,
                         struct bounded want)
{
    const double open = half_spacing(fabs(want.value) + want.bound) * (1 - 0x1p-20);
    if (cache.type == SC_F16)
        want.bound += open;
    if (cache.type == SC_Q8_0) {
        const double scale = (double)op_kv_scale(d, cache, row, col), off = half_spacing(scale);
        want.bound += (scale + off) * (0.5 + 4 * 127 * OP_EPS) + 127 * off;
    }
    op_judge_value(j, row, col, (double)op_kv_value(d, cache, row, col), want.value, want.bound);
}

/* The greatest of 32 values is 127 times their scale, as far as a half can tell. */
static void judge_scales(struct op_judge *j, struct op_device *d, struct tensor cache, uint32_t row,
                         const struct bounded *want, uint32_t n)
{
    for (uint32_t block = 0; cache.type == SC_Q8_0 && block < n; block += 32) {
        double most = 0, bound = 0;
        for (uint32_t i = block; i < block + 32; i++) {
            most = fmax(most, fabs(want[i].value));
            bound = fmax(bound, want[i].bound);
        }
        op_judge_value(j, row, block, (double)op_kv_scale(d, cache, row, block), most / 127,
                       bound / 127 + 3 * OP_EPS * most / 127 + half_spacing(most / 127));
    }
}

static void check_rope(struct op_judge *j, struct op_device *d, struct rope_case c, enum sc_type type, uint64_t seed)
{
    enum { SPARE_POSITIONS = 3 };
    op_case(j, d, seed, "%s cache, %u heads on %u of %u, %u turned, %u tokens after %u", sc_type_name(type), c.n_heads,
            c.n_kv_heads, c.head_dim, c.n_rot, c.n, c.n_past);
    const struct heads h = {.n = c.n_heads, .n_kv = c.n_kv_heads, .dim = c.head_dim, .n_rot = c.n_rot};
    const uint32_t n_q = h.n * h.dim, n_k = h.n_kv * h.dim, n_ctx = c.n_past + c.n + SPARE_POSITIONS;
    struct kv_cache kv = {.k = op_kv(d, type, n_ctx, n_k), .v = op_kv(d, type, n_ctx, n_k)};
    struct tensor q = op_random(d, c.n, n_q, 1), k = op_random(d, c.n, n_k, 1), v = op_random(d, c.n, n_k, 1);
    struct tensor angles = op_tensor(d, SC_F32, c.n, c.n_rot), step = op_tensor(d, SC_F32, 1, 4);
    for (uint32_t i = 0; i < c.n * c.n_rot / 2; i++) {
        const double angle = 6.3 * (double)(random_u64(&d->seed) >> 40) * 0x1p-24;
        op_floats(d, angles)[2 * i] = (float)cos(angle);
        op_floats(d, angles)[2 * i + 1] = (float)sin(angle);
    }
    op_words(d, step)[0] = c.n_past;
    op_words(d, step)[1] = c.n;
    for (uint32_t i = 0; i < n_k; i += 3) /* a half already: must be stored as it is */
        op_floats(d, v)[i] = sc_half_to_float(half_of(op_floats(d, v)[i]));
    op_rope_store(&d->commands, kv, q, k, v, angles, step, h);
    op_writes(d, q);
    op_writes_rows(d, kv.k, c.n_past, c.n);
    op_writes_rows(d, kv.v, c.n_past, c.n);
    op_judge_run(j, d);

    for (uint32_t t = 0; t < c.n; t++) {
        const float *turn = op_floats(d, angles) + t * c.n_rot;
        for (uint32_t i = 0; i < n_q; i++) {
            const float *head = op_floats_before(d, q) + t * n_q + i / h.dim * h.dim;
            const struct bounded want = turned(head, turn, i % h.dim, h.n_rot);
            op_judge_value(j, t, i, (double)op_floats(d, q)[t * n_q + i], want.value, want.bound);
        }
        static struct bounded want_k[2048], want_v[2048];
        for (uint32_t i = 0; i < n_k; i++) {
            const float *head = op_floats(d, k) + t * n_k + i / h.dim * h.dim;
            want_k[i] = turned(head, turn, i % h.dim, h.n_rot);
            want_v[i] = (struct bounded){(double)op_floats(d, v)[t * n_k + i], 0};
            judge_stored(j, d, kv.k, c.n_past + t, i, want_k[i]);
            judge_stored(j, d, kv.v, c.n_past + t, i, want_v[i]);
        }
        judge_scales(j, d, kv.k, c.n_past + t, want_k, n_k);
        judge_scales(j, d, kv.v, c.n_past + t, want_v, n_k);
    }
}

static void test_rope_store(void **state)
{
    struct op_judge judge = {0};
    for (size_t i = 0; i < op_n_rope_cases; i++)
        for (uint32_t t = 0; t < OP_N_KV_TYPES; t++)
            if (op_kv_has_heads(op_kv_types[t], op_rope_cases[i].head_dim))
                check_rope(&judge, *state, op_rope_cases[i], op_kv_types[t], 100 * t + i);
    op_judge_report(&judge, "rope_store");
}

/* What is no number stays so in every cache: with q8_0 its whole block. */
static void test_store_nan(void **state)
{
    enum { KEY = 5, VALUE = 100 };
    static const uint32_t nans[] = {0x7fc00000, 0xffc00000};
    static const struct heads h = {.n = 4, .n_kv = 2, .dim = 64, .n_rot = 0};
    struct op_device *d = *state;
    struct op_judge j = {0};
    for (uint32_t i = 0; i < 2 * OP_N_KV_TYPES; i++) {
        const enum sc_type type = op_kv_types[i / 2];
        op_case(&j, d, i, "%s cache, NaN %08x", sc_type_name(type), nans[i % 2]);
        const uint32_t n_q = h.n * h.dim, n_k = h.n_kv * h.dim;
        const struct kv_cache kv = {.k = op_kv(d, type, 1, n_k), .v = op_kv(d, type, 1, n_k)};
        const struct tensor q = op_random(d, 1, n_q, 1), k = op_random(d, 1, n_k, 1), v = op_random(d, 1, n_k, 1);
        const struct tensor angles = op_tensor(d, SC_F32, 1, 0), step = op_tensor(d, SC_F32, 1, 4);
        op_words(d, step)[0] = 0;
        op_words(d, step)[1] = 1;
        op_words(d, k)[KEY] = op_words(d, v)[VALUE] = nans[i % 2];
        op_rope_store(&d->commands, kv, q, k, v, angles, step, h);
        op_writes(d, q);
        op_writes(d, kv.k);
        op_writes(d, kv.v);
        op_judge_run(&j, d);
        for (uint32_t c = 0; c < n_k; c++) {
            const bool in_key = type == SC_Q8_0 ? c / 32 == KEY / 32 : c == KEY;
            const bool in_value = type == SC_Q8_0 ? c / 32 == VALUE / 32 : c == VALUE;
            if (isnan(op_kv_value(d, kv.k, 0, c)) != in_key || isnan(op_kv_value(d, kv.v, 0, c)) != in_value)
                fail_msg("%s: column %u", j.what, c);
        }
    }
}

static void test_silu_mul(void **state)
{
    static const float edges[] = {0,     -0.0f,  1e-30f, -1e-30f, 20,    -20,    60,   -60,   86,    -86,
                                  87.4f, -87.4f, 88.8f,  -88.8f,  90,    -90,    104,  -104,  1000,  -1000,
                                  1e10f, -1e10f, 3e38f,  -3e38f,  1e-7f, -1e-7f, 0.5f, -0.5f, 16.7f, -16.7f};
    struct op_device *d = *state;
    struct op_judge judge = {0};
    for (size_t i = 0; i < op_n_silu_cases; i++) {
        const struct silu_case c = op_silu_cases[i];
        op_case(&judge, d, i, "%u x %u, sigma %g", c.rows, c.cols, (double)c.sigma);
        struct tensor gate = op_random(d, c.rows, c.cols, c.sigma), up = op_random(d, c.rows, c.cols, 0.5f);
        for (uint32_t k = 0; k < sizeof edges / sizeof edges[0] && i % 2 == 1 && k < c.cols; k++)
            op_floats(d, gate)[k] = edges[k];
        op_silu_mul(&d->commands, gate, up);
        op_writes(d, gate);
        op_judge_run(&judge, d);
        for (uint32_t k = 0; k < c.rows * c.cols; k++) {
            const struct bounded want = reference_silu_mul(op_floats_before(d, gate)[k], op_floats(d, up)[k]);
            op_judge_value(&judge, k / c.cols, k % c.cols, (double)op_floats(d, gate)[k], want.value, want.bound);
        }
    }
    op_judge_report(&judge, "silu_mul");
}

static void test_combine(void **state)
{
    struct op_device *d = *state;
    struct op_judge judge = {0};
    for (size_t i = 0; i < op_n_combine_cases; i++) {
        const struct combine_case c = op_combine_cases[i];
        op_case(&judge, d, i, "%u columns, %u experts, %u tokens", c.n_embd, c.n_used, c.n);
        struct tensor x = op_random(d, c.n, c.n_embd, 1), y = op_random(d, c.n * c.n_used, c.n_embd, 1);
        struct routing r = {.probs = op_random(d, c.n, c.n_used, 0.5f)};
        op_combine(&d->commands, x, y, r);
        op_writes(d, x);
        op_judge_run(&judge, d);
        for (uint32_t t = 0; t < c.n; t++)
            for (uint32_t k = 0; k < c.n_embd; k++) {
                const struct bounded want =
                    reference_combine(op_floats_before(d, x)[t * c.n_embd + k], op_floats(d, r.probs) + t * c.n_used,
                                      op_floats(d, y) + t * c.n_used * c.n_embd + k, c.n_used, c.n_embd);
                op_judge_value(&judge, t, k, (double)op_floats(d, x)[t * c.n_embd + k], want.value, want.bound);
            }
    }
    op_judge_report(&judge, "combine");
}

/* What a router may give: kinds of rows in turn. */
static void fill_logits(struct op_device *d, float *logits, uint32_t n, uint32_t kind)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t bits = (uint32_t)(random_u64(&d->seed) >> 32);
        logits[i] = 3 * random_normal(&d->seed);
        switch (kind % 8) {
        case 1: logits[i] = 0; break;                 /* all tie */
        case 2: logits[i] = (float)(bits % 3); break; /* many tie */
        case 3: logits[i] = bits % 4 == 0 ? NAN : logits[i]; break;
        case 4: logits[i] = bits % 2 ? -INFINITY : logits[i]; break;
        case 5: logits[i] = i == n / 2 ? 1 : (bits % 2 ? -INFINITY : NAN); break; /* one that counts */
        case 6: logits[i] *= 30; break;                                           /* far apart */
        case 7: logits[i] = bits % 2 ? -0.0f : 0.0f; break;                       /* equal, though not in bits */
        default: break;
        }
    }
}

static void test_route(void **state)
{
    struct op_device *d = *state;
    struct op_judge judge = {0};
    for (size_t i = 0; i < 2 * op_n_route_cases; i++) {
        const struct route_case c = op_route_cases[i / 2];
        const uint32_t n = c.n < 8 ? 8 : c.n; /* all kinds of rows */
        const bool host = i % 2;
        op_case(&judge, d, i, "%u of %u experts, %u tokens", c.n_used, c.n_experts, n);
        struct tensor logits = op_tensor(d, SC_F32, n, c.n_experts);
        struct routing r = {.ids = op_tensor(d, SC_F32, n, c.n_used), .probs = op_tensor(d, SC_F32, n, c.n_used)};
        struct tensor copy = op_tensor(d, SC_F32, n, c.n_used);
        for (uint32_t t = 0; t < n; t++)
            fill_logits(d, op_floats(d, logits) + t * c.n_experts, c.n_experts, t);
        if (host) {
            r.host_ids = copy.address;
            op_writes(d, copy);
        }
        op_route(&d->commands, r, logits);
        op_writes(d, r.ids);
        op_writes(d, r.probs);
        op_judge_run(&judge, d);
        for (uint32_t t = 0; t < n; t++) {
            uint32_t ids[16];
            struct bounded probs[16];
            reference_route(ids, probs, op_floats(d, logits) + t * c.n_experts, c.n_experts, c.n_used);
            for (uint32_t k = 0; k < c.n_used; k++) {
                op_judge_word(&judge, t, k, op_words(d, r.ids)[t * c.n_used + k], ids[k]);
                if (host)
                    op_judge_word(&judge, t, k, op_words(d, copy)[t * c.n_used + k], ids[k]);
                if (!isnan(probs[k].value))
                    op_judge_value(&judge, t, k, (double)op_floats(d, r.probs)[t * c.n_used + k], probs[k].value,
                                   probs[k].bound);
            }
        }
    }
    op_judge_report(&judge, "route");
}

/* Logits without any that counts still name experts that exist, each once: nothing may be read out of bounds. */
static void test_route_nothing(void **state)
{
    struct op_device *d = *state;
    struct op_judge judge = {0};
    for (int kind = 0; kind < 2; kind++) {
        op_case(&judge, d, 1, kind ? "all NaN" : "all -inf");
        struct tensor logits = op_tensor(d, SC_F32, 1, 70);
        struct routing r = {.ids = op_tensor(d, SC_F32, 1, 16), .probs = op_tensor(d, SC_F32, 1, 16)};
        for (int i = 0; i < 70; i++)
            op_floats(d, logits)[i] = kind ? NAN : -INFINITY;
        op_route(&d->commands, r, logits);
        op_writes(d, r.ids);
        op_writes(d, r.probs);
        op_judge_run(&judge, d);
        for (uint32_t k = 0; k < 16; k++)
            op_judge_word(&judge, 0, k, op_words(d, r.ids)[k], k);
    }
}

static void test_group(void **state)
{
    struct op_device *d = *state;
    d->gpu->piece_work = 1e18; /* a grid of all rows */
    struct op_judge judge = {0};
    const struct expert_case long_prompt = {.n_experts = 256, .n_used = 8, .n = 4096, .rows = 1};
    for (size_t i = 0; i <= op_n_expert_cases; i++) {
        const struct expert_case c = i < op_n_expert_cases ? op_expert_cases[i] : long_prompt;
        const uint32_t n_pairs = c.n * c.n_used;
        op_case(&judge, d, i, "%u pairs, %u experts", n_pairs, c.n_experts);
        struct routing r = op_routing(d, c.n, c.n_used, c.n_experts);
        for (uint32_t p = 0; p < n_pairs; p++) /* every third expert has no pair, unless it is the only one */
            do
                op_words(d, r.ids)[p] = (uint32_t)(random_u64(&d->seed) % c.n_experts);
            while (c.n_experts > 1 && op_words(d, r.ids)[p] % 3 == i % 3);
        const struct variant *v =
            variant_of(d->gpu, n_pairs > 16 * c.n_experts ? FAMILY_MATMUL : FAMILY_MATMUL_FEW, SC_F32, c.rows, c.cols);
        op_group_all(d, r,
                     (struct expert_tensor){.n_experts = c.n_experts, .type = SC_F32, .rows = c.rows, .cols = c.cols});
        op_judge_run(&judge, d);
        uint32_t n = 0, n_tiles = 0;
        for (uint32_t e = 0; e < c.n_experts; e++) {
            const uint32_t first = n;
            op_judge_word(&judge, 0, e, op_words(d, r.first)[e], n);
            for (uint32_t p = 0; p < n_pairs; p++)
                if (op_words(d, r.ids)[p] == e) {
                    op_judge_word(&judge, 1, n, op_words(d, r.pairs)[n], p);
                    n++;
                }
            for (uint32_t at = first; at < n; at += v->tile_columns, n_tiles++) {
                for (uint32_t m = 0; m < 3; m++) {
                    const uint32_t *tile = op_words(d, r.tiles) + m * r.tiles.rows / 3 * 2 + 2 * n_tiles;
                    op_judge_word(&judge, 2 + m, n_tiles, tile[0], e);
                    op_judge_word(&judge, 2 + m, n_tiles, tile[1], at);
                }
            }
        }
        for (uint32_t m = 0; m < 3; m++) {
            const uint32_t *grid = op_words(d, r.grids) + 4 * m;
            op_judge_word(&judge, 5, 4 * m, grid[0], n_tiles);
            op_judge_word(&judge, 5, 4 * m + 1, grid[1], (c.rows + v->tile_rows - 1) / v->tile_rows);
            op_judge_word(&judge, 5, 4 * m + 2, grid[2], 1);
        }
        op_judge_word(&judge, 0, c.n_experts, op_words(d, r.first)[c.n_experts], n_pairs);
    }
    op_judge_report(&judge, "group");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed),     cmocka_unit_test(test_rms_norm),      cmocka_unit_test(test_rope_store),
        cmocka_unit_test(test_store_nan), cmocka_unit_test(test_silu_mul),      cmocka_unit_test(test_combine),
        cmocka_unit_test(test_route),     cmocka_unit_test(test_route_nothing), cmocka_unit_test(test_group),
    };
    return cmocka_run_group_tests(tests, op_device_create, op_device_destroy);
}
