/* SPDX-License-Identifier: Apache-2.0 */
#include "op_device.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "layout.h"
#include "model_builder.h"

enum { MEMORY_BYTES = 64 << 20, GUARD_BYTES = 80, POISON = 0xFF, SCRATCH_WORDS = 1 << 14 };

int op_device_create(void **state)
{
    struct op_device *d = calloc(1, sizeof *d);
    if (!d)
        return -1;
    *state = d;
    d->gpu = gpu_create(NULL, "", &d->error);
    if (!d->gpu || !commands_init(&d->commands, d->gpu, &d->error) ||
        !buffer_init(d->gpu, &d->memory, MEMORY_READBACK, MEMORY_BYTES, "the test", &d->error)) {
        print_error("%s\n", d->error.text);
        return -1;
    }
    const struct sc_device_info *info = &d->gpu->info;
    d->gpu->choices.may_round = true;
    d->gpu->piece_work = 20000; /* so that products are cut */
    d->before = malloc(MEMORY_BYTES);
    d->used = MEMORY_BYTES; /* so that the first op_begin poisons it all */
    print_message("on %s, %s, subgroups of %u\n", info->name, info->driver, info->subgroup_size);
    return d->before ? 0 : -1;
}

int op_device_destroy(void **state)
{
    struct op_device *d = *state;
    if (d->gpu) {
        commands_finish(&d->commands);
        buffer_finish(d->gpu, &d->memory);
        gpu_destroy(d->gpu);
    }
    free(d->before);
    free(d);
    return 0;
}

const struct variant *op_use_variant(struct op_device *d, enum family family, uint32_t variant, enum sc_type type)
{
    uint32_t n;
    const struct variant *variants = family_variants(family, &n);
    if (variant >= n || !variant_is_usable(d->gpu, family, variant, type))
        return NULL;
    d->gpu->choices.forced[family] = (uint8_t)(1 + variant);
    return &variants[variant];
}

bool op_takes_case(const struct op_device *d, enum family family, uint32_t variant, enum sc_type type, size_t number)
{
    uint32_t n, first = 0, base = 0;
    const struct variant *variants = family_variants(family, &n);
    while (first + 1 < n && !variant_is_usable(d->gpu, family, first, type))
        first++;
    while (base + 1 < n && variants[base].needs)
        base++;
    const bool is_first_q8 = family <= FAMILY_MATMUL_FEW && variants[variant].rounding == ROUNDS_TO_Q8 &&
                             variants[variant - 1].rounding != ROUNDS_TO_Q8;
    return variant == first || variant == base ||
           ((is_first_q8 || (uint32_t)type % 5 == variant % 5) && number % 2 == 0);
}

uint32_t op_n_compiled(const struct op_device *d)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < N_KERNELS; i++)
        for (const struct pipeline *p = d->gpu->pipelines[i]; p; p = p->next)
            n += strncmp(kernel_infos[i].name, "mat", 3) == 0;
    return n;
}

void op_check_compiled(const struct op_device *d, uint32_t n, const struct variant *v, const struct sc_type_info *type)
{
    size_t n_types;
    const char *first = kernel_infos[v->kernel].name,
               *first_type = sc_types(&n_types)[kernel_infos[v->kernel].type].name;
    char name[64];
    snprintf(name, sizeof name, "%.*s%s", (int)(strlen(first) - strlen(first_type)), first, type->name);
    bool found = false;
    for (uint32_t i = 0; i < N_KERNELS; i++)
        for (const struct pipeline *p = d->gpu->pipelines[i]; p; p = p->next)
            found = found || (strcmp(kernel_infos[i].name, name) == 0 &&
                              memcmp(p->program.constants, v->constants, sizeof v->constants) == 0);
    if (!found || op_n_compiled(d) != n + 1)
        fail_msg("%s: the kernel %s should have been compiled and no other", v->name, name);
}

struct tensor op_tensor(struct op_device *d, enum sc_type type, uint32_t rows, uint32_t cols)
{
    struct tensor t = {.address = d->memory.address + d->used + GUARD_BYTES, .type = type, .rows = rows, .cols = cols};
    const size_t size = (size_t)tensor_size_bytes(&t);
    d->used += GUARD_BYTES + (size + 15) / 16 * 16;
    if (d->used + GUARD_BYTES > MEMORY_BYTES)
        fail_msg("a case takes more than the test's memory");
    return t;
}

static void begin(struct op_device *d, uint64_t seed, bool replayed)
{
    memset(d->memory.mapped, POISON, d->used);
    d->used = 0;
    d->n_writes = 0;
    d->seed = seed;
    d->error = (struct sc_error){0};
    d->scratch = op_tensor(d, SC_F32, 1, SCRATCH_WORDS);
    d->commands.scratch = (struct access){.address = d->scratch.address, .size_bytes = tensor_size_bytes(&d->scratch)};
    commands_begin(&d->commands, replayed);
}

void op_begin(struct op_device *d, uint64_t seed)
{
    begin(d, seed, false);
}

void op_begin_replayed(struct op_device *d, uint64_t seed)
{
    begin(d, seed, true);
}

struct routing op_routing(struct op_device *d, uint32_t n, uint32_t n_used, uint32_t n_experts)
{
    const uint32_t n_pairs = n * n_used;
    return (struct routing){.ids = op_tensor(d, SC_F32, n, n_used),
                            .first = op_tensor(d, SC_F32, 1, n_experts + 1),
                            .pairs = op_tensor(d, SC_F32, 1, n_pairs),
                            .tiles = op_tensor(d, SC_F32, 3 * op_max_tiles(n_pairs, n_experts), 2),
                            .grids = op_tensor(d, SC_F32, 3, 4),
                            .grids_buffer = &d->memory};
}

void op_group_all(struct op_device *d, struct routing r, struct expert_tensor w)
{
    op_group(&d->commands, r, (const struct expert_tensor[]){w, w, w});
    op_writes(d, r.first);
    op_writes(d, r.pairs);
    op_writes(d, r.tiles);
    op_writes(d, r.grids);
}

static size_t n_blocks(struct tensor w)
{
    return (size_t)w.rows * (w.cols / sc_type_info(w.type)->block_size);
}

struct tensor op_weights(struct op_device *d, enum sc_type type, uint32_t rows, uint32_t cols, enum op_fill fill)
{
    const struct tensor w = op_tensor(d, type, rows, cols);
    uint8_t *blocks = malloc((size_t)tensor_size_bytes(&w));
    assert_non_null(blocks);
    op_fill_weights(blocks, type, rows, cols, fill, &d->seed);
    layout_arrange(type, op_host(d, w.address), blocks, n_blocks(w));
    free(blocks);
    return w;
}

void op_expand(const struct op_device *d, struct tensor w, uint32_t first, uint32_t n, float *values)
{
    const struct sc_type_info *info = sc_type_info(w.type);
    const size_t in_row = n_blocks(w) / w.rows;
    uint8_t *blocks = malloc(n * in_row * info->block_bytes);
    assert_non_null(blocks);
    layout_restore(w.type, blocks, op_host(d, w.address), n_blocks(w), first * in_row, n * in_row);
    info->dequantize(blocks, values, n * in_row);
    free(blocks);
}

struct tensor op_random(struct op_device *d, uint32_t rows, uint32_t cols, float sigma)
{
    struct tensor t = op_tensor(d, SC_F32, rows, cols);
    float *values = op_floats(d, t);
    for (size_t i = 0; i < (size_t)rows * cols; i++)
        values[i] = sigma * random_normal(&d->seed);
    return t;
}

struct tensor op_whole(struct op_device *d, uint32_t rows, uint32_t cols)
{
    struct tensor t = op_tensor(d, SC_F32, rows, cols);
    float *values = op_floats(d, t);
    for (size_t i = 0; i < (size_t)rows * cols; i++)
        values[i] = (float)(i % 4 == 0 ? 127 : (int)(random_u64(&d->seed) % 255) - 127) / 64;
    return t;
}

void *op_host(const struct op_device *d, VkDeviceAddress address)
{
    return (uint8_t *)d->memory.mapped + (address - d->memory.address);
}

float *op_floats(const struct op_device *d, struct tensor t)
{
    return op_host(d, t.address);
}

uint32_t *op_words(const struct op_device *d, struct tensor t)
{
    return op_host(d, t.address);
}

const float *op_floats_before(const struct op_device *d, struct tensor t)
{
    return (const float *)(const void *)(d->before + (t.address - d->memory.address));
}

void op_writes_rows(struct op_device *d, struct tensor t, uint32_t first, uint32_t n)
{
    if (d->n_writes == OP_MAX_WRITES)
        fail_msg("a case writes in too many places");
    const size_t start = (size_t)(t.address - d->memory.address);
    const struct tensor skipped = tensor_rows(t, first), written = tensor_rows(t, n);
    const size_t from = start + (size_t)tensor_size_bytes(&skipped);
    d->writes[d->n_writes].from = from;
    d->writes[d->n_writes++].to = from + (size_t)tensor_size_bytes(&written);
}

void op_writes(struct op_device *d, struct tensor t)
{
    op_writes_rows(d, t, 0, t.rows);
}

bool op_run_again(struct op_device *d)
{
    uint64_t value;
    memcpy(d->before, d->memory.mapped, d->used + GUARD_BYTES);
    struct commands *const stream = &d->commands;
    return gpu_submit(d->gpu, &stream, 1, &value, &d->error) && gpu_wait(d->gpu, value, &d->error);
}

bool op_run(struct op_device *d)
{
    return commands_end(&d->commands, &d->error) && op_run_again(d);
}

void op_case(struct op_judge *j, struct op_device *d, uint64_t seed, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(j->what, sizeof j->what, format, args);
    va_end(args);
    j->device = d;
    j->seed = seed;
    j->n_cases++;
    op_begin(d, seed);
}

static bool may_write(const struct op_device *d, size_t at)
{
    const size_t scratch = (size_t)(d->scratch.address - d->memory.address);
    if (at >= scratch && at < scratch + SCRATCH_WORDS * sizeof(uint32_t))
        return true;
    for (uint32_t i = 0; i < d->n_writes; i++)
        if (at >= d->writes[i].from && at < d->writes[i].to)
            return true;
    return false;
}

void op_judge_run(struct op_judge *j, struct op_device *d)
{
    if (!op_run(d))
        fail_msg("%s, seed %llu: %s", j->what, (unsigned long long)j->seed, d->error.text);
    const uint8_t *now = d->memory.mapped;
    enum { STRIDE = 4096 };
    for (size_t i = 0; i < d->used + GUARD_BYTES; i += STRIDE) {
        const size_t left = d->used + GUARD_BYTES - i, n = left < STRIDE ? left : STRIDE;
        if (memcmp(now + i, d->before + i, n) == 0)
            continue;
        for (size_t k = i; k < i + n; k++)
            if (now[k] != d->before[k] && !may_write(d, k))
                fail_msg(
                    "%s, seed %llu: byte %zu of the memory was written: it was 0x%02X and is 0x%02X; the first output "
                    "is %zu to %zu",
                    j->what, (unsigned long long)j->seed, k, d->before[k], now[k], d->writes[0].from, d->writes[0].to);
    }
}

void op_judge_value(struct op_judge *j, uint32_t row, uint32_t col, double got, double want, double bound)
{
    const double off = fabs(got - want);
    if (!(off <= bound))
        fail_msg("%s, seed %llu: row %u, column %u: got %.9g, want %.9g, off by %.3g, the bound is %.3g", j->what,
                 (unsigned long long)j->seed, row, col, got, want, off, bound);
    j->n_values++;
    if (off > 0 && off / bound > j->worst) {
        j->worst = off / bound;
        snprintf(j->worst_at, sizeof j->worst_at, "%s", j->what);
    }
}

void op_judge_word(struct op_judge *j, uint32_t row, uint32_t col, uint32_t got, uint32_t want)
{
    if (got != want)
        fail_msg("%s, seed %llu: row %u, column %u: got %u, want %u", j->what, (unsigned long long)j->seed, row, col,
                 got, want);
    j->n_values++;
}

void op_judge_report(const struct op_judge *j, const char *format, ...)
{
    char what[80];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    print_message("%s: %llu cases, %llu values, worst %.3f of its bound%s%s\n", what, (unsigned long long)j->n_cases,
                  (unsigned long long)j->n_values, j->worst, j->worst > 0 ? ": " : "", j->worst_at);
}
