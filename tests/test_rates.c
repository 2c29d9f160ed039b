/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a machine is measured by: the readers read everything; rates can be true, are kept, and nothing that is not of
 * this machine and this model is believed.
 */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cache_file.h"
#include "host_read.h"
#include "model_builder.h"
#include "op_device.h"
#include "rates.h"
#include "sample.h"
#include "variants.h"

static const char MAGIC[] = "SCRATE03";
enum { KEY_BYTES = 1024 }; /* of a record, ahead of the rates */

static struct gpu *gpu;
static struct cpu_pool *pool;

static int open_machine(void **state)
{
    (void)state;
    struct sc_error e = {0};
    gpu = gpu_create(NULL, "", &e);
    pool = cpu_pool_create(2, &e);
    if (gpu && pool)
        return 0;
    print_error("%s\n", e.text);
    return -1;
}

static int close_machine(void **state)
{
    (void)state;
    cpu_pool_destroy(pool);
    gpu_destroy(gpu);
    return 0;
}

/* A random model, open. */
struct trial_model {
    char path[64];
    struct sc_gguf *gguf;
    struct config config;
    struct weights weights;
};

static void model_open(struct trial_model *m, const struct model_spec *spec)
{
    struct sc_error e = {0};
    snprintf(m->path, sizeof m->path, "rates-%ld.tmp.gguf", (long)getpid());
    assert_true(model_write(m->path, spec));
    m->gguf = sc_gguf_open(m->path, &e);
    if (!m->gguf || !config_read(&m->config, m->gguf, &e) || !weights_init(&m->weights, &m->config, m->gguf, &e))
        fail_msg("%s", e.text);
}

static void model_close(struct trial_model *m)
{
    weights_finish(&m->weights);
    sc_gguf_close(m->gguf);
    unlink(m->path);
}

static uint32_t xor_words(const uint32_t *words, size_t n)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum ^= words[i];
    return sum;
}

/* Every word counts once: the sums' sum is that of the words, also where the threads do not divide them. */
static void test_device_read(void **state)
{
    struct op_device *d = *state;
    static const uint32_t n_rows[] = {1, 63, 64, 65, 257, 1024, 1029};
    for (size_t i = 0; i < sizeof n_rows / sizeof n_rows[0]; i++) {
        struct op_judge j = {0};
        op_case(&j, d, 100 + i, "op_read of %u times 16 bytes", n_rows[i]);
        const struct tensor from = op_random(d, n_rows[i], 4, 1), to = op_tensor(d, SC_F32, 1, 128);
        op_writes(d, to);
        op_read(&d->commands, to, from);
        op_judge_run(&j, d);
        const uint32_t want = xor_words(op_words(d, from), 4 * (size_t)n_rows[i]);
        op_judge_word(&j, 0, 0, xor_words(op_words(d, to), 128), want);
    }
}

static void test_host_read(void **state)
{
    (void)state;
    const size_t n = ((3 << 20) + 5 * 128) / sizeof(uint64_t);
    uint64_t *words = malloc(n * sizeof *words), seed = 9, want = 0;
    assert_non_null(words);
    for (size_t i = 0; i < n; i++)
        want ^= words[i] = random_u64(&seed);
    assert_true(host_read(pool, words, n * sizeof *words) == want);
    words[n - 1] ^= 4;
    assert_true(host_read(pool, words, n * sizeof *words) == (want ^ 4));
    free(words);
}

/* A sample has the types and sizes of the model's experts, and holds finite weights. */
static void test_sample(void **state)
{
    (void)state;
    struct trial_model m;
    struct sample s;
    struct upload u;
    struct sc_error e = {0};
    model_open(&m, &(struct model_spec){.layers = 3, .experts = 4, .used = 3, .seed = 4});
    const struct layer_weights *layers = m.weights.layers;
    if (!sample_init(&s, gpu, pool, &m.weights, &m.config, 64 << 20, &e) || !upload_init(&u, gpu, pool, 1 << 20, &e) ||
        !sample_upload(&s, &u, &e) || !gpu_wait_transfer(gpu, gpu->transfer.submitted, &e))
        fail_msg("%s", e.text);
    assert_int_equal(s.n_used, 3);
    assert_int_equal(s.n_groups, 4); /* 12 experts there are */
    for (uint32_t g = 0; g < s.n_groups; g++) {
        const uint32_t layer = (2 * g + 1) * 3 / 8;
        for (uint32_t k = 0; k < s.n_used; k++) {
            const struct expert_weights x = sample_expert(&s, g, k, s.n_ff), *like = &layers[layer].experts[0];
            assert_int_equal(x.down.type, like->down.type);
            assert_int_equal(x.gate.size_bytes, like->gate.size_bytes);
            assert_int_equal(x.down.size_bytes, like->down.size_bytes);
            float values[256], sum = 0;
            sc_type_info(x.down.type)->dequantize(x.down.data, values, 1);
            for (int i = 0; i < 256; i++)
                sum += fabsf(values[i]);
            assert_true(sum > 0 && sum < 256);
        }
        assert_int_equal(sample_tensor(&s, g, 2, s.n_ff).cols, s.n_ff);
        assert_int_equal(sample_tensor(&s, g, 2, s.n_ff).offset % 256, 0);
    }
    upload_finish(&u);
    sample_finish(&s);

    /* with little room it has fewer experts */
    if (!sample_init(&s, gpu, pool, &m.weights, &m.config, s.slot_bytes + 300000, &e))
        fail_msg("%s", e.text);
    assert_true(s.n_used * s.n_groups < 12);
    sample_finish(&s);
    model_close(&m);
}

static void check(const struct rates *r)
{
    assert_true(rates_are_plausible(r));
    const double *values = (const double *)(const void *)r;
    for (size_t i = 0; i < sizeof *r / sizeof(double); i++)
        assert_true(values[i] > 0 && isfinite(values[i]));
}

static void get(struct rates *r, const struct trial_model *m, const char *dir)
{
    struct sc_error e = {0};
    memset(r, 0xFF, sizeof *r);
    const uint64_t before = gpu->allocated_bytes;
    if (!rates_get(r, gpu, &m->weights, &m->config, pool, dir, false, &e))
        fail_msg("%s", e.text);
    check(r);
    assert_int_equal(gpu->allocated_bytes, before);
}

/* The one file in the folder. */
static void find_file(char path[CACHE_PATH_BYTES], const char *dir)
{
    DIR *d = opendir(dir);
    assert_non_null(d);
    uint32_t n = 0;
    for (const struct dirent *entry; (entry = readdir(d));)
        if (entry->d_name[0] != '.') {
            cache_file_path(path, dir, entry->d_name);
            n++;
        }
    closedir(d);
    assert_int_equal(n, 1);
}

/* Writes a record of the file's key, or of another one, that says `value` of everything, on a machine with nothing else
 * to do. */
static void plant(const char *path, const uint8_t *record, size_t size_bytes, bool foreign, double value)
{
    uint8_t *copy = malloc(size_bytes);
    assert_non_null(copy);
    memcpy(copy, record, size_bytes);
    for (size_t at = KEY_BYTES; at < KEY_BYTES + sizeof(struct rates); at += sizeof value)
        memcpy(copy + at, &value, sizeof value);
    copy[size_bytes - sizeof(uint64_t)] = 1;
    copy[40] ^= foreign;
    assert_true(cache_file_write(path, MAGIC, copy, size_bytes));
    free(copy);
}

/* The record with another host_read, from a machine with nothing else to do or not. */
static void plant_one(const char *path, const uint8_t *record, size_t size_bytes, double host_read, uint64_t is_steady)
{
    struct rates r;
    uint8_t copy[KEY_BYTES + sizeof r + sizeof is_steady];
    assert_int_equal(size_bytes, sizeof copy);
    memcpy(copy, record, size_bytes);
    memcpy(&r, copy + KEY_BYTES, sizeof r);
    r.host_read = host_read;
    memcpy(copy + KEY_BYTES, &r, sizeof r);
    memcpy(copy + KEY_BYTES + sizeof r, &is_steady, sizeof is_steady);
    assert_true(cache_file_write(path, MAGIC, copy, sizeof copy));
}

static void test_cache(void **state)
{
    (void)state;
    struct trial_model m;
    struct rates first, again;
    char dir[64], path[CACHE_PATH_BYTES];
    model_open(&m, &(struct model_spec){.type = "q8_0", .experts = 8, .seed = 4});
    snprintf(dir, sizeof dir, "rates-%ld.tmp/cache", (long)getpid());

    get(&first, &m, dir);
    get(&again, &m, dir);
    assert_memory_equal(&first, &again, sizeof first);
    find_file(path, dir);
    size_t size_bytes = 0;
    uint8_t *record = cache_file_read(path, MAGIC, 4096, &size_bytes);
    assert_non_null(record);
    assert_int_equal(size_bytes, KEY_BYTES + sizeof first + sizeof(uint64_t));

    plant(path, record, size_bytes, false, 50);
    get(&again, &m, dir);
    assert_false(again.device_read == 50); /* 50 bytes a second are no device */
    plant(path, record, size_bytes, true, 20000);
    get(&again, &m, dir);
    assert_false(again.device_read == 20000); /* another machine's */
    plant_one(path, record, size_bytes, 2 * first.host_read, true);
    get(&again, &m, dir);
    assert_true(again.host_read == 2 * first.host_read); /* what is kept is believed */
    plant_one(path, record, size_bytes, 3 * first.host_read, false);
    get(&again, &m, dir);
    assert_false(again.host_read == 3 * first.host_read); /* unless it was measured on a busy machine */

    /* damage is not believed, and the file is made anew */
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, 24 + KEY_BYTES + 6, SEEK_SET);
    fputc(0x41, f);
    fclose(f);
    size_t unused;
    assert_null(cache_file_read(path, MAGIC, 4096, &unused));
    assert_int_equal(truncate(path, 700), 0);
    get(&first, &m, dir);
    get(&again, &m, dir);
    assert_memory_equal(&first, &again, sizeof first);

    free(record);
    unlink(path);
    rmdir(dir);
    *strchr(dir, '/') = 0;
    rmdir(dir);
    model_close(&m);
}

/* Other shapes: dense, with an expert that is cut, within a small budget; and without a cache it measures anew. */
static void test_shapes(void **state)
{
    (void)state;
    static const struct model_spec specs[] = {
        {.dense = true, .type = "f16", .seed = 1},
        {.d = 64, .ff = 96, .type = "q8_0", .experts = 16, .used = 5, .seed = 2},
        {.ff = 2048, .type = "f32", .layers = 1, .experts = 2, .used = 1, .seed = 3},
    };
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        struct trial_model m;
        struct rates r;
        model_open(&m, &specs[i]);
        gpu->budget_bytes = 16 << 20;
        get(&r, &m, "");
        gpu->budget_bytes = 0;
        model_close(&m);
    }
}

/* With kernels that round activations first, into memory that they need beside. */
static void test_rounding(void **state)
{
    (void)state;
    struct trial_model m;
    struct rates r;
    uint32_t n, variant = 0;
    gpu->choices.may_round = true;
    const struct variant *v = family_variants(FAMILY_MATMUL, &n);
    while (variant < n && (v[variant].rounding != ROUNDS_TO_Q8 || variant_lacks(&v[variant], &gpu->info)))
        variant++;
    if (variant < n) {
        model_open(&m, &(struct model_spec){.d = 64, .ff = 96, .type = "q8_0", .seed = 5});
        gpu->choices.forced[FAMILY_MATMUL] = (uint8_t)(1 + variant);
        get(&r, &m, "");
        gpu->choices.forced[FAMILY_MATMUL] = 0;
        model_close(&m);
    }
    gpu->choices.may_round = false;
    if (variant == n) {
        print_message("%s has no such kernels\n", gpu->info.name);
        skip();
    }
}

static void test_no_room(void **state)
{
    (void)state;
    struct trial_model m;
    struct rates r;
    struct sc_error e = {0};
    model_open(&m, &(struct model_spec){.type = "q8_0", .seed = 4});
    const uint64_t before = gpu->allocated_bytes;
    gpu->budget_bytes = 100000;
    assert_false(rates_get(&r, gpu, &m.weights, &m.config, pool, "", false, &e));
    gpu->budget_bytes = 0;
    assert_int_equal(e.code, SC_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(gpu->allocated_bytes, before);
    model_close(&m);
}

int main(void)
{
    const struct CMUnitTest ops[] = {cmocka_unit_test(test_device_read)};
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_host_read), cmocka_unit_test(test_sample),
                                       cmocka_unit_test(test_cache),     cmocka_unit_test(test_shapes),
                                       cmocka_unit_test(test_rounding),  cmocka_unit_test(test_no_room)};
    return cmocka_run_group_tests_name("reading", ops, op_device_create, op_device_destroy) +
           cmocka_run_group_tests_name("rates", tests, open_machine, close_machine);
}
