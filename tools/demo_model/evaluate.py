#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Validation loss and expert usage of a GGUF file's dequantized weights.

Usage: evaluate.py WORK GGUF [SVG]
Prints the loss in windows of 512 and 1024 tokens and the share of tokens that each layer sends to each expert;
SVG is the same as a picture.
"""
import sys
from pathlib import Path

import torch

from gguf_model import GgufModel
from model import Config, Model
from train import Text, validate


def torch_model(g):
    state, t = {}, {k: torch.from_numpy(v) for k, v in g.w.items()}
    s = "_exps" if g.experts else ""
    state["embed"], state["norm"] = t["token_embd.weight"], t["output_norm.weight"]
    for l in range(g.layers):
        p, b = f"blocks.{l}.", f"blk.{l}."
        state[p + "attn_norm"], state[p + "ffn_norm"] = t[b + "attn_norm.weight"], t[b + "ffn_norm.weight"]
        for ours, theirs in (("q", "attn_q"), ("k", "attn_k"), ("v", "attn_v"), ("o", "attn_output")):
            state[f"{p}attn.{ours}.weight"] = t[f"{b}{theirs}.weight"]
        state[p + "ffn.gate_up"] = torch.cat((t[f"{b}ffn_gate{s}.weight"], t[f"{b}ffn_up{s}.weight"]), -2)
        state[p + "ffn.down"] = t[f"{b}ffn_down{s}.weight"]
        if g.experts:
            state[p + "ffn.router"] = t[b + "ffn_gate_inp.weight"]
    m = Model(Config(experts=g.experts))
    m.load_state_dict(state)
    return m


def picture(share):
    """Layers down, experts across; the darker, the more of the tokens."""
    cell, rows = 44, []
    for l, row in enumerate(share):
        rows.append(f'<text x="52" y="{l * cell + 67}" text-anchor="end">layer {l}</text>')
        for e, x in enumerate(row):
            light = round(97 - min(x, 50) * 1.3)
            rows.append(f'<rect x="{60 + e * cell}" y="{40 + l * cell}" width="{cell - 2}" height="{cell - 2}" '
                        f'fill="hsl(18 70% {light}%)"/><text x="{60 + e * cell + 21}" y="{l * cell + 67}" '
                        f'text-anchor="middle">{x:.0f}</text>')
    for e in range(len(share[0])):
        rows.append(f'<text x="{60 + e * cell + 21}" y="30" text-anchor="middle">{e}</text>')
    w, h = 70 + len(share[0]) * cell, 50 + len(share) * cell
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" '
            f'font-family="sans-serif" font-size="13"><rect width="{w}" height="{h}" fill="white"/>'
            f'<title>Percent of validation tokens that each expert serves</title>\n' + "\n".join(rows) + "\n</svg>\n")


def main(work, path, svg=None):
    torch.set_num_threads(2)
    model, val = torch_model(GgufModel(path)), Text(Path(work) / "val.npz")
    for n in (512, 1024):
        loss, counts = validate(model, val, n)
        print(f"windows of {n}: loss {loss:.4f}")
        if n == 512 and model.c.experts:
            share = (counts / counts.sum(1, keepdim=True) * 100 * model.c.used).tolist()
    if model.c.experts:
        print("| layer | " + " | ".join(f"expert {e}" for e in range(model.c.experts)) + " |")
        print("|---" * (model.c.experts + 1) + "|")
        for l, row in enumerate(share):
            print(f"| {l} | " + " | ".join(f"{x:.1f}" for x in row) + " |")
        if svg:
            Path(svg).write_text(picture(share))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
