/* SPDX-License-Identifier: Apache-2.0 */
/* Command streams: barriers where there is a hazard and nowhere else, replaying, equal bits, errors while recording. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "op_cases.h"
#include "op_device.h"

enum { N_VECTORS = 8, COLUMNS = 64, MAX_STEPS = 6 };

/* gate of one vector by another (writes the first), or a copy of one to another */
struct hazard_case {
    const char *what;
    struct {
        char op; /* s: silu_mul(a, b), reads and writes a, reads b; n: rms_norm(a, b), writes a, reads b; c: copy b to a
                  */
        int a, b;
    } steps[MAX_STEPS];
    uint32_t n_barriers;
};

static const struct hazard_case hazard_cases[] = {
    {"nothing", {{0}}, 0},
    {"alone", {{'s', 0, 1}}, 0},
    {"independent", {{'s', 0, 1}, {'s', 2, 3}, {'n', 4, 5}}, 0},
    {"neighbours that touch", {{'n', 0, 2}, {'n', 1, 3}}, 0},
    {"two readers", {{'n', 0, 2}, {'n', 1, 2}}, 0},
    {"read after write", {{'n', 0, 1}, {'n', 2, 0}}, 1},
    {"write after read", {{'n', 0, 1}, {'n', 1, 2}}, 1},
    {"write after write", {{'n', 0, 1}, {'n', 0, 2}}, 1},
    {"a chain", {{'n', 0, 1}, {'n', 2, 0}, {'n', 3, 2}, {'n', 4, 3}}, 3},
    {"a fork and a join", {{'n', 1, 0}, {'n', 2, 1}, {'n', 3, 1}, {'s', 2, 3}}, 2},
    {"forgotten behind a barrier", {{'n', 0, 1}, {'n', 2, 0}, {'n', 3, 1}, {'n', 4, 0}}, 1},
    {"remembered behind a barrier", {{'n', 0, 1}, {'n', 2, 0}, {'n', 3, 4}, {'n', 4, 5}}, 2},
    {"copy, then read", {{'c', 0, 1}, {'n', 2, 0}}, 1},
    {"read, then copy over it", {{'n', 2, 0}, {'c', 0, 1}}, 1},
    {"copy what was written", {{'n', 0, 1}, {'c', 2, 0}}, 1},
    {"copies apart", {{'c', 0, 1}, {'c', 2, 1}, {'c', 3, 4}}, 0},
};

static struct tensor vectors(struct op_device *d)
{
    return op_random(d, N_VECTORS, COLUMNS, 1);
}

static struct tensor vector(struct tensor all, int i)
{
    all.address += (VkDeviceAddress)i * COLUMNS * sizeof(float);
    all.rows = 1;
    return all;
}

static void record(struct op_device *d, struct tensor all, char op, int ia, int ib, struct tensor ones)
{
    const struct tensor a = vector(all, ia), b = vector(all, ib);
    if (op == 's')
        op_silu_mul(&d->commands, a, b);
    else if (op == 'n')
        op_rms_norm(&d->commands, a, b, ones, 1e-5f);
    else if (op == 'c')
        commands_copy(&d->commands, &d->memory, b.address - d->memory.address, &d->memory,
                      a.address - d->memory.address, tensor_size_bytes(&a));
}

static void test_hazards(void **state)
{
    struct op_device *d = *state;
    for (size_t i = 0; i < sizeof hazard_cases / sizeof hazard_cases[0]; i++) {
        const struct hazard_case *c = &hazard_cases[i];
        op_begin(d, i);
        struct tensor all = vectors(d), ones = op_random(d, 1, COLUMNS, 1);
        for (int k = 0; k < MAX_STEPS; k++)
            record(d, all, c->steps[k].op, c->steps[k].a, c->steps[k].b, ones);
        if (!op_run(d))
            fail_msg("%s: %s", c->what, d->error.text);
        if (d->commands.n_barriers != c->n_barriers)
            fail_msg("%s: %u barriers, not %u", c->what, d->commands.n_barriers, c->n_barriers);
    }
}

/* Each operation with all the activations that it touches; weights and tables are written before the stream begins. */
enum { MAX_TOUCHED = 7, TOKENS = 3, EXPERTS = 4, USED = 2, DIM = 8, WIDE = 32 };

enum operation {
    EMBED,
    RMS_NORM,
    MATVEC,
    MATMUL,
    MATMUL_ADD,
    ROPE_STORE,
    ATTENTION,
    ATTENTION_SPLIT,
    ROUTE,
    GROUP,
    EXPERTS_OF_ONE,
    EXPERTS_OF_MANY,
    SILU_MUL,
    COMBINE,
    TOP_K,
    N_OPERATIONS
};

static const struct {
    const char *name;
    struct {
        uint32_t rows, cols;
        uint32_t
            only; /* of two dispatches with a barrier between: 1, 2: touched by this one; 0: by both or the only one */
    } touched[MAX_TOUCHED];
} operations[N_OPERATIONS] = {
    [EMBED] = {"embed", {{TOKENS, WIDE}, {TOKENS, 1}, {1, 1}}},
    [RMS_NORM] = {"rms_norm", {{TOKENS, WIDE}, {TOKENS, WIDE}}},
    [MATVEC] = {"linear, one token", {{1, 5}, {1, WIDE}}},
    [MATMUL] = {"linear, many tokens", {{TOKENS, 5}, {TOKENS, WIDE}}},
    [MATMUL_ADD] = {"linear_add", {{TOKENS, 5}, {TOKENS, WIDE}}},
    [ROPE_STORE] = {"rope_store",
                    {{TOKENS, 2 * DIM}, {TOKENS, DIM}, {TOKENS, DIM}, {TOKENS, DIM}, {1, 4}, {9, DIM}, {9, DIM}}},
    [ATTENTION] = {"attention", {{TOKENS, 2 * DIM}, {TOKENS, 2 * DIM}, {9, DIM}, {9, DIM}, {1, 4}}},
    [ATTENTION_SPLIT] = {"attention, split",
                         {{TOKENS, 2 * DIM}, {TOKENS, 2 * DIM}, {9, DIM}, {9, DIM}, {1, 4}, {12, DIM + 4}, {1, 2}}},
    [ROUTE] = {"route", {{TOKENS, USED}, {TOKENS, USED}, {TOKENS, EXPERTS}, {TOKENS, USED}}},
    [GROUP] = {"group", {{TOKENS, USED}, {1, EXPERTS + 1}, {1, TOKENS *USED, 2}, {3 * EXPERTS, 2, 1}, {3, 4, 1}}},
    [EXPERTS_OF_ONE] = {"expert_linear, one token", {{USED, 5}, {1, WIDE}, {1, USED}}},
    [EXPERTS_OF_MANY] =
        {"expert_linear, many tokens",
         {{TOKENS * USED, 5}, {TOKENS, WIDE}, {1, EXPERTS + 1}, {1, TOKENS *USED}, {3 * EXPERTS, 2}, {3, 4}}},
    [SILU_MUL] = {"silu_mul", {{TOKENS, WIDE}, {TOKENS, WIDE}}},
    [COMBINE] = {"combine", {{TOKENS, WIDE}, {TOKENS * USED, WIDE}, {TOKENS, USED}}},
    [TOP_K] = {"top_k", {{64, 2}, {1, 1}, {TOP_K_HEADS, 2}, {1, WIDE}, {1, 4}}},
};

/* Records it on t, its touched tensors in the table's order. Nothing of this runs. */
static void record_operation(struct op_device *d, enum operation operation, const struct tensor *t, struct tensor w)
{
    struct commands *c = &d->commands;
    const struct heads h = {.n = 2, .n_kv = 1, .dim = DIM, .n_rot = DIM};
    const struct kv_cache kv = {.k = t[2], .v = t[3]};
    const struct tensor none = {0};
    struct expert_tensor experts = {.slots = w.address, .n_experts = EXPERTS, .type = SC_F32, .rows = 5, .cols = WIDE};
    struct routing r = {.ids = t[0], .probs = t[1], .host_ids = t[3].address, .first = t[1], .pairs = t[2]};
    r.tiles = t[3], r.grids = t[4], r.grids_buffer = &d->memory;
    switch (operation) {
    case EMBED: op_embed(c, t[0], w, t[1], t[2]); break;
    case RMS_NORM: op_rms_norm(c, t[0], t[1], w, 1e-5f); break;
    case MATVEC:
    case MATMUL: op_linear(c, t[0], w, t[1]); break;
    case MATMUL_ADD: op_linear_add(c, t[0], w, t[1]); break;
    case ROPE_STORE: op_rope_store(c, (struct kv_cache){t[5], t[6]}, t[0], t[1], t[2], t[3], t[4], h); break;
    case ATTENTION: op_attention(c, t[0], t[1], kv, none, none, t[4], h); break;
    case ATTENTION_SPLIT: op_attention(c, t[0], t[1], kv, t[5], t[6], t[4], h); break;
    case ROUTE: op_route(c, r, t[2]); break;
    case GROUP: op_group(c, r, (const struct expert_tensor[]){experts, experts, experts}); break;
    case EXPERTS_OF_ONE: op_expert_linear(c, t[0], experts, t[1], (struct routing){.ids = t[2]}); break;
    case EXPERTS_OF_MANY:
        r = (struct routing){.ids = {.rows = TOKENS, .cols = USED}, .first = t[2], .pairs = t[3]};
        r.tiles = t[4], r.grids = t[5], r.grids_buffer = &d->memory;
        op_expert_linear(c, t[0], experts, t[1], r);
        break;
    case SILU_MUL: op_silu_mul(c, t[0], t[1]); break;
    case COMBINE: op_combine(c, t[0], t[1], (struct routing){.probs = t[2]}); break;
    case TOP_K: op_top_k(c, (struct top){t[0], t[1], t[2], t[1].address}, t[3], t[4]); break;
    case N_OPERATIONS: break;
    }
}

/* A copy into what an operation touches, before it or after it, needs a barrier; the last value of each counts too. */
static void test_touched(void **state)
{
    struct op_device *d = *state;
    for (int i = 0; i < N_OPERATIONS * MAX_TOUCHED; i++) {
        const enum operation operation = (enum operation)(i / MAX_TOUCHED);
        const int victim = i % MAX_TOUCHED;
        struct tensor t[MAX_TOUCHED] = {{0}};
        if (operations[operation].touched[victim].rows == 0)
            continue;
        const bool late = operations[operation].touched[victim].only == 2,
                   early = operations[operation].touched[victim].only == 1;
        const uint32_t own = operation == GROUP ? 1 : 0;
        for (int after = 0; after < 2; after++) {
            op_begin(d, 1);
            for (int k = 0; k < MAX_TOUCHED && operations[operation].touched[k].rows; k++)
                t[k] =
                    op_tensor(d, SC_F32, operations[operation].touched[k].rows, operations[operation].touched[k].cols);
            struct tensor w = op_tensor(d, SC_F32, operation == RMS_NORM ? 1 : 5, WIDE);
            struct tensor other = op_tensor(d, SC_F32, 1, 4);
            const uint64_t last = tensor_size_bytes(&t[victim]) - 4, to = t[victim].address - d->memory.address + last;
            struct commands *c = &d->commands;
            if (!after)
                commands_copy(c, &d->memory, other.address - d->memory.address, &d->memory, to, 4);
            record_operation(d, operation, t, w);
            const uint32_t before = c->n_barriers;
            if (after)
                commands_copy(c, &d->memory, other.address - d->memory.address, &d->memory, to, 4);
            if (!commands_end(c, &d->error))
                fail_msg("%s: %s", operations[operation].name, d->error.text);
            if (before != own + (after || late ? 0 : 1) || c->n_barriers != before + (after && !early ? 1 : 0))
                fail_msg("%s, tensor %d, copied %s: %u barriers, %u of them before the end", operations[operation].name,
                         victim, after ? "after" : "before", c->n_barriers, before);
        }
    }
}

/* More accesses than the tracker remembers: it puts a barrier rather than forget one. */
static void test_many_independent(void **state)
{
    struct op_device *d = *state;
    enum { N = COMMANDS_MAX_PENDING };
    op_begin(d, 1);
    struct tensor x = op_random(d, N, COLUMNS, 1), y = op_tensor(d, SC_F32, N, COLUMNS),
                  ones = op_random(d, 1, COLUMNS, 1);
    for (int i = 0; i < N; i++) {
        op_rms_norm(&d->commands, vector(y, i), vector(x, i), ones, 1e-5f);
        assert_int_equal(d->commands.n_barriers, i / (N / 2)); /* two accesses each */
    }
    op_rms_norm(&d->commands, vector(x, N - 1), vector(x, 0), ones, 1e-5f);
    assert_int_equal(d->commands.n_barriers, 2);
    assert_int_equal(d->commands.n_dispatches, N + 1);
    assert_true(op_run(d));
}

/* x += y again and again: a lost or reordered step would show, as small whole numbers are exact. */
static void test_order(void **state)
{
    struct op_device *d = *state;
    enum { N = 200, LONG = 1000 };
    op_begin(d, 1);
    struct tensor x = op_random(d, 1, LONG, 0), y = op_random(d, 1, LONG, 0), one = op_random(d, 1, 1, 0);
    op_floats(d, one)[0] = 1;
    for (int i = 0; i < LONG; i++)
        op_floats(d, y)[i] = (float)(i % 5 - 2);
    /* x += y, y += x: a Fibonacci sequence, then both shrink again by copies */
    for (int i = 0; i < N; i++) {
        op_combine(&d->commands, i % 2 ? y : x, i % 2 ? x : y, (struct routing){.probs = one});
        if (i % 20 == 19)
            commands_copy(&d->commands, &d->memory, one.address - d->memory.address, &d->memory,
                          y.address - d->memory.address, sizeof(float));
    }
    assert_int_equal(d->commands.n_barriers, N - 1 + N / 20);
    assert_true(op_run(d));
    float want_x = 0, want_y = -2;
    for (int i = 0; i < N; i++) {
        if (i % 2)
            want_y += want_x;
        else
            want_x += want_y;
        if (i % 20 == 19)
            want_y = 1;
    }
    assert_true(op_floats(d, x)[0] == want_x && op_floats(d, y)[0] == want_y);
}

struct chain {
    struct tensor x, w, h, logits, kept; /* `kept`: everything that is written, in one piece */
    struct routing r;
};

/* A little of everything: norm, product, router, activation, weighted sum. */
static struct chain record_chain(struct op_device *d)
{
    enum { N = 5, WIDTH = 96, N_EXPERTS = 8 };
    struct chain c = {.x = op_random(d, N, WIDTH, 1), .w = op_weights(d, SC_Q5_0, WIDTH, WIDTH, OP_FILL_RANDOM)};
    struct tensor ones = op_random(d, 1, WIDTH, 1), router = op_random(d, N_EXPERTS, WIDTH, 1);
    const size_t first = d->used;
    c.h = op_tensor(d, SC_F32, N * USED, WIDTH);
    c.logits = op_tensor(d, SC_F32, N, N_EXPERTS);
    c.r = op_routing(d, N, USED, N_EXPERTS);
    c.r.probs = op_tensor(d, SC_F32, N, USED);
    c.kept = (struct tensor){.address = d->memory.address + first, .rows = 1, .cols = (uint32_t)(d->used - first) / 4};

    const struct tensor a = tensor_rows(c.h, N);
    struct tensor b = a;
    b.address += tensor_size_bytes(&a);
    op_rms_norm(&d->commands, a, c.x, ones, 1e-5f);
    op_linear(&d->commands, b, c.w, a);
    op_linear(&d->commands, c.logits, router, a);
    op_route(&d->commands, c.r, c.logits);
    op_group_all(d, c.r, (struct expert_tensor){.n_experts = N_EXPERTS, .rows = WIDTH});
    op_silu_mul(&d->commands, b, a);
    op_combine(&d->commands, c.x, c.h, c.r);
    return c;
}

static void *copy_of(const struct op_device *d, struct tensor t)
{
    void *copy = malloc((size_t)tensor_size_bytes(&t));
    assert_non_null(copy);
    return memcpy(copy, op_host(d, t.address), (size_t)tensor_size_bytes(&t));
}

static void test_replay(void **state)
{
    struct op_device *d = *state;
    op_begin_replayed(d, 7);
    const struct chain c = record_chain(d);
    assert_true(op_run(d));
    assert_true(d->commands.n_barriers >= 4);
    void *x = copy_of(d, c.x), *kept = copy_of(d, c.kept);
    for (int i = 0; i < 3; i++) {
        memcpy(op_host(d, c.x.address), op_floats_before(d, c.x), (size_t)tensor_size_bytes(&c.x));
        memset(op_host(d, c.kept.address), 0xFF, (size_t)tensor_size_bytes(&c.kept));
        assert_true(op_run_again(d));
        assert_memory_equal(op_host(d, c.x.address), x, (size_t)tensor_size_bytes(&c.x));
        assert_memory_equal(op_host(d, c.kept.address), kept, (size_t)tensor_size_bytes(&c.kept));
    }

    /* replayed on what it has just written, and recorded anew */
    assert_true(op_run_again(d));
    assert_memory_not_equal(op_host(d, c.x.address), x, (size_t)tensor_size_bytes(&c.x));
    op_begin(d, 7);
    const struct chain again = record_chain(d);
    assert_true(op_run(d));
    assert_memory_equal(op_host(d, again.x.address), x, (size_t)tensor_size_bytes(&c.x));
    assert_memory_equal(op_host(d, again.kept.address), kept, (size_t)tensor_size_bytes(&c.kept));
    free(x);
    free(kept);
}

/* Several streams in one submit run in their order, though each knows nothing of the others. */
static void test_streams_in_order(void **state)
{
    struct op_device *d = *state;
    enum { N = 12 };
    struct commands streams[N], *order[N];
    op_begin(d, 3);
    struct tensor x = op_random(d, 1, COLUMNS, 0), y = op_random(d, 1, COLUMNS, 0), one = op_random(d, 1, 1, 0);
    op_floats(d, one)[0] = 1;
    op_floats(d, y)[0] = 1;
    for (int i = 0; i < N; i++) {
        assert_true(commands_init(&streams[i], d->gpu, &d->error));
        order[i] = &streams[i];
        commands_begin(&streams[i], false);
        op_combine(&streams[i], i % 2 ? y : x, i % 2 ? x : y, (struct routing){.probs = one});
        assert_true(commands_end(&streams[i], &d->error));
    }
    uint64_t value;
    assert_true(gpu_submit(d->gpu, order, N, &value, &d->error) && gpu_wait(d->gpu, value, &d->error));
    assert_true(op_floats(d, x)[0] == 144 && op_floats(d, y)[0] == 233); /* Fibonacci numbers */
    for (int i = 0; i < N; i++)
        commands_finish(&streams[i]);
}

static void test_recording_errors(void **state)
{
    struct op_device *d = *state;
    op_begin(d, 1);
    struct tensor x = op_random(d, 2, 64, 1), w = op_random(d, 3, 48, 1), y = op_tensor(d, SC_F32, 2, 3);
    op_linear(&d->commands, y, w, x);
    op_silu_mul(&d->commands, x, w);
    op_rms_norm(&d->commands, x, x, tensor_rows(x, 1), 1e-5f); /* right, but behind an error */
    assert_int_equal(d->commands.n_dispatches, 0);
    assert_false(op_run(d));
    assert_int_equal(d->error.code, SC_INVALID_ARGUMENT);
    assert_non_null(strstr(d->error.text, "op_linear")); /* the first one */

    op_begin(d, 1);
    x = op_random(d, 2, 64, 1);
    op_rms_norm(&d->commands, x, x, tensor_rows(x, 1), 1e-5f);
    assert_true(op_run(d));

    const struct {
        uint32_t x, y, z;
        bool fits;
    } grids[] = {{0, 1, 1, true}, {1, 0, 1, true}, {1, 1, 0, true}, {65536, 1, 1, false}, {1, 1, 65536, false}};
    for (size_t i = 0; i < sizeof grids / sizeof grids[0]; i++) {
        const struct silu_mul_args args = {0};
        op_begin(d, 1);
        commands_dispatch(&d->commands, (struct program){.kernel = KERNEL_SILU_MUL}, &args, NULL, 0, grids[i].x,
                          grids[i].y, grids[i].z);
        assert_int_equal(d->commands.n_dispatches, 0);
        assert_int_equal(op_run(d), grids[i].fits);
        assert_int_equal(d->error.code, grids[i].fits ? SC_OK : SC_UNSUPPORTED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hazards),          cmocka_unit_test(test_touched),
        cmocka_unit_test(test_many_independent), cmocka_unit_test(test_order),
        cmocka_unit_test(test_replay),           cmocka_unit_test(test_streams_in_order),
        cmocka_unit_test(test_recording_errors),
    };
    return cmocka_run_group_tests(tests, op_device_create, op_device_destroy);
}
