#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Continues a text with the demo model, in plain numpy. Usage: sample.py MODEL PROMPT [N] [TEMPERATURE] [TOP_P] [SEED]"""
import sys

from gguf_model import GgufModel

if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    n, temperature, top_p, seed = (sys.argv[3:] + ["120", "0.7", "0.9", "1"][len(sys.argv) - 3:])
    model = GgufModel(sys.argv[1])
    print(sys.argv[2] + model.generate(sys.argv[2], int(n), float(temperature), float(top_p), int(seed)))
