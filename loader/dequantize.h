/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scalar dequantizers behind sc_type_info. Others reach them through the table.
 */
#ifndef SCORIA_DEQUANTIZE_H
#define SCORIA_DEQUANTIZE_H

#include <stddef.h>
#include <stdint.h>

void dequantize_f32(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_f16(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_bf16(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_q4_0(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_q4_1(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_q5_0(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_q5_1(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_q8_0(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_q2_k(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_q3_k(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_q4_k(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_q5_k(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_q6_k(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_iq4_nl(const uint8_t *blocks, float *out, size_t n_blocks);
void dequantize_iq4_xs(const uint8_t *blocks, float *out, size_t n_blocks);

#endif
