#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the demo model on the CPU, from the files that prepare.py wrote.

Usage: train.py WORK NAME [--dense] [--steps N] [--lr X] [--dropout X] [--threads N] [--fp32]
Writes WORK/NAME.pt (checkpoint, every few minutes; a run that finds it goes on from there) and appends to
WORK/NAME.jsonl (losses). The learning rate warms up, stays, and falls linearly to zero over the last part.
"""
import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from model import Config, Model

BATCH = 4096  # tokens a step
WINDOWS = [(0.0, 256), (0.5, 512), (0.85, 1024)]  # from this part of the run on, windows of so many tokens
WARM_UP, DECAY = 200, 0.4  # steps; part of the run
BALANCE = 0.01
BOS, NEWLINE = 1, 3 + 10


class Text:
    """Windows of BOS and text that begins with a paragraph, cut anew in every epoch."""

    def __init__(self, path):
        d = np.load(path)
        self.ids, self.start, self.rest = d["ids"].astype(np.int64), d["start"], d["rest"]
        chapter = d["chapter"]
        self.last = np.append(chapter[1:] != chapter[:-1], True)  # ends a chapter
        self.length = self.rest[:, 1] - self.rest[:, 0] + 1

    def window(self, paragraph, n):
        """n tokens from this paragraph on, and the paragraph in which they end."""
        out = [np.array([BOS]), self.ids[slice(*self.start[paragraph])]]
        total = sum(map(len, out))
        while total < n and paragraph + 1 < len(self.rest):
            # a chapter's end is an empty line
            out.append(np.full(2 if self.last[paragraph] else 1, NEWLINE))
            paragraph += 1
            out.append(self.ids[slice(*self.rest[paragraph])])
            total += len(out[-1]) + len(out[-2])
        out = np.concatenate(out)
        return np.pad(out, (0, max(0, n - len(out))), constant_values=NEWLINE)[:n], paragraph

    def epoch(self, n, rng):
        """Paragraphs at which the windows of one pass start, shuffled; the cut is moved at random."""
        ends = np.cumsum(self.length)
        at = np.searchsorted(ends, np.arange(rng.integers(n) - n // 2, ends[-1], n - 1).clip(0))
        return rng.permutation(np.unique(at.clip(0, len(ends) - 1)))

    def batches(self, rng, size_of, tokens):
        """Endless (windows, n + 1) arrays; size_of() is asked for n at every batch."""
        queue, size = [], 0
        while True:
            n = size_of()
            if n != size:
                queue, size = [], n
            rows = []
            while len(rows) < tokens // n:
                if not len(queue):
                    queue = self.epoch(n, rng)
                rows.append(self.window(queue[0], n + 1)[0])
                queue = queue[1:]
            yield torch.from_numpy(np.stack(rows))


def loss_of(model, batch, drop=0.0):
    logits = model(batch[:, :-1], drop)
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


@torch.no_grad()
def validate(model, text, n=512, limit=None):
    """Mean loss over the validation chapters in windows of n, and the tokens of each layer's experts."""
    model.eval()
    starts = text.epoch(n, np.random.default_rng(0))
    starts = starts[:limit] if limit else starts
    total, counts = 0.0, 0
    for i in range(0, len(starts), 16):
        batch = torch.from_numpy(np.stack([text.window(p, n + 1)[0] for p in starts[i:i + 16]]))
        total += loss_of(model, batch).item() * len(batch)
        if model.c.experts:
            counts = counts + model.counts()
    model.train()
    return total / len(starts), counts


def save(path, **state):
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("work", type=Path)
    a.add_argument("name")
    a.add_argument("--dense", action="store_true")
    a.add_argument("--steps", type=int, default=1800)
    a.add_argument("--lr", type=float, default=1.5e-3)
    a.add_argument("--dropout", type=float, default=0.0)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--fp32", action="store_true")
    a.add_argument("--stop-after", type=int, help="stop at this step (to measure)")
    o = a.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(1)

    model = Model(Config(experts=0) if o.dense else Config())
    decay = [p for p in model.parameters() if p.dim() > 1]
    keep = [p for p in model.parameters() if p.dim() == 1]
    opt = torch.optim.AdamW([dict(params=decay, weight_decay=0.1), dict(params=keep, weight_decay=0.0)],
                            lr=o.lr, betas=(0.9, 0.95), fused=True)
    path, step, seconds = o.work / f"{o.name}.pt", 0, 0.0
    if path.exists():
        s = torch.load(path, weights_only=False)
        model.load_state_dict(s["model"])
        opt.load_state_dict(s["opt"])
        step, seconds = s["step"], s["seconds"]
        torch.manual_seed(1 + step)
    train, val = Text(o.work / "train.npz"), Text(o.work / "val.npz")
    window = lambda: [n for part, n in WINDOWS if step >= part * o.steps][-1]
    batches = train.batches(np.random.default_rng([1, step]), window, BATCH)
    params = sum(p.numel() for p in model.parameters())
    print(f"{params} parameters, {train.length.sum()} tokens an epoch, {BATCH * o.steps} in all", flush=True)

    log = open(o.work / f"{o.name}.jsonl", "a")
    cast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=not o.fp32)
    saved, mean = time.time(), None
    while step < (o.stop_after or o.steps):
        t = time.time()
        lr = o.lr * min(1, (step + 1) / WARM_UP, (o.steps - step) / (DECAY * o.steps))
        for g in opt.param_groups:
            g["lr"] = lr
        with cast():
            loss = loss_of(model, next(batches), o.dropout)
            balance = model.balance() if model.c.experts else torch.zeros(())
        (loss + BALANCE * balance).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        step += 1
        seconds += time.time() - t
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        if step % 20 == 0:
            row = dict(step=step, loss=round(mean, 4), balance=round(balance.item(), 4), lr=round(lr, 6),
                       norm=round(norm.item(), 3), tokens_per_s=round(BATCH / (time.time() - t)), seconds=round(seconds))
            print(row, flush=True)
            log.write(json.dumps(row) + "\n")
        if step % 250 == 0 or step == o.steps:
            with cast():
                v, counts = validate(model, val, limit=None if step == o.steps else 64)
            row = dict(step=step, val=round(v, 4), counts=counts.tolist() if model.c.experts else None)
            print("validation", round(v, 4), flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
        if time.time() - saved > 180 or step == o.steps:
            save(path, model=model.state_dict(), opt=opt.state_dict(), step=step, seconds=seconds, steps=o.steps,
                 dense=o.dense)
            saved = time.time()


if __name__ == "__main__":
    main()
