/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The experts below the device: whatever is asked in whatever order, what is pinned are the file's bytes; disks that
 * fail and files that shrink are one sentence, after which the next call may succeed. Linked with --wrap=pread.
 */
#define _DEFAULT_SOURCE /* usleep, truncate */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "failing_malloc.h"
#include "model_builder.h"
#include "ram.h"
#include "ram_pool.h"
#include "store.h"

/* What reading is going to do: from now on the nth read fails in this way, 0 being the next; -1: none does. */
static atomic_long countdown = -1;
static int failure; /* errno, or 0: the file ends there */

ssize_t __real_pread(int fd, void *to, size_t size_bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *to, size_t size_bytes, off_t offset);

ssize_t __wrap_pread(int fd, void *to, size_t size_bytes, off_t offset)
{
    if (atomic_load(&countdown) >= 0 && atomic_fetch_sub(&countdown, 1) == 0) {
        errno = failure;
        return failure ? -1 : 0;
    }
    return __real_pread(fd, to, size_bytes, offset);
}

static void fail_read(long nth, int how)
{
    failure = how;
    atomic_store(&countdown, nth);
}

/* An open model and the bytes of its experts as they were at first. */
struct fixture {
    char path[64];
    uint32_t n_files;
    struct sc_gguf *gguf;
    struct config config;
    struct weights weights;
    struct policy device;
    uint32_t n_total;
    uint8_t **bytes; /* (n_total) gate, up, down */
};

static const char *part_path(const char *path, uint32_t part, uint32_t n_parts, char out[128])
{
    if (n_parts > 1)
        snprintf(out, 128, "%s-%05u-of-%05u.gguf", path, part + 1, n_parts);
    else
        snprintf(out, 128, "%s.gguf", path);
    return out;
}

static uint64_t expert_bytes(const struct expert_weights *x)
{
    return x->gate.size_bytes + x->up.size_bytes + x->down.size_bytes;
}

static void copy_expert(uint8_t *to, const struct expert_weights *x)
{
    memcpy(to, x->gate.data, x->gate.size_bytes);
    memcpy(to + x->gate.size_bytes, x->up.data, x->up.size_bytes);
    memcpy(to + x->gate.size_bytes + x->up.size_bytes, x->down.data, x->down.size_bytes);
}

static void open_fixture(struct fixture *f, const char *name, const struct model_spec *spec)
{
    struct sc_error e = {0};
    char path[128];
    *f = (struct fixture){.n_files = spec->n_files ? spec->n_files : 1};
    snprintf(f->path, sizeof f->path, "test_store.tmp-%s", name);
    assert_true(model_write(part_path(f->path, 0, f->n_files, path), spec));
    f->gguf = sc_gguf_open(path, &e);
    if (!f->gguf || !config_read(&f->config, f->gguf, &e) || !weights_init(&f->weights, &f->config, f->gguf, &e))
        fail_msg("%s: %s", name, e.text);
    f->n_total = f->config.n_layers * f->config.n_experts;
    assert_true(policy_init(&f->device, f->config.n_layers, f->config.n_experts, f->n_total, &e));
    f->bytes = calloc(f->n_total, sizeof *f->bytes);
    assert_non_null(f->bytes);
    for (uint32_t i = 0; i < f->n_total; i++) {
        const struct expert_weights *x = &f->weights.layers[0].experts[i];
        f->bytes[i] = malloc(expert_bytes(x));
        assert_non_null(f->bytes[i]);
        copy_expert(f->bytes[i], x);
    }
}

static void close_fixture(struct fixture *f)
{
    char path[128];
    for (uint32_t i = 0; i < f->n_total; i++)
        free(f->bytes[i]);
    free(f->bytes);
    policy_finish(&f->device);
    weights_finish(&f->weights);
    sc_gguf_close(f->gguf);
    for (uint32_t i = 0; i < f->n_files; i++)
        unlink(part_path(f->path, i, f->n_files, path));
}

static struct store_params params_of(const struct fixture *f, uint32_t n_ram_slots)
{
    return (struct store_params){.gguf = f->gguf,
                                 .weights = &f->weights,
                                 .config = &f->config,
                                 .device = &f->device,
                                 .n_ram_slots = n_ram_slots,
                                 .is_short = true};
}

static struct store *open_store(const struct fixture *f, uint32_t n_ram_slots)
{
    struct sc_error e = {0};
    const struct store_params params = params_of(f, n_ram_slots);
    struct store *s = store_create(&params, &e);
    if (!s)
        fail_msg("%s", e.text);
    return s;
}

static bool same_bytes(const struct fixture *f, uint32_t index, const struct expert_weights *x)
{
    const uint8_t *want = f->bytes[index];
    return memcmp(x->gate.data, want, x->gate.size_bytes) == 0 &&
           memcmp(x->up.data, want + x->gate.size_bytes, x->up.size_bytes) == 0 &&
           memcmp(x->down.data, want + x->gate.size_bytes + x->up.size_bytes, x->down.size_bytes) == 0;
}

/* Pins it, compares, unpins. */
static void check_expert(const struct fixture *f, struct store *s, uint32_t index)
{
    struct sc_error e = {0};
    struct expert_weights x;
    if (!store_pin(s, index, &x, &e))
        fail_msg("expert %u: %s", index, e.text);
    if (!same_bytes(f, index, &x))
        fail_msg("expert %u has other bytes", index);
    store_unpin(s, index);
}

/* Any calls in any order, as their contract allows them. */
static void play(const struct fixture *f, uint32_t n_ram_slots, uint64_t seed)
{
    enum { N_STEPS = 400, MAX_PINS = 4 };
    struct store *s = open_store(f, n_ram_slots);
    struct expert_weights x[MAX_PINS];
    uint32_t pinned[MAX_PINS], n_pinned = 0;
    const uint32_t n_experts = f->config.n_experts;
    struct sc_error e = {0};
    uint64_t state = seed;
    for (uint32_t step = 0; step < N_STEPS; step++) {
        const uint32_t index = (uint32_t)(random_u64(&state) % f->n_total), kind = random_u64(&state) % 8;
        uint32_t wanted[64], n = 0;
        switch (kind) {
        case 0: store_begin(s); break;
        case 1:
            for (uint32_t i = 0; i < n_experts; i++)
                if (random_u64(&state) % 2)
                    wanted[n++] = index / n_experts * n_experts + i;
            store_want(s, wanted, n);
            break;
        case 2:
            policy_place((struct policy *)&f->device, index, (uint32_t)(random_u64(&state) % f->n_total));
            store_drop(s, index);
            break;
        case 3:
            if (n_pinned > 0)
                store_unpin(s, pinned[--n_pinned]);
            break;
        default:
            if (n_pinned == MAX_PINS || n_pinned >= store_n_pins(s) - 1)
                break;
            if (!store_pin(s, index, &x[n_pinned], &e))
                fail_msg("seed %u, step %u, %u slots: %s", (unsigned)seed, step, n_ram_slots, e.text);
            pinned[n_pinned++] = index;
        }
        for (uint32_t i = 0; i < n_pinned; i++)
            if (!same_bytes(f, pinned[i], &x[i]))
                fail_msg("seed %u, step %u, %u slots: expert %u has other bytes", (unsigned)seed, step, n_ram_slots,
                         pinned[i]);
    }
    assert_true(store_check(s, &e));
    assert_true(n_ram_slots == 0 || store_read_bytes(s) > 0);
    store_destroy(s); /* with pins and reads that are not over */
}

static void test_any_order(void **state)
{
    (void)state;
    static const struct model_spec specs[] = {
        {.type = "q4_k", .layers = 3, .experts = 6, .used = 2},
        {.type = "q8_0", .d = 32, .ff = 48, .layers = 4, .experts = 5, .used = 2, .split_experts = true},
        {.type = "mix", .layers = 2, .experts = 4, .used = 2, .n_files = 3},
    };
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        static const uint32_t n_slots[] = {0, 2, 3, 7};
        struct fixture f;
        open_fixture(&f, "any", &specs[i]);
        for (uint32_t k = 0; k < 4; k++)
            play(&f, n_slots[k], 10 * i + k);
        close_fixture(&f);
    }
}

static const struct model_spec spec = {.type = "q8_0", .d = 64, .ff = 96, .layers = 4, .experts = 4, .used = 2};

/* Fails reads one by one, in all ways, until a pin needs none that fails. */
static void check_failures(const struct fixture *f, int how, const char *text)
{
    struct expert_weights x;
    for (long nth = 0;; nth++) {
        struct store *s = open_store(f, 4);
        struct sc_error e = {0};
        fail_read(nth, how);
        const bool ok = store_pin(s, 5, &x, &e);
        const bool failed = atomic_exchange(&countdown, -1) < 0;
        if (ok == failed)
            fail_msg("read %ld, how %d: pinned %d, \"%s\"", nth, how, ok, e.text);
        if (!ok &&
            (e.code != SC_IO || !strstr(e.text, text) || !strstr(e.text, f->path) || !strstr(e.text, "blk.1.ffn_")))
            fail_msg("read %ld, how %d: \"%s\"", nth, how, e.text);
        if (ok)
            store_unpin(s, 5);
        check_expert(f, s, 5);
        store_destroy(s);
        if (ok) {
            assert_int_equal(nth, 3);
            return;
        }
    }
}

static void test_failing_disk(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, "failing", &spec);
    check_failures(&f, EIO, "cannot be read: Input/output error");
    check_failures(&f, 0, "was truncated while it was in use");

    /* what only means try again: an interruption, and a file system that refuses to go past its cache */
    static const int harmless[] = {EINTR, EINVAL};
    for (int i = 0; i < 2; i++) {
        struct store *s = open_store(&f, 4);
        fail_read(1, harmless[i]);
        for (uint32_t index = 0; index < f.n_total; index++)
            check_expert(&f, s, index);
        store_destroy(s);
    }

    /* a read ahead that failed is read again when it is wanted */
    struct store *s = open_store(&f, 4);
    const uint32_t wanted[] = {8, 9};
    fail_read(1, EIO);
    store_want(s, wanted, 2);
    while (atomic_load(&countdown) >= 0)
        usleep(100);
    for (uint32_t index = 0; index < 8; index++)
        check_expert(&f, s, index);
    check_expert(&f, s, 8);
    check_expert(&f, s, 9);
    store_destroy(s);
    close_fixture(&f);
}

static void test_shrinks(void **state)
{
    (void)state;
    struct fixture f;
    char path[128];
    struct sc_error e = {0};
    struct expert_weights x;
    open_fixture(&f, "shrinks", &spec);
    struct store *s = open_store(&f, 4);
    check_expert(&f, s, 1);
    assert_int_equal(truncate(part_path(f.path, 0, 1, path), (off_t)f.weights.layers[3].experts[3].down.offset + 99),
                     0);
    check_expert(&f, s, 1); /* RAM has it */
    assert_false(store_pin(s, f.n_total - 1, &x, &e));
    assert_int_equal(e.code, SC_IO);
    assert_non_null(strstr(e.text, "was truncated"));
    assert_true(store_check(s, &(struct sc_error){0})); /* nothing was read through the mapping */
    store_destroy(s);
    close_fixture(&f);
}

static void test_too_many_pins(void **state)
{
    (void)state;
    struct fixture f;
    struct sc_error e = {0};
    struct expert_weights x;
    open_fixture(&f, "pins", &spec);
    struct store *s = open_store(&f, 3);
    assert_int_equal(store_n_pins(s), 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_true(store_pin(s, i, &x, &e));
    assert_true(store_pin(s, 1, &x, &e)); /* again */
    assert_false(store_pin(s, 3, &x, &e));
    store_unpin(s, 1);
    e = (struct sc_error){0};
    assert_false(store_pin(s, 3, &x, &e));
    store_unpin(s, 1);
    e = (struct sc_error){0};
    assert_true(store_pin(s, 3, &x, &e));
    store_destroy(s);
    close_fixture(&f);
}

/* A prompt uses all experts, layer by layer: half of them in RAM must save about half of the reading. */
static void test_prompts_find_what_fits(void **state)
{
    (void)state;
    struct fixture f;
    struct model_spec deep = spec;
    deep.layers = 12;
    open_fixture(&f, "prompts", &deep);
    struct store *s = open_store(&f, f.n_total / 2);
    uint64_t before = 0, read = 0, first_read = 0;
    for (uint32_t pass = 0; pass < 6; pass++) {
        before = store_read_bytes(s);
        store_begin(s);
        for (uint32_t l = 0; l < f.config.n_layers; l++) {
            const uint32_t first = l * f.config.n_experts;
            const uint32_t wanted[] = {first, first + 1, first + 2, first + 3};
            store_want(s, wanted, 4);
            for (uint32_t i = 0; i < 4; i++)
                check_expert(&f, s, wanted[i]);
        }
        read = store_read_bytes(s) - before;
        first_read = pass == 0 ? read : first_read;
    }
    if (read > first_read / 8 * 6)
        fail_msg("the last pass read %llu bytes, the first %llu", (unsigned long long)read,
                 (unsigned long long)first_read);
    store_destroy(s);
    close_fixture(&f);
}

static void test_device_goes_first(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, "device", &spec);
    struct store *s = open_store(&f, 4);
    for (uint32_t i = 0; i < 4; i++)
        check_expert(&f, s, i);
    policy_place(&f.device, 2, 0);
    policy_place(&f.device, 3, 1); /* on its way */
    store_drop(s, 2);
    check_expert(&f, s, 9);
    uint64_t read = store_read_bytes(s);
    check_expert(&f, s, 0);
    check_expert(&f, s, 1);
    check_expert(&f, s, 3);
    assert_int_equal(store_read_bytes(s), read);
    check_expert(&f, s, 2); /* it is wanted again, so it is no longer the first to go */
    assert_true(store_read_bytes(s) > read);
    store_drop(s, 3);
    check_expert(&f, s, 10);
    read = store_read_bytes(s);
    check_expert(&f, s, 2);
    assert_int_equal(store_read_bytes(s), read);
    store_destroy(s);
    close_fixture(&f);
}

static bool count_progress(void *user, enum sc_phase phase, uint64_t done, uint64_t total)
{
    uint64_t *last = user;
    assert_int_equal(phase, SC_PHASE_LOAD);
    assert_int_equal(done, *last + 1);
    *last = done;
    return done < total / 2 || total != 5; /* one of 5 is cancelled */
}

static void test_load(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t last = 0;
    struct sc_error e = {0};
    const struct sc_engine_params engine = {.progress = count_progress, .user = &last};
    open_fixture(&f, "load", &spec);
    struct store_params params = params_of(&f, f.n_total - 3);
    params.fills = true;
    policy_place(&f.device, 1, 0);
    policy_place(&f.device, 7, 1);
    struct store *s = store_create(&params, &e);
    assert_non_null(s);
    store_drop(s, 1);
    store_drop(s, 7);
    assert_true(store_load(s, &engine, &e));
    assert_int_equal(last, f.n_total - 3);
    const uint64_t read = store_read_bytes(s);
    for (uint32_t i = 0; i < f.n_total - 1; i++)
        if (i != 1 && i != 7)
            check_expert(&f, s, i);
    assert_int_equal(store_read_bytes(s), read);
    store_destroy(s);

    last = 0;
    params.n_ram_slots = 5;
    s = store_create(&params, &e);
    assert_non_null(s);
    assert_false(store_load(s, &engine, &e));
    assert_int_equal(e.code, SC_CANCELLED);
    store_destroy(s);
    close_fixture(&f);
}

/* What must be free for a pool of this size: an eighth of it and 64 MiB are left to others. */
static uint64_t free_bytes_for(uint64_t pool_bytes)
{
    return (pool_bytes + (64 << 20)) / 7 * 8 + 64;
}

/* What is decided for 16 experts, of which the device holds n_slots. */
static void test_place(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, "place", &spec);
    const uint64_t slot = ram_pool_slot_bytes(&f.weights, &f.config), enough = free_bytes_for(17 * slot);
    const struct {
        const char *name;
        uint64_t available, ram;
        bool no_mmap;
        uint32_t n_slots, n_ram_slots;
        bool is_short, fills;
    } cases[] = {
        {"RAM for all", enough, 0, false, 4, 0, false, false},
        {"RAM for what the device lacks", free_bytes_for(13 * slot), 0, false, 4, 0, true, false},
        {"RAM for less", free_bytes_for(8 * slot), 0, false, 4, 8, true, false},
        {"RAM for nearly nothing", 100, 0, false, 4, 4, true, false},
        {"--no-mmap", enough, 0, true, 4, 16, false, true},
        {"--no-mmap and less RAM", free_bytes_for(8 * slot), 0, true, 4, 8, true, true},
        {"--no-mmap, all on the device", enough, 0, true, 16, 4, false, false},
        {"--ram", enough, slot * 7, false, 4, 7, true, false},
        {"--ram for more than there is", enough, slot * 70, false, 4, 16, true, false},
        {"--ram for the least", enough, slot * 4, false, 4, 4, true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sc_error e = {0};
        struct sc_placement placement = {.n_slots = cases[i].n_slots};
        struct store_params params = params_of(&f, 99);
        const struct sc_engine_params engine = {.ram_bytes = cases[i].ram, .no_mmap = cases[i].no_mmap};
        assert_true(store_place(&placement, &params, &engine, cases[i].available, &e));
        if (params.n_ram_slots != cases[i].n_ram_slots || params.is_short != cases[i].is_short ||
            params.fills != cases[i].fills || placement.n_ram_slots != params.n_ram_slots ||
            placement.ram_bytes != params.n_ram_slots * slot)
            fail_msg("%s: %u slots, short %d, fills %d", cases[i].name, params.n_ram_slots, params.is_short,
                     params.fills);
    }

    struct sc_error e = {0};
    struct sc_placement placement = {.n_slots = 4};
    struct store_params params = params_of(&f, 0);
    const struct sc_engine_params engine = {.ram_bytes = slot * 4 - 1};
    assert_false(store_place(&placement, &params, &engine, enough, &e));
    assert_int_equal(e.code, SC_INVALID_ARGUMENT);
    assert_non_null(strstr(e.text, "at least 1 MiB of RAM (4 of 0.0 MB), and --ram is 0.1 MB"));
    close_fixture(&f);
}

static void test_allocations(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, "allocations", &spec);
    for (uint32_t n_ram_slots = 0; n_ram_slots <= 4; n_ram_slots += 4) {
        const struct store_params params = params_of(&f, n_ram_slots);
        bool failed = true;
        long nth;
        for (nth = 0; failed; nth++) {
            struct sc_error e = {0};
            fail_malloc(nth);
            struct store *s = store_create(&params, &e);
            failed = malloc_has_failed();
            fail_malloc(-1);
            if ((s != NULL) == failed || (!s && e.code != SC_OUT_OF_MEMORY))
                fail_msg("%u slots, allocation %ld: code %d, \"%s\"", n_ram_slots, nth, e.code, e.text);
            store_destroy(s);
        }
        assert_true(nth > (n_ram_slots ? 6 : 2));
    }
    close_fixture(&f);
}

/* There is no saying what a machine has, but it is something, and no more than the whole. */
static void test_available(void **state)
{
    (void)state;
    const uint64_t available = ram_available();
    assert_true(available > 1 << 20);
    assert_true(available <= (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_failing_disk),
        cmocka_unit_test(test_shrinks),
        cmocka_unit_test(test_too_many_pins),
        cmocka_unit_test(test_prompts_find_what_fits),
        cmocka_unit_test(test_device_goes_first),
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_place),
        cmocka_unit_test(test_allocations),
        cmocka_unit_test(test_available),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
