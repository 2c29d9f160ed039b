# SPDX-License-Identifier: Apache-2.0
"""Quantizers for GGUF blocks in numpy: rows of floats in, bytes out.

Every function takes (rows, columns) float32 and gives (rows, bytes) uint8. Scales are searched: for each group the
candidates around the obvious scale are tried and the one with the least squared error, weighted by the values'
own size, wins. Then the groups' scales are quantized themselves and the values are rounded once more with those.
"""
import numpy as np


def half(x):
    """float16 as bytes: (n,) -> (n, 2)."""
    return np.ascontiguousarray(x.astype("<f2")).view(np.uint8).reshape(-1, 2)


def divide(a, b):
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape, np.float32), where=b != 0)


def q8_0(x):
    """32 values: d (f16), 32 signed bytes."""
    rows = len(x)
    x = x.reshape(-1, 32)
    d = (np.abs(x).max(1) / 127).astype(np.float16).astype(np.float32)
    q = np.rint(divide(x, d[:, None])).clip(-127, 127).astype(np.int8)
    return np.concatenate((half(d), q.view(np.uint8)), 1).reshape(rows, -1)


def signed_scales(x, top):
    """Best scale of every group for x = scale * q, q in [-top, top - 1]; x: (..., n) -> (...)."""
    peak = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)
    w = x * x + 1e-12
    best, scale = np.full(x.shape[:-1], -1.0, np.float32), np.zeros(x.shape[:-1], np.float32)
    for step in range(-9, 10):
        q = np.rint(divide(-(top + 0.1 * step) * x, peak)).clip(-top, top - 1)
        xq, qq = (w * x * q).sum(-1), (w * q * q).sum(-1)
        gain = divide(xq * xq, qq)  # what the least-squares scale xq / qq takes off the error
        better = gain > best
        best, scale = np.where(better, gain, best), np.where(better, divide(xq, qq), scale)
    return scale


def q6_k(x):
    """256 values in 16 groups: low 4 bits, high 2 bits, 16 signed byte scales, d (f16)."""
    rows = len(x)
    x = x.reshape(-1, 16, 16)
    s = signed_scales(x, 32)
    peak = np.take_along_axis(s, np.abs(s).argmax(1)[:, None], 1)[:, 0]
    d = (peak / -128).astype(np.float16).astype(np.float32)
    sc = np.rint(divide(s, d[:, None])).clip(-128, 127)
    q = np.rint(divide(x, (d[:, None] * sc)[..., None])).clip(-32, 31).astype(np.int16) + 32
    q = q.astype(np.uint8).reshape(-1, 2, 4, 32)  # (blocks, halves, quarters, 32)
    low = (q[:, :, :2] & 15) | (q[:, :, 2:] & 15) << 4
    high = q[:, :, 0] >> 4 | (q[:, :, 1] >> 4) << 2 | (q[:, :, 2] >> 4) << 4 | (q[:, :, 3] >> 4) << 6
    n = len(q)
    return np.concatenate((low.reshape(n, 128), high.reshape(n, 64), sc.astype(np.int8).view(np.uint8), half(d)),
                          1).reshape(rows, -1)


def offset_scales(x, levels):
    """Best (scale, min) of every group for x = scale * q - min, q in [0, levels), min >= 0."""
    low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
    w = np.sqrt((x * x).mean(-1, keepdims=True)) + np.abs(x)
    sw, swx = w.sum(-1), (w * x).sum(-1)
    scale, minimum = (high - low) / (levels - 1), -low
    error = lambda s, m, q: (w * (s[..., None] * q - m[..., None] - x) ** 2).sum(-1)
    best = error(scale, minimum, np.rint(divide(x - low[..., None], scale[..., None])).clip(0, levels - 1))
    for step in range(-10, 11):
        factor = divide(levels - 1 + 0.1 * step, high - low)[..., None]
        q = np.rint((x - low[..., None]) * factor).clip(0, levels - 1)
        wq = w * q
        sq, sqq, sqx = wq.sum(-1), (wq * q).sum(-1), (wq * x).sum(-1)
        det = sw * sqq - sq * sq
        s, m = divide(sw * sqx - swx * sq, det), divide(sq * sqx - sqq * swx, det)
        s, m = np.where(m < 0, divide(sqx, sqq), s), np.maximum(m, 0)
        e = error(s, m, q)
        better = (e < best) & (s > 0)
        best, scale, minimum = (np.where(better, a, b) for a, b in ((e, best), (s, scale), (m, minimum)))
    return scale, minimum


def k_with_offset(x, bits):
    """256 values in 8 groups: d, dmin (f16), 8 scales and 8 minima of 6 bits in 12 bytes, (5th bits,) 4-bit values."""
    rows, levels = len(x), 1 << bits
    x = x.reshape(-1, 8, 32)
    s, m = offset_scales(x, levels)
    d, dm = ((v.max(1) / 63).astype(np.float16).astype(np.float32) for v in (s, m))
    s, m = (np.rint(divide(v, f[:, None])).clip(0, 63).astype(np.uint8) for v, f in ((s, d), (m, dm)))
    scale, minimum = d[:, None] * s, dm[:, None] * m
    q = np.rint(divide(x + minimum[..., None], scale[..., None])).clip(0, levels - 1).astype(np.uint8)
    packed = np.concatenate((s[:, :4] | (s[:, 4:] >> 4) << 6, m[:, :4] | (m[:, 4:] >> 4) << 6,
                             s[:, 4:] & 15 | (m[:, 4:] & 15) << 4), 1)
    parts = [half(d), half(dm), packed]
    if bits == 5:
        parts.append(np.bitwise_or.reduce((q >> 4) << np.arange(8, dtype=np.uint8)[None, :, None], 1))
    parts.append((q[:, 0::2] & 15 | (q[:, 1::2] & 15) << 4).reshape(-1, 128))
    return np.concatenate(parts, 1).reshape(rows, -1)


QUANTIZERS = dict(q8_0=q8_0, q6_k=q6_k, q5_k=lambda x: k_with_offset(x, 5), q4_k=lambda x: k_with_offset(x, 4))
