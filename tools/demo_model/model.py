# SPDX-License-Identifier: Apache-2.0
"""A small Mixtral (or, with experts=0, a dense llama) in PyTorch, written for training on a CPU."""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    vocab: int = 4096
    d: int = 256
    ff: int = 512  # per expert; the dense model has experts * 0 + used * ff
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    experts: int = 8  # 0: dense, with a feed-forward as wide as the used experts together
    used: int = 2
    context: int = 1024
    rope_base: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self):
        return self.d // self.heads


@torch.compile(dynamic=True)
def rms_norm(x, w, eps):
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w


def rope_tables(c):
    th = torch.arange(c.context)[:, None] * c.rope_base ** (-torch.arange(0, c.head_dim, 2) / c.head_dim)
    return th.cos(), th.sin()  # (context, head_dim / 2)


@torch.compile(dynamic=True)
def rope(x, cos, sin):
    """Rotates interleaved pairs (x0, x1), (x2, x3)...; x: (batch, time, heads, head_dim)."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:x.shape[1], None], sin[:x.shape[1], None]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q = nn.Linear(c.d, c.heads * c.head_dim, bias=False)
        self.k = nn.Linear(c.d, c.kv_heads * c.head_dim, bias=False)
        self.v = nn.Linear(c.d, c.kv_heads * c.head_dim, bias=False)
        self.o = nn.Linear(c.heads * c.head_dim, c.d, bias=False)

    def forward(self, x, cos, sin):
        c, (b, t, _) = self.c, x.shape
        w = torch.cat((self.q.weight, self.k.weight, self.v.weight))
        qkv = F.linear(x, w).view(b, t, c.heads + 2 * c.kv_heads, c.head_dim)
        qk = rope(qkv[:, :, :c.heads + c.kv_heads], cos, sin).to(qkv.dtype)
        q, k = qk.transpose(1, 2).split((c.heads, c.kv_heads), 1)
        v = qkv[:, :, c.heads + c.kv_heads:].transpose(1, 2)
        r = c.heads // c.kv_heads
        k, v = k.repeat_interleave(r, 1), v.repeat_interleave(r, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


@torch.compile(dynamic=True)
def swiglu(h):
    gate, up = h.float().chunk(2, -1)
    return (F.silu(gate) * up).to(h.dtype)


@torch.compile(dynamic=True)
def swiglu_backward(h, dy):
    gate, up = h.float().chunk(2, -1)
    s, dy = gate.sigmoid(), dy.float()
    return (dy * up * s * (1 + gate * (1 - s))).to(h.dtype), (dy * s * gate).to(h.dtype)


class GroupedSwiglu(torch.autograd.Function):
    """down[e] @ swiglu(gate_up[e] @ x) for rows x that are sorted by expert: one product an expert."""

    @staticmethod
    def forward(ctx, x, gate_up, down, counts):
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        x, gate_up, down = x.to(dtype), gate_up.to(dtype), down.to(dtype)
        h, y = x.new_empty(len(x), gate_up.shape[1]), torch.empty_like(x)
        for a, b, w in zip(x.split(counts), h.split(counts), gate_up):
            torch.mm(a, w.T, out=b)
        m = swiglu(h)
        for a, b, w in zip(m.split(counts), y.split(counts), down):
            torch.mm(a, w.T, out=b)
        ctx.save_for_backward(x, h, m, gate_up, down)
        ctx.counts = counts
        return y

    @staticmethod
    def backward(ctx, dy):
        x, h, m, gate_up, down = ctx.saved_tensors
        counts, dy = ctx.counts, dy.to(x.dtype).contiguous()
        dm, dx = torch.empty_like(m), torch.empty_like(x)
        d_gate_up, d_down = torch.empty_like(gate_up), torch.empty_like(down)
        for g, a, b, w, dw in zip(dy.split(counts), m.split(counts), dm.split(counts), down, d_down):
            torch.mm(g, w, out=b)
            torch.mm(g.T, a, out=dw)
        dh = torch.cat(swiglu_backward(h, dm), -1)
        for g, a, b, w, dw in zip(dh.split(counts), x.split(counts), dx.split(counts), gate_up, d_gate_up):
            torch.mm(g, w, out=b)
            torch.mm(g.T, a, out=dw)
        return dx, d_gate_up.float(), d_down.float(), None


class Experts(nn.Module):
    """Top-k of softmaxed router logits, renormalized over the chosen: the same as softmax over the chosen logits."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.router = nn.Parameter(torch.empty(c.experts, c.d))
        self.gate_up = nn.Parameter(torch.empty(c.experts, 2 * c.ff, c.d))
        self.down = nn.Parameter(torch.empty(c.experts, c.d, c.ff))
        self.counts = None  # (experts,) tokens of the last batch
        self.balance = None  # load-balancing loss of the last batch

    def forward(self, x):
        c, shape = self.c, x.shape
        x = x.reshape(-1, c.d)
        with torch.autocast("cpu", enabled=False):
            p = F.linear(x.float(), self.router).softmax(-1)
        w, chosen = p.topk(c.used, -1)  # (tokens, used)
        w = w / w.sum(-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)
        token = order // c.used
        counts = torch.bincount(chosen.flatten(), minlength=c.experts)
        self.counts = counts
        self.balance = c.experts * (counts / counts.sum() * p.mean(0)).sum()
        y = GroupedSwiglu.apply(x.index_select(0, token), self.gate_up, self.down, counts.tolist())
        y = y.float() * w.flatten().index_select(0, order)[:, None]
        return torch.zeros(x.shape, dtype=torch.float32).index_add(0, token, y).view(shape)


class Dense(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(2 * c.used * c.ff, c.d))
        self.down = nn.Parameter(torch.empty(c.d, c.used * c.ff))

    def forward(self, x):
        shape = x.shape
        y = GroupedSwiglu.apply(x.reshape(-1, shape[-1]), self.gate_up[None], self.down[None], [shape[:-1].numel()])
        return y.view(shape)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.eps = c.eps
        self.attn_norm = nn.Parameter(torch.ones(c.d))
        self.attn = Attention(c)
        self.ffn_norm = nn.Parameter(torch.ones(c.d))
        self.ffn = Experts(c) if c.experts else Dense(c)

    def forward(self, x, cos, sin, drop):
        x = x + F.dropout(self.attn(rms_norm(x, self.attn_norm, self.eps), cos, sin).float(), drop, self.training)
        return x + F.dropout(self.ffn(rms_norm(x, self.ffn_norm, self.eps)).float(), drop, self.training)


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Parameter(torch.empty(c.vocab, c.d))  # also the output matrix
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.Parameter(torch.ones(c.d))
        cos, sin = rope_tables(c)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                into_residual = name.endswith(("attn.o.weight", "ffn.down"))
                nn.init.normal_(p, std=0.02 / (2 * c.layers) ** 0.5 if into_residual else 0.02)

    def forward(self, tokens, drop=0.0):
        """Logits (batch, time, vocab) of tokens (batch, time)."""
        x = F.embedding(tokens, self.embed)
        for b in self.blocks:
            x = b(x, self.cos, self.sin, drop)
        return F.linear(rms_norm(x, self.norm, self.c.eps), self.embed)

    def balance(self):
        return sum(b.ffn.balance for b in self.blocks) / len(self.blocks)

    def counts(self):
        return torch.stack([b.ffn.counts for b in self.blocks])  # (layers, experts)
