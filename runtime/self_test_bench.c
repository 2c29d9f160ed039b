/* SPDX-License-Identifier: Apache-2.0 */
#include "self_test_bench.h"

#include <stdlib.h>
#include <string.h>

#include "layout.h"
#include "random_blocks.h"

enum { GUARD_BYTES = 64, POISON = 0xFF, BENCH_BYTES = 4 << 20, SCRATCH_WORDS = 1 << 16 };

bool bench_init(struct bench *b, struct gpu *gpu, struct sc_error *e)
{
    *b = (struct bench){.gpu = gpu, .seed = 1};
    if (!commands_init(&b->upload, gpu, e) || !commands_init(&b->commands, gpu, e) ||
        !buffer_init(gpu, &b->memory, MEMORY_DEVICE, BENCH_BYTES, "the self-test", e) ||
        !buffer_init(gpu, &b->staging, MEMORY_READBACK, BENCH_BYTES, "the self-test", e))
        return false;
    b->blocks = malloc(BENCH_BYTES);
    if (!b->blocks)
        return sc_fail_memory(e, "the self-test");
    const struct tensor scratch = bench_lay(b, SC_F32, 1, SCRATCH_WORDS);
    b->commands.scratch = (struct access){.address = scratch.address, .size_bytes = tensor_size_bytes(&scratch)};
    commands_begin(&b->commands, false);
    return true;
}

void bench_finish(struct bench *b)
{
    b->gpu->vk.vkDeviceWaitIdle(b->gpu->device);
    commands_finish(&b->upload);
    commands_finish(&b->commands);
    buffer_finish(b->gpu, &b->memory);
    buffer_finish(b->gpu, &b->staging);
    free(b->blocks);
}

struct tensor bench_lay(struct bench *b, enum sc_type type, uint32_t rows, uint32_t cols)
{
    struct tensor t = {.address = b->memory.address + b->used, .type = type, .rows = rows, .cols = cols};
    const uint64_t bytes = (tensor_size_bytes(&t) + 15) / 16 * 16 + GUARD_BYTES;
    memset((uint8_t *)b->staging.mapped + b->used, POISON, bytes);
    b->used += bytes;
    return t;
}

void *bench_host(const struct bench *b, struct tensor t)
{
    return (uint8_t *)b->staging.mapped + (t.address - b->memory.address);
}

static uint64_t n_blocks(struct tensor w)
{
    return (uint64_t)w.rows * (w.cols / sc_type_info(w.type)->block_size);
}

struct tensor bench_lay_random(struct bench *b, enum sc_type type, uint32_t rows, uint32_t cols, float sigma)
{
    const struct tensor w = bench_lay(b, type, rows, cols);
    random_blocks(b->blocks, type, n_blocks(w), sigma, &b->seed);
    layout_arrange(type, bench_host(b, w), b->blocks, n_blocks(w));
    return w;
}

void bench_weights(struct bench *b, struct tensor w, uint32_t row, float *values)
{
    const uint64_t n = n_blocks(w) / w.rows;
    layout_restore(w.type, b->blocks, bench_host(b, w), n_blocks(w), row * n, n);
    sc_type_info(w.type)->dequantize(b->blocks, values, n);
}

bool bench_is_guarded(const struct bench *b, struct tensor t)
{
    const uint8_t *guard = (const uint8_t *)bench_host(b, t) + tensor_size_bytes(&t);
    for (uint32_t i = 0; i < GUARD_BYTES; i++)
        if (guard[i] != POISON)
            return false;
    return true;
}

/* A shader brings the results back, as it does elsewhere: copy.comp says why. */
bool bench_run(struct bench *b, struct sc_error *e)
{
    struct commands *const list[] = {&b->upload, &b->commands};
    const struct tensor own = {
        .address = b->memory.address, .type = SC_F32, .rows = 1, .cols = (uint32_t)(b->used / sizeof(float))};
    struct tensor seen = own;
    uint64_t value = 0;
    seen.address = b->staging.address;
    commands_begin(&b->upload, false);
    commands_copy(&b->upload, &b->staging, 0, &b->memory, 0, b->used);
    op_copy(&b->commands, seen, own);
    return commands_end(&b->upload, e) && commands_end(&b->commands, e) && gpu_submit(b->gpu, list, 2, &value, e) &&
           gpu_wait(b->gpu, value, e);
}
