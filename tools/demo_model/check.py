#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the exported model. Usage: check.py WORK CHECKPOINT [GGUF]

1. The quantizers: what gguf's own dequantizers read back is as near as the types promise.
2. The tokenizer: merging by score with what the GGUF file holds gives sentencepiece's own ids.
3. The model: an f32 and an f16 export give the logits of PyTorch, in prefill and token by token.
4. With GGUF: that file's tensors, their types and what it continues.
"""
import sys
import tempfile
from pathlib import Path

import numpy as np
import sentencepiece as spm
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

import export
from gguf_model import GgufModel
from model import Config, Model
from quantize import QUANTIZERS


def expect(ok, text):
    print(("ok    " if ok else "FAIL  ") + text)
    if not ok:
        sys.exit(1)


def check_quantizers():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((64, 512)).astype(np.float32) * rng.uniform(0.01, 1, (64, 1)).astype(np.float32)
    x[0], x[1, :256], x[2] = 0, 0, np.abs(x[2])
    for name, bound in (("q8_0", 0.006), ("q6_k", 0.02), ("q5_k", 0.04), ("q4_k", 0.08)):
        y = dequantize(QUANTIZERS[name](x), GGMLQuantizationType[name.upper()])
        error = np.linalg.norm(y - x) / np.linalg.norm(x)
        expect(error < bound and not y[0].any(), f"{name}: relative error {error:.4f} < {bound}")


def check_tokenizer(model, work):
    sp = spm.SentencePieceProcessor(model_file=str(work / "spm.model"))
    lines = (work / "val.txt").read_text().splitlines()[::10]
    lines += ["", " ", "  two  spaces ", "tab\tand\nnewline", "caf\u00e9 \u4f60\u597d \U0001f600", "x" * 50, "\u2581", "<s></s><0x0A>"]
    wrong = [x for x in lines if model.tokenizer.encode(x) != sp.encode(x)]
    expect(not wrong, f"tokenizer: {len(lines)} texts as in sentencepiece" + (f", first wrong: {wrong[0]!r}" if wrong else ""))
    odd = [x for x in lines if x and "\u2581" not in x and model.tokenizer.decode(model.tokenizer.encode(x)) != x]
    expect(not odd, "tokenizer: decoding gives the text back" + (f", first wrong: {odd[0]!r}" if odd else ""))


def main(work, checkpoint, published=None):
    work = Path(work)
    check_quantizers()
    state = torch.load(checkpoint, weights_only=False)
    torch_model = Model(Config(experts=0) if state["dense"] else Config()).eval()
    torch_model.load_state_dict(state["model"])
    with tempfile.TemporaryDirectory() as tmp:
        for kind, bound in (("f32", 2e-4), ("f16", 2e-2)):
            path = f"{tmp}/{kind}.gguf"
            export.main(checkpoint, str(work / "spm.model"), path, f"all={kind}")
            model = GgufModel(path, np.float64)
            tokens = [1] + model.tokenizer.encode((work / "val.txt").read_text()[:2000])[:255]
            with torch.no_grad():
                want = torch_model(torch.tensor([tokens]))[0].double().numpy()
            got = model.forward(tokens)
            model.reset()
            steps = np.concatenate([model.forward([t]) for t in tokens[:32]])
            worst, apart = np.abs(got - want).max(), np.abs(got[:32] - steps).max()
            expect(worst < bound, f"{kind}: logits differ from PyTorch by at most {worst:.2g} < {bound}")
            expect(apart < 1e-9, f"{kind}: token by token as in one go ({apart:.2g})")
            expect((got.argmax(-1) == want.argmax(-1)).mean() > 0.99, f"{kind}: the same likeliest tokens")
        check_tokenizer(model, work)
    if published:
        model = GgufModel(published)
        size = Path(published).stat().st_size
        expect(size <= 24_000_000, f"{published}: {size} bytes")
        for kind in sorted(set(model.types.values())):
            print(f"      {kind}: {sum(v == kind for v in model.types.values())} tensors")
        for prompt in ("Once upon a time", "\"I do not know,\" said the"):
            print("      " + prompt + model.generate(prompt, 60).replace("\n", "\n      "))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
