/* SPDX-License-Identifier: Apache-2.0 */
/* Operations that take the same x share what is made of it, normed or rounded, as long as that is still what x is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "op_device.h"

enum { N_X = 3, TOKENS = 4, COLS = 128, ROWS = 16, MAX_STEPS = 4 };

/* On x number a, step k's results being y number k. */
static const struct shared_case {
    const char *what;
    struct {
        enum { END, FEW, NARROW, ONE, GATE_UP, NORMED, OTHER_EPS, COPY, COPY_TO_SCRATCH, ELSEWHERE, BARRIER } op;
        uint32_t a, b;
    } steps[MAX_STEPS];
    uint32_t n_made;
} cases[] = {
    {"the same x", {{FEW, 0, 0}, {FEW, 0, 0}, {FEW, 0, 0}}, 1},
    {"another x", {{FEW, 0, 0}, {FEW, 1, 0}}, 2},
    {"back again", {{FEW, 0, 0}, {FEW, 1, 0}, {FEW, 0, 0}}, 3},
    {"its last word written", {{FEW, 0, 0}, {COPY, 0, 1}, {FEW, 0, 0}}, 2},
    {"another written", {{FEW, 0, 0}, {COPY, 1, 2}, {FEW, 0, 0}}, 1},
    {"what was made is written", {{FEW, 0, 0}, {COPY_TO_SCRATCH, 0, 1}, {FEW, 0, 0}}, 2},
    {"other scratch memory", {{FEW, 0, 0}, {ELSEWHERE, 0, 0}, {FEW, 0, 0}}, 2},
    {"a barrier", {{FEW, 0, 0}, {BARRIER, 0, 0}, {FEW, 0, 0}}, 2},
    {"twice as many rows", {{FEW, 0, 0}, {NARROW, 0, 0}, {FEW, 0, 0}}, 3},
    {"its first row", {{FEW, 0, 0}, {ONE, 0, 0}, {ONE, 0, 0}}, 2},
    {"a norm", {{ONE, 0, 0}, {GATE_UP, 0, 0}, {GATE_UP, 0, 0}, {ONE, 0, 0}}, 3},
    {"another norm", {{GATE_UP, 0, 0}, {GATE_UP, 0, 1}}, 2},
    {"another epsilon", {{GATE_UP, 0, 0}, {OTHER_EPS, 0, 0}}, 2},
    {"rounded and not", {{NORMED, 0, 0}, {GATE_UP, 0, 0}, {NORMED, 0, 0}, {NORMED, 0, 0}}, 3},
};

struct operands {
    struct tensor x[N_X], norms[N_X], w, narrow_w, y;
};

/* A variant of the family that rounds, or one that takes x normed; false if the device has none. */
static bool use(struct op_device *d, enum family family, bool rounds)
{
    for (uint32_t i = 0; i < MAX_VARIANTS; i++) {
        const struct variant *v = op_use_variant(d, family, i, SC_Q4_0);
        if (v && (v->rounding == ROUNDS_TO_Q8) == rounds && (rounds || v->constants[CONSTANT_IS_NORMED]))
            return true;
    }
    return false;
}

static bool record(struct op_device *d, const struct shared_case *c, uint32_t k, const struct operands *o)
{
    struct commands *list = &d->commands;
    const uint32_t a = c->steps[k].a, b = c->steps[k].b;
    struct tensor x = o->x[a], y = tensor_rows(o->y, TOKENS), one_x = tensor_rows(x, 1), one_y = tensor_rows(y, 1);
    const struct norm norm = {.w = o->norms[b], .eps = c->steps[k].op == OTHER_EPS ? 1 : 1e-5F};
    y.address = one_y.address = o->y.address + k * 2 * tensor_size_bytes(&y);
    switch (c->steps[k].op) {
    case FEW: op_linear(list, y, o->w, x); break;
    case NARROW:
        x.rows = y.rows = 2 * TOKENS;
        x.cols = COLS / 2;
        op_linear(list, y, o->narrow_w, x);
        break;
    case ONE: op_linear(list, one_y, o->w, one_x); break;
    case GATE_UP:
    case OTHER_EPS:
    case NORMED:
        if (!use(d, FAMILY_GATE_UP, c->steps[k].op != NORMED))
            return false;
        op_gate_up(list, one_y, o->w, o->w, one_x, norm);
        break;
    case COPY:
        commands_copy(list, &d->memory, o->x[b].address - d->memory.address, &d->memory,
                      x.address - d->memory.address + tensor_size_bytes(&x) - sizeof(float), sizeof(float));
        return true;
    case COPY_TO_SCRATCH:
        commands_copy(list, &d->memory, o->x[b].address - d->memory.address, &d->memory,
                      d->scratch.address - d->memory.address, sizeof(float));
        return true;
    case ELSEWHERE: list->scratch.address += list->scratch.size_bytes /= 2; return true;
    case BARRIER: commands_barrier(list); return true;
    case END: return true;
    }
    return true;
}

/* Runs the case, each step behind a barrier if nothing is to be shared; the results are the caller's to free. */
static float *run(struct op_device *d, const struct shared_case *c, bool shares, uint32_t *n_made)
{
    struct operands o;
    bool can_run = true;
    op_begin(d, 1);
    for (uint32_t i = 0; i < N_X; i++)
        o.x[i] = op_random(d, TOKENS, COLS, 1);
    for (uint32_t i = 0; i < N_X; i++)
        o.norms[i] = op_random(d, 1, COLS, 1);
    o.w = op_weights(d, SC_Q4_0, ROWS, COLS, OP_FILL_RANDOM);
    o.narrow_w = op_weights(d, SC_Q4_0, ROWS, COLS / 2, OP_FILL_RANDOM);
    o.y = op_random(d, MAX_STEPS * 2 * TOKENS, ROWS, 0);
    *n_made = 0;
    for (uint32_t k = 0; k < MAX_STEPS && can_run; k++) {
        const uint32_t before = d->commands.n_dispatches;
        can_run = record(d, c, k, &o);
        if (d->commands.n_dispatches > before)
            *n_made += d->commands.n_dispatches - before - 1;
        if (!shares)
            commands_barrier(&d->commands);
    }
    if (!can_run)
        return NULL;
    if (!op_run(d))
        fail_msg("%s: %s", c->what, d->error.text);
    float *y = malloc(tensor_size_bytes(&o.y));
    assert_non_null(y);
    return memcpy(y, op_floats(d, o.y), tensor_size_bytes(&o.y));
}

static void test_shared_input(void **state)
{
    struct op_device *d = *state;
    if (!use(d, FAMILY_MATMUL_FEW, true) || !use(d, FAMILY_MATVEC, true)) {
        print_message("%s has no variant that rounds to 8 bits\n", d->gpu->info.name);
        skip();
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t n_made, n_alone;
        float *y = run(d, &cases[i], true, &n_made), *alone = run(d, &cases[i], false, &n_alone);
        if (!y && d->gpu->info.kind != SC_DEVICE_CPU)
            continue; /* only processors take x normed */
        assert_true(y && alone);
        if (n_made != cases[i].n_made)
            fail_msg("%s: made %u times, not %u", cases[i].what, n_made, cases[i].n_made);
        if (memcmp(y, alone, sizeof(float) * MAX_STEPS * 2 * TOKENS * ROWS) != 0)
            fail_msg("%s: not what it is alone", cases[i].what);
        free(y);
        free(alone);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shared_input)};
    return cmocka_run_group_tests(tests, op_device_create, op_device_destroy);
}
