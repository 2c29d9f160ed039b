#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what the `gguf` package makes of fixed random blocks of every weight type: tests/vectors/quant.bin.

Usage: record_quant_vectors.py OUT
Needs numpy and gguf (recorded with gguf 0.19.0). For each type, little endian: u32 ggml type id, u32 number of
blocks, u32 number of weights, the blocks, the weights as float32.
"""
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Q
from gguf.quants import dequantize

# where a block holds its half-precision scales
HALVES = {
    Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q2_K: [80, 82], Q.Q3_K: [108],
    Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208], Q.IQ4_NL: [0], Q.IQ4_XS: [0],
}
# one block each: an ordinary scale, a negative and a subnormal one, the largest
SCALES = [[0.0123, 0.371], [-1.5, 3.0e-7], [65504.0, -65504.0]]
SPECIAL = [0.0, -0.0, 1.0, -2.5, 6.0e-8, -6.1e-5, 65504.0, 1e-3, np.inf, -np.inf, np.nan, 3.14159]


def quantized(kind, rng):
    size = GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (len(SCALES) + 1, size), dtype=np.uint8)
    blocks[-1] = 255  # every quant and every scale at its largest code
    for row, scales in zip(blocks, SCALES + [[1.0, 1.0]]):
        for at, scale in zip(HALVES[kind], scales):
            row[at:at + 2] = np.array([scale], "<f2").view(np.uint8)
    return blocks


def floats(kind, rng):
    values = np.concatenate([SPECIAL, rng.standard_normal(52)]).astype("<f4")
    if kind == Q.F16:
        return values.astype("<f2").view(np.uint8)
    if kind == Q.BF16:
        return np.ascontiguousarray(values.view("<u4") >> 16).astype("<u2").view(np.uint8)
    return values.view(np.uint8)


def main(path):
    rng = np.random.default_rng(20)
    with open(path, "wb") as f:
        for kind in [Q.F32, Q.F16, Q.BF16, *HALVES]:
            blocks = quantized(kind, rng) if kind in HALVES else floats(kind, rng)
            weights = dequantize(blocks.reshape(-1), kind).astype("<f4")
            n_blocks = blocks.size // GGML_QUANT_SIZES[kind][1]
            f.write(struct.pack("<III", kind, n_blocks, weights.size) + blocks.tobytes() + weights.tobytes())


main(*sys.argv[1:])
