/* SPDX-License-Identifier: Apache-2.0 */
/* The dequantizers against values recorded from another implementation (tools/record_quant_vectors.py). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "types.h"

enum { MAX_BLOCK_BYTES = 1 << 12, MAX_WEIGHTS = 1 << 10 };
static const float poison = -12345.678f;

static bool same(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static void check_record(FILE *f, const uint32_t head[3])
{
    const struct sc_type_info *info = sc_type_info(head[0]);
    assert_non_null(info);
    uint32_t n_blocks = head[1], n = head[2];
    assert_int_equal(n, n_blocks * info->block_size);

    static uint8_t blocks[MAX_BLOCK_BYTES];
    static float want[MAX_WEIGHTS], got[MAX_WEIGHTS + 2];
    size_t size_bytes = (size_t)n_blocks * info->block_bytes;
    assert_true(size_bytes < sizeof blocks && n <= MAX_WEIGHTS);
    assert_int_equal(fread(blocks, 1, size_bytes, f), size_bytes);
    assert_int_equal(fread(want, sizeof want[0], n, f), n);

    got[0] = got[n + 1] = poison;
    info->dequantize(blocks, got + 1, n_blocks);
    for (uint32_t i = 0; i < n; i++)
        if (!same(got[1 + i], want[i]))
            fail_msg("%s, weight %u: got %.9g, recorded %.9g", info->name, i, (double)got[1 + i], (double)want[i]);
    assert_true(same(got[0], poison) && same(got[n + 1], poison));

    /* blocks lie at any address in a file */
    memmove(blocks + 1, blocks, size_bytes);
    info->dequantize(blocks + 1, got + 1, n_blocks);
    assert_true(same(got[1], want[0]) && same(got[n], want[n - 1]));
}

static void test_recorded_values(void **state)
{
    (void)state;
    FILE *f = fopen(SCORIA_TEST_VECTORS "/quant.bin", "rb");
    assert_non_null(f);
    uint32_t head[3];
    size_t n_records = 0, n_types;
    for (; fread(head, sizeof head[0], 3, f) == 3; n_records++)
        check_record(f, head);
    assert_true(feof(f));
    fclose(f);
    sc_types(&n_types);
    assert_int_equal(n_records, n_types);
}

static void test_half_to_float(void **state)
{
    (void)state;
    static const struct {
        uint16_t half;
        float value;
    } cases[] = {
        {0x0000, 0.0f},      {0x8000, -0.0f},       {0x0001, 0x1p-24f}, {0x03FF, 0x1.FF8p-15f}, {0x0400, 0x1p-14f},
        {0x3C00, 1.0f},      {0xBC01, -0x1.004p0f}, {0x7BFF, 65504.0f}, {0x7C00, INFINITY},     {0xFC00, -INFINITY},
        {0x8001, -0x1p-24f}, {0x3555, 0x1.554p-2f}, {0x7E00, NAN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (!same(sc_half_to_float(cases[i].half), cases[i].value))
            fail_msg("half 0x%04X gives %.9g", cases[i].half, (double)sc_half_to_float(cases[i].half));
}

static void test_table(void **state)
{
    (void)state;
    size_t n;
    const struct sc_type_info *types = sc_types(&n);
    assert_int_equal(n, 15);
    for (size_t i = 0; i < n; i++) {
        assert_true(i == 0 || types[i].type > types[i - 1].type);
        assert_ptr_equal(sc_type_info(types[i].type), &types[i]);
        assert_string_equal(sc_type_name(types[i].type), types[i].name);
    }
    assert_null(sc_type_info(29));
    assert_string_equal(sc_type_name(29), "iq1_m");
    static const uint32_t unknown[] = {42, 1000, INT32_MAX, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        assert_null(sc_type_info(unknown[i]));
        assert_null(sc_type_name(unknown[i]));
    }
}

/* Any bytes are valid blocks: nothing but the sanitizers looks at the result. */
static void test_any_bytes(void **state)
{
    (void)state;
    size_t n;
    const struct sc_type_info *types = sc_types(&n);
    uint32_t seed = 1;
    for (size_t i = 0; i < n; i++) {
        uint8_t *block = malloc(types[i].block_bytes);
        float *out = malloc(types[i].block_size * sizeof *out);
        assert_true(block && out);
        for (int round = 0; round < 500; round++) {
            for (uint32_t k = 0; k < types[i].block_bytes; k++) {
                seed = seed * 1664525 + 1013904223;
                block[k] = (uint8_t)(seed >> 24);
            }
            types[i].dequantize(block, out, 1);
        }
        free(out);
        free(block);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded_values),
        cmocka_unit_test(test_half_to_float),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_any_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
