/* SPDX-License-Identifier: Apache-2.0 */
/* Uploads: through the ring, from memory that the device reads in place, and beside kernels that still read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "layout.h"
#include "upload.h"

enum { PAGE = 65536, N_PAGES = 6, SIZE = N_PAGES * PAGE, RING = 32768, LARGE = (11 << 20) + 12 };

static struct gpu *gpu;
static struct buffer target, copy; /* on the device, and what the host reads of it */
static uint8_t *bytes;             /* (SIZE) random, aligned to PAGE */
static struct sc_error e;

static int open_device(void **state)
{
    (void)state;
    gpu = gpu_create(NULL, "", &e);
    bytes = aligned_alloc(PAGE, SIZE);
    if (!gpu || !bytes || !buffer_init(gpu, &target, MEMORY_DEVICE, SIZE, "the target", &e) ||
        !buffer_init(gpu, &copy, MEMORY_READBACK, SIZE, "the copy", &e)) {
        print_error("%s\n", e.text);
        return -1;
    }
    uint32_t random = 1;
    for (uint32_t i = 0; i < SIZE; i++) {
        random = random * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(random >> 24);
    }
    return 0;
}

static int close_device(void **state)
{
    (void)state;
    buffer_finish(gpu, &target);
    buffer_finish(gpu, &copy);
    gpu_destroy(gpu);
    free(bytes);
    return 0;
}

/* Fills `copy` with what the target holds, by the compute queue. */
static void read_back(void)
{
    struct commands c;
    struct commands *const stream = &c;
    uint64_t value;
    assert_true(commands_init(&c, gpu, &e));
    commands_begin(&c, false);
    commands_copy(&c, &target, 0, &copy, 0, SIZE);
    assert_true(commands_end(&c, &e) && gpu_submit(gpu, &stream, 1, &value, &e) && gpu_wait(gpu, value, &e));
    commands_finish(&c);
}

static void clear_target(struct upload *u)
{
    uint8_t *zeros = calloc(1, SIZE);
    assert_non_null(zeros);
    assert_true(upload_bytes(u, &target, 0, zeros, SIZE, &e) && upload_flush(u, &e));
    free(zeros);
}

/* Uploads bytes[from .. from + n) to the same place of the target, in pieces, and compares all of the target. */
static void check_upload(struct upload *u, uint32_t from, uint32_t n)
{
    static uint8_t want[SIZE];
    static const uint32_t pieces[] = {4, 4096, 12, 40000, 256, 100000};
    clear_target(u);
    memset(want, 0, SIZE);
    memcpy(want + from, bytes + from, n);
    for (uint32_t done = 0, i = 0; done < n; i++) {
        const uint32_t left = n - done, piece = pieces[i % 6] < left ? pieces[i % 6] : left;
        assert_true(upload_bytes(u, &target, from + done, bytes + from + done, piece, &e));
        done += piece;
    }
    assert_true(upload_flush(u, &e));
    read_back();
    for (uint32_t i = 0; i < SIZE; i++)
        if (((const uint8_t *)copy.mapped)[i] != want[i])
            fail_msg("byte %u of [%u, %u)", i, from, from + n);
}

static void test_ring(void **state)
{
    (void)state;
    struct upload u;
    struct sc_error none = {0};
    assert_false(upload_init(&u, gpu, NULL, 100, &none));
    assert_int_equal(none.code, SC_OUT_OF_DEVICE_MEMORY);
    upload_finish(&u);
    assert_true(upload_init(&u, gpu, NULL, RING, &e));
    check_upload(&u, 0, SIZE);
    check_upload(&u, 8, 4);
    check_upload(&u, PAGE - 4, 3 * PAGE + 20);
    assert_int_equal(u.total_bytes, 3 * SIZE + SIZE + 4 + 3 * PAGE + 20);
    assert_true(gpu_wait_transfer(gpu, gpu->transfer.submitted, &e));
    upload_finish(&u);
}

/* Pieces of the ring large enough for several threads. */
static void test_threads(void **state)
{
    (void)state;
    struct upload u;
    struct cpu_pool *pool = cpu_pool_create(3, &e);
    assert_non_null(pool);
    uint8_t *large = malloc(LARGE);
    struct buffer to, back;
    assert_non_null(large);
    for (uint32_t i = 0; i < LARGE; i++)
        large[i] = (uint8_t)(i * 2654435761u >> 13);
    assert_true(upload_init(&u, gpu, pool, 5 << 20, &e) && buffer_init(gpu, &to, MEMORY_DEVICE, LARGE, "large", &e) &&
                buffer_init(gpu, &back, MEMORY_READBACK, LARGE, "large", &e));
    assert_true(upload_bytes(&u, &to, 0, large, LARGE, &e) && upload_flush(&u, &e));
    struct commands c;
    struct commands *const stream = &c;
    uint64_t value;
    assert_true(commands_init(&c, gpu, &e));
    commands_begin(&c, true);
    commands_copy(&c, &to, 0, &back, 0, LARGE);
    assert_true(commands_end(&c, &e) && gpu_submit(gpu, &stream, 1, &value, &e) && gpu_wait(gpu, value, &e));
    assert_memory_equal(back.mapped, large, LARGE);

    const uint32_t block_bytes = sc_type_info(SC_Q6_K)->block_bytes, n_blocks = LARGE / block_bytes;
    const struct weight w = {.data = large, .type = SC_Q6_K, .size_bytes = (uint64_t)n_blocks * block_bytes};
    uint8_t *restored = malloc(LARGE);
    assert_non_null(restored);
    assert_true(upload_weights(&u, &to, 0, &w, 0, w.size_bytes, &e) && upload_flush(&u, &e));
    assert_true(gpu_submit(gpu, &stream, 1, &value, &e) && gpu_wait(gpu, value, &e));
    layout_restore(SC_Q6_K, restored, back.mapped, n_blocks, 0, n_blocks);
    assert_memory_equal(restored, large, w.size_bytes);
    free(restored);
    commands_finish(&c);
    buffer_finish(gpu, &to);
    buffer_finish(gpu, &back);
    upload_finish(&u);
    cpu_pool_destroy(pool);
    free(large);
}

/* Where byte k of a block of the file lies on the device, in a matrix of n_blocks: the words of layout.h once more. */
static size_t place_of(const struct sc_type_info *info, size_t n_blocks, size_t block, size_t k)
{
    const size_t size = info->block_bytes;
    const bool is_apart = info->block_size > 1 && size % 4, is_last = info->type == SC_Q3_K || info->type == SC_Q6_K;
    const size_t d = !is_apart ? size : is_last ? size - 2 : 0; /* where the scale begins */
    if (!is_apart)
        return block * size + k;
    if (k >= d && k < d + 2)
        return n_blocks * (size - 2) + block * 2 + k - d;
    return block * (size - 2) + k - (k > d ? 2 : 0);
}

/* A matrix goes in shares of any size, as promotions do, and blocks go round the ring: each byte where it belongs, none
 * beside. */
static void check_weights(struct upload *u, enum sc_type type, uint32_t n_blocks, uint32_t offset)
{
    static uint8_t want[SIZE], restored[SIZE];
    const struct sc_type_info *info = sc_type_info(type);
    const struct weight w = {.data = bytes, .type = type, .size_bytes = (uint64_t)n_blocks * info->block_bytes};
    const size_t share = w.size_bytes / 7 + 1;
    clear_target(u);
    memset(want, 0, SIZE);
    for (size_t i = 0; i < w.size_bytes; i++)
        want[offset + place_of(info, n_blocks, i / info->block_bytes, i % info->block_bytes)] = bytes[i];
    for (size_t first = 0; first < w.size_bytes; first += share) {
        const size_t left = w.size_bytes - first;
        assert_true(upload_weights(u, &target, offset, &w, first, left < share ? left : share, &e));
    }
    assert_true(upload_flush(u, &e));
    read_back();
    for (uint32_t i = 0; i < SIZE; i++)
        if (((const uint8_t *)copy.mapped)[i] != want[i])
            fail_msg("%s, %u blocks at %u: byte %u", info->name, n_blocks, offset, i);
    const uint32_t first = n_blocks / 3;
    layout_restore(type, restored, (const uint8_t *)copy.mapped + offset, n_blocks, first, n_blocks - first);
    assert_memory_equal(restored, bytes + (size_t)first * info->block_bytes,
                        (size_t)(n_blocks - first) * info->block_bytes);
}

static void test_weights(void **state)
{
    (void)state;
    struct upload u;
    size_t n_types;
    const struct sc_type_info *types = sc_types(&n_types);
    assert_true(upload_init(&u, gpu, NULL, RING, &e));
    for (size_t i = 0; i < n_types; i++) {
        const uint32_t most = (SIZE - 256) / types[i].block_bytes;
        check_weights(&u, types[i].type, 1, 0);
        check_weights(&u, types[i].type, 23, 256);
        check_weights(&u, types[i].type, most, 256);
    }
    assert_true(gpu_wait_transfer(gpu, gpu->transfer.submitted, &e));
    upload_finish(&u);
}

/* The pages 1, 2 and 4 are imported, 2 on its own: uploads that cross them take each byte the way it can go. */
static void test_import(void **state)
{
    (void)state;
    struct upload u;
    assert_true(upload_init(&u, gpu, NULL, RING, &e));
    if (!gpu->import_alignment) {
        assert_false(upload_import(&u, bytes, PAGE, &e));
        upload_finish(&u);
        skip();
    }
    assert_true(PAGE % gpu->import_alignment == 0);
    for (uint32_t page = 1; page <= 4; page += page == 2 ? 2 : 1)
        if (!upload_import(&u, bytes + page * PAGE, PAGE, &e)) {
            upload_finish(&u);
            print_message("%s\n", e.text);
            skip();
        }
    assert_int_equal(u.n_imports, 3);
    check_upload(&u, 0, SIZE);
    check_upload(&u, PAGE + 4, 100);
    check_upload(&u, 2 * PAGE - 40, 80);
    check_upload(&u, 3 * PAGE - 8, PAGE + 16);
    assert_true(gpu_wait_transfer(gpu, gpu->transfer.submitted, &e));
    upload_finish(&u);
}

static PFN_vkAllocateMemory real_allocate;
static uint32_t allocations_left;

static VKAPI_ATTR VkResult VKAPI_CALL failing_allocate(VkDevice device, const VkMemoryAllocateInfo *info,
                                                       const VkAllocationCallbacks *a, VkDeviceMemory *memory)
{
    return allocations_left-- == 0 ? VK_ERROR_INVALID_EXTERNAL_HANDLE : real_allocate(device, info, a, memory);
}

/* A driver that takes some of the memory and not the rest: nothing stays imported, everything goes through the ring. */
static void test_refused_import(void **state)
{
    (void)state;
    struct upload u;
    assert_true(upload_init(&u, gpu, NULL, RING, &e));
    const uint64_t allocated = gpu->allocated_bytes;
    if (gpu->import_alignment && upload_import(&u, bytes, PAGE, &e)) {
        real_allocate = gpu->vk.vkAllocateMemory;
        gpu->vk.vkAllocateMemory = failing_allocate;
        allocations_left = 0;
        struct sc_error refused = {0};
        assert_false(upload_import(&u, bytes + PAGE, PAGE, &refused));
        assert_true(refused.text[0]);
        gpu->vk.vkAllocateMemory = real_allocate;
        assert_int_equal(u.n_imports, 1);
    }
    assert_int_equal(gpu->allocated_bytes, allocated);
    check_upload(&u, 0, SIZE);
    assert_true(gpu_wait_transfer(gpu, gpu->transfer.submitted, &e));
    upload_finish(&u);
}

/* The target is read by a copy that waits for the host, and overwritten by an upload that waits for the copy. */
static void test_after(void **state)
{
    (void)state;
    struct upload u;
    struct commands c;
    struct commands *const stream = &c;
    struct submission one = {.streams = &stream, .n_streams = 1, .wait_host = gpu->host_signalled + 1};
    static const uint8_t ones[4096] = {1, 1, 1, 1};
    assert_true(upload_init(&u, gpu, NULL, RING, &e) && commands_init(&c, gpu, &e));
    check_upload(&u, 0, SIZE);
    memset(copy.mapped, 0, SIZE);
    commands_begin(&c, false);
    commands_copy(&c, &target, 0, &copy, 0, SIZE);
    assert_true(commands_end(&c, &e) && gpu_submit_chain(gpu, &one, 1, &e));
    upload_after(&u, one.value);
    assert_true(upload_bytes(&u, &target, 0, ones, sizeof ones, &e) && upload_flush(&u, &e));
    assert_true(gpu_signal(gpu, one.wait_host, &e) && gpu_wait(gpu, one.value, &e));
    assert_memory_equal(copy.mapped, bytes, SIZE);
    read_back();
    assert_memory_equal(copy.mapped, ones, sizeof ones);
    commands_finish(&c);
    upload_finish(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ring),   cmocka_unit_test(test_threads),        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_import), cmocka_unit_test(test_refused_import), cmocka_unit_test(test_after),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
