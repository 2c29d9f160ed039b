/* SPDX-License-Identifier: Apache-2.0 */
#include "types.h"

#include "dequantize.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Scoria reads weights where they lie in the file, which is little-endian"
#endif

static const struct sc_type_info types[] = {
    {SC_F32, "f32", 1, 4, dequantize_f32},
    {SC_F16, "f16", 1, 2, dequantize_f16},
    {SC_Q4_0, "q4_0", 32, 18, dequantize_q4_0},
    {SC_Q4_1, "q4_1", 32, 20, dequantize_q4_1},
    {SC_Q5_0, "q5_0", 32, 22, dequantize_q5_0},
    {SC_Q5_1, "q5_1", 32, 24, dequantize_q5_1},
    {SC_Q8_0, "q8_0", 32, 34, dequantize_q8_0},
    {SC_Q2_K, "q2_k", 256, 84, dequantize_q2_k},
    {SC_Q3_K, "q3_k", 256, 110, dequantize_q3_k},
    {SC_Q4_K, "q4_k", 256, 144, dequantize_q4_k},
    {SC_Q5_K, "q5_k", 256, 176, dequantize_q5_k},
    {SC_Q6_K, "q6_k", 256, 210, dequantize_q6_k},
    {SC_IQ4_NL, "iq4_nl", 32, 18, dequantize_iq4_nl},
    {SC_IQ4_XS, "iq4_xs", 256, 136, dequantize_iq4_xs},
    {SC_BF16, "bf16", 1, 2, dequantize_bf16},
};

/* Every id that ggml has ever given out, also those it has taken back (4, 5, 31 to 33, 36 to 38). */
static const char *const names[] = {
    [0] = "f32",         [1] = "f16",         [2] = "q4_0",        [3] = "q4_1",      [4] = "q4_2",     [5] = "q4_3",
    [6] = "q5_0",        [7] = "q5_1",        [8] = "q8_0",        [9] = "q8_1",      [10] = "q2_k",    [11] = "q3_k",
    [12] = "q4_k",       [13] = "q5_k",       [14] = "q6_k",       [15] = "q8_k",     [16] = "iq2_xxs", [17] = "iq2_xs",
    [18] = "iq3_xxs",    [19] = "iq1_s",      [20] = "iq4_nl",     [21] = "iq3_s",    [22] = "iq2_s",   [23] = "iq4_xs",
    [24] = "i8",         [25] = "i16",        [26] = "i32",        [27] = "i64",      [28] = "f64",     [29] = "iq1_m",
    [30] = "bf16",       [31] = "q4_0_4_4",   [32] = "q4_0_4_8",   [33] = "q4_0_8_8", [34] = "tq1_0",   [35] = "tq2_0",
    [36] = "iq4_nl_4_4", [37] = "iq4_nl_4_8", [38] = "iq4_nl_8_8", [39] = "mxfp4",    [40] = "nvfp4",   [41] = "q1_0",
};

const struct sc_type_info *sc_type_info(uint32_t type)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if ((uint32_t)types[i].type == type)
            return &types[i];
    return NULL;
}

const char *sc_type_name(uint32_t type)
{
    return type < sizeof names / sizeof names[0] ? names[type] : NULL;
}

const struct sc_type_info *sc_types(size_t *count)
{
    *count = sizeof types / sizeof types[0];
    return types;
}
