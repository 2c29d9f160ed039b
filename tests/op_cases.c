/* SPDX-License-Identifier: Apache-2.0 */
#include "op_cases.h"

#include <math.h>
#include <string.h>

#include "model_builder.h"

const char *const op_fill_names[OP_N_FILLS] = {"random", "any bits", "tiny", "large", "holes"};

/*
 * Rows around a workgroup's (4 to 256 of matvec, 64 and 128 of matmul), columns with odd counts of blocks, so that
 * scales that lie apart begin in a word's upper half for every second row, tokens around the 8 to 128 of a tile. 4096
 * columns go round matvec's lanes several times, 2304 round half of matmul_few's. The long one takes more workgroups
 * than one dimension of a dispatch holds, also of 64 rows each; the families share what spreads them.
 */
const struct linear_case op_linear_cases[] = {
    {1, 16, 1},     {2, 32, 1},   {3, 48, 1},     {63, 96, 1},      {65, 256, 1},   {127, 768, 1},
    {17, 160, 1},   {5, 1280, 1}, {3, 4096, 1},   {255, 32, 1},     {261, 256, 1},  {1, 256, 2},
    {2, 768, 31},   {3, 48, 32},  {63, 32, 33},   {65, 96, 65},     {127, 256, 33}, {64, 16, 2},
    {128, 512, 64}, {65, 768, 2}, {127, 160, 31}, {66, 16, 65},     {1, 32, 65},    {129, 48, 2},
    {128, 48, 9},   {65, 32, 7},  {131, 32, 130}, {2097157, 32, 1}, {13, 2304, 11},
};
const size_t op_n_linear_cases = sizeof op_linear_cases / sizeof op_linear_cases[0];

const struct expert_case op_expert_cases[] = {
    {4, 1, 1, 65, 256, false, 0},   {4, 2, 1, 127, 96, false, 2},  {8, 2, 1, 33, 768, true, 0},
    {128, 8, 1, 3, 256, false, 3},  {256, 16, 1, 2, 256, true, 5}, {1, 1, 1, 17, 32, true, 0},
    {4, 2, 1, 261, 256, true, 0},   {4, 1, 2, 65, 256, false, 0},  {4, 2, 33, 127, 96, false, 0},
    {8, 2, 65, 63, 256, true, 3},   {8, 2, 31, 66, 768, false, 4}, {128, 8, 17, 3, 256, true, 0},
    {256, 16, 9, 2, 256, false, 7}, {1, 1, 32, 1, 32, false, 0},   {8, 8, 40, 5, 48, false, 0},
    {4, 4, 70, 64, 32, true, 4},
};
const size_t op_n_expert_cases = sizeof op_expert_cases / sizeof op_expert_cases[0];

const struct embed_case op_embed_cases[] = {
    {1, 16, 1}, {2, 32, 2}, {7, 48, 31}, {65, 96, 32}, {33, 256, 33}, {5, 768, 65}, {3, 1280, 2}, {300, 160, 1},
};
const size_t op_n_embed_cases = sizeof op_embed_cases / sizeof op_embed_cases[0];

const struct norm_case op_norm_cases[] = {
    {16, 1, 1, 1e-5f},      {32, 2, 1, 1e-5f},     {48, 31, 1, 1e-6f},      {63, 3, 1, 1e-5f},
    {64, 32, 100, 1e-5f},   {65, 33, 1, 1e-5f},    {768, 65, 0.01f, 1e-5f}, {4096, 2, 1, 1e-6f},
    {256, 2, 1e-4f, 1e-5f}, {320, 3, 1e6f, 1e-5f}, {1, 2, 1, 1e-5f},        {128, 2, 0, 1e-5f},
};
const size_t op_n_norm_cases = sizeof op_norm_cases / sizeof op_norm_cases[0];

const struct rope_case op_rope_cases[] = {
    {1, 1, 4, 4, 1, 0},      {4, 2, 32, 32, 1, 0},    {4, 4, 64, 64, 3, 5},   {6, 2, 80, 32, 33, 1},
    {8, 1, 128, 64, 2, 700}, {2, 1, 256, 256, 5, 63}, {3, 1, 96, 96, 31, 64}, {32, 8, 128, 128, 1, 129},
    {2, 2, 64, 0, 2, 3},     {5, 5, 12, 2, 65, 7},
};
const size_t op_n_rope_cases = sizeof op_rope_cases / sizeof op_rope_cases[0];

/* Lengths around the 64 positions of a step, groups that do and do not divide a tile of 8 rows, splits left empty,
 * windows. */
const struct attention_case op_attention_cases[] = {
    {1, 1, 4, 1, 0, 1, 1, 0},       {4, 4, 32, 1, 0, 2, 1, 0},     {4, 1, 64, 1, 62, 1, 1, 0},
    {8, 1, 64, 1, 63, 1, 1, 0},     {8, 1, 64, 1, 63, 2, 1, 0},    {8, 2, 80, 1, 64, 2, 1, 0},
    {3, 1, 96, 1, 127, 1, 4, 0},    {6, 2, 128, 1, 128, 2, 1, 0},  {8, 1, 128, 1, 129, 16, 1, 0},
    {2, 2, 256, 1, 191, 2, 1, 0},   {4, 1, 256, 1, 500, 16, 1, 0}, {16, 2, 32, 1, 700, 16, 8, 0},
    {5, 1, 12, 1, 300, 2, 1, 0},    {32, 8, 64, 1, 255, 1, 1, 0},  {4, 4, 32, 2, 0, 1, 1, 0},
    {3, 1, 64, 31, 0, 1, 1, 0},     {8, 1, 64, 32, 0, 1, 1, 0},    {4, 1, 32, 33, 31, 2, 1, 0},
    {6, 2, 80, 65, 0, 1, 1, 0},     {2, 1, 128, 65, 63, 1, 4, 0},  {8, 2, 96, 17, 64, 2, 1, 0},
    {1, 1, 256, 5, 60, 1, 1, 0},    {6, 1, 32, 64, 64, 16, 1, 0},  {7, 1, 64, 3, 126, 2, 8, 0},
    {10, 2, 32, 130, 3, 1, 1, 0},   {4, 1, 32, 8, 0, 16, 1, 0},    {12, 4, 64, 2, 400, 2, 1, 0},
    {2, 1, 32, 1, 1023, 16, 1, 0},  {4, 2, 16, 2, 1500, 16, 1, 0}, {4, 2, 32, 1, 700, 1, 1, 1},
    {8, 2, 64, 1, 900, 16, 1, 300}, {8, 2, 32, 70, 0, 1, 1, 33},   {3, 1, 64, 17, 500, 3, 2, 129},
    {4, 4, 96, 9, 100, 2, 1, 4},    {4, 1, 32, 40, 7, 1, 1, 64},   {2, 1, 32, 3, 4000, 64, 1, 0},
    {2, 1, 256, 19, 30, 1, 1, 0},   {5, 1, 12, 7, 100, 1, 1, 0},   {4, 1, 96, 17, 64, 1, 2, 40},
};
const size_t op_n_attention_cases = sizeof op_attention_cases / sizeof op_attention_cases[0];

const struct route_case op_route_cases[] = {
    {1, 1, 1},  {2, 1, 3},  {4, 2, 33}, {8, 2, 65},   {8, 8, 2},     {16, 16, 5},   {60, 4, 4},
    {63, 3, 7}, {64, 8, 7}, {65, 9, 7}, {128, 8, 31}, {255, 15, 32}, {256, 16, 40}, {256, 1, 2},
};
const size_t op_n_route_cases = sizeof op_route_cases / sizeof op_route_cases[0];

const struct silu_case op_silu_cases[] = {
    {1, 1, 1},    {1, 63, 1},     {1, 64, 10},     {1, 65, 30},     {3, 127, 100},
    {33, 160, 1}, {2, 768, 1e4f}, {5, 256, 1e30f}, {1, 2097157, 3},
};
const size_t op_n_silu_cases = sizeof op_silu_cases / sizeof op_silu_cases[0];

const struct combine_case op_combine_cases[] = {
    {16, 1, 1}, {32, 2, 2}, {48, 2, 31}, {63, 8, 3}, {65, 16, 33}, {256, 2, 65}, {768, 3, 2}, {127, 4, 1},
};
const size_t op_n_combine_cases = sizeof op_combine_cases / sizeof op_combine_cases[0];

bool op_type_has_columns(const struct sc_type_info *type, uint32_t cols)
{
    return cols % type->block_size == 0;
}

/* Takes the top bit off the exponent: what is left is below 2 in size, and finite. */
static void tame_half(uint8_t *p)
{
    p[1] &= 0xBF;
}

static void tame_block(uint8_t *b, enum sc_type type)
{
    switch (type) {
    case SC_F32: b[3] &= 0xBF; break;
    case SC_F16:
    case SC_BF16:
    case SC_Q4_0:
    case SC_Q5_0:
    case SC_Q8_0:
    case SC_IQ4_NL:
    case SC_IQ4_XS: tame_half(b); break;
    case SC_Q4_1:
    case SC_Q5_1:
    case SC_Q4_K:
    case SC_Q5_K:
        tame_half(b);
        tame_half(b + 2);
        break;
    case SC_Q2_K:
        tame_half(b + 80);
        tame_half(b + 82);
        break;
    case SC_Q3_K: tame_half(b + 108); break;
    case SC_Q6_K: tame_half(b + 208); break;
    }
}

void op_fill_weights(void *blocks, enum sc_type type, uint32_t rows, uint32_t cols, enum op_fill fill, uint64_t *seed)
{
    const struct sc_type_info *info = sc_type_info(type);
    const size_t n = (size_t)rows * (cols / info->block_size);
    uint8_t *b = blocks;
    /* half-precision scales: the smallest normal is 6.1e-5, the largest 65504; bf16 and f32 reach further */
    const bool wide = type == SC_F32 || type == SC_BF16;
    float sigma = 1 / sqrtf((float)cols);
    if (fill == OP_FILL_TINY)
        sigma = wide ? 1e-30f : 1e-5f;
    else if (fill == OP_FILL_LARGE)
        sigma = wide ? 1e30f : 8000;
    if (fill != OP_FILL_ANY)
        random_blocks(b, type, n, sigma, seed);
    for (size_t i = 0; i < n; i++, b += info->block_bytes) {
        if (fill == OP_FILL_HOLES && i % 3 == 1)
            memset(b, 0, info->block_bytes);
        if (fill != OP_FILL_ANY)
            continue;
        for (uint32_t k = 0; k < info->block_bytes; k++)
            b[k] = (uint8_t)random_u64(seed);
        tame_block(b, type);
    }
}
