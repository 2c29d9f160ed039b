# SPDX-License-Identifier: Apache-2.0
"""The demo model in plain numpy, read from its GGUF file: tokenizer, forward pass with a KV cache, sampling."""
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


class Tokenizer:
    """SentencePiece BPE: join the neighbours whose union has the best score until none is in the vocabulary."""

    def __init__(self, reader):
        field = lambda name: reader.fields["tokenizer.ggml." + name]
        f = field("tokens")
        self.pieces = [bytes(f.parts[i]).decode("utf-8", "replace") for i in f.data]
        f = field("scores")
        self.scores = [float(f.parts[i][0]) for i in f.data]
        f = field("token_type")
        self.types = [int(f.parts[i][0]) for i in f.data]
        self.bos, self.eos = (int(field(n).parts[field(n).data[0]][0]) for n in ("bos_token_id", "eos_token_id"))
        self.ids = {p: i for i, p in enumerate(self.pieces) if self.types[i] == 1}
        self.byte = {int(p[1:-1], 16): i for i, p in enumerate(self.pieces) if self.types[i] == 6}

    def encode(self, text):
        if not text:
            return []
        symbols = list(("\u2581" + text.replace(" ", "\u2581")))
        while True:
            best = None
            for i in range(len(symbols) - 1):
                t = self.ids.get(symbols[i] + symbols[i + 1])
                if t is not None and (best is None or self.scores[t] > best[0]):
                    best = self.scores[t], i
            if best is None:
                break
            i = best[1]
            symbols[i:i + 2] = [symbols[i] + symbols[i + 1]]
        out = []
        for s in symbols:
            out += [self.ids[s]] if s in self.ids else [self.byte[b] for b in s.encode()]
        return out

    def decode(self, tokens):
        out = b""
        for t in tokens:
            p = self.pieces[t]
            out += bytes([int(p[1:-1], 16)]) if self.types[t] == 6 else b"" if self.types[t] == 3 else \
                p.replace("\u2581", " ").encode()
        text = out.decode("utf-8", "replace")
        return text[1:] if text.startswith(" ") else text


class GgufModel:
    def __init__(self, path, dtype=np.float32):
        r = GGUFReader(path)
        number = lambda name, default=None: r.fields["llama." + name].parts[r.fields["llama." + name].data[0]][0] \
            if "llama." + name in r.fields else default
        self.layers, self.d = int(number("block_count")), int(number("embedding_length"))
        self.heads, self.kv_heads = int(number("attention.head_count")), int(number("attention.head_count_kv"))
        self.experts, self.used = int(number("expert_count", 0)), int(number("expert_used_count", 0))
        self.context, self.base = int(number("context_length")), float(number("rope.freq_base"))
        self.eps = float(number("attention.layer_norm_rms_epsilon"))
        self.hd = self.d // self.heads
        self.w = {t.name: dequantize(t.data, t.tensor_type).astype(dtype).reshape([int(n) for n in t.shape][::-1])
                  for t in r.tensors}
        self.types = {t.name: t.tensor_type.name for t in r.tensors}
        self.tokenizer = Tokenizer(r)
        self.dtype = dtype
        self.reset()

    def reset(self):
        empty = np.zeros((0, self.kv_heads, self.hd), self.dtype)
        self.k, self.v = [empty] * self.layers, [empty] * self.layers

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.w[name]

    def rope(self, x, first):
        th = np.arange(first, first + len(x))[:, None] * self.base ** (-np.arange(0, self.hd, 2) / self.hd)
        c, s = np.cos(th)[:, None], np.sin(th)[:, None]
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack((a * c - b * s, a * s + b * c), -1).reshape(x.shape).astype(self.dtype)

    def ffn(self, x, b):
        silu = lambda z: z / (1 + np.exp(-z))
        if not self.experts:
            return (silu(x @ self.w[b + "ffn_gate.weight"].T) * (x @ self.w[b + "ffn_up.weight"].T)) \
                @ self.w[b + "ffn_down.weight"].T
        logits = x @ self.w[b + "ffn_gate_inp.weight"].T
        y = np.zeros_like(x)
        for i in range(len(x)):
            chosen = np.argsort(-logits[i], kind="stable")[:self.used]
            p = np.exp(logits[i, chosen] - logits[i, chosen].max())
            for e, share in zip(chosen, p / p.sum()):
                gate, up, down = (self.w[f"{b}ffn_{n}_exps.weight"][e] for n in ("gate", "up", "down"))
                y[i] += share * (down @ (silu(gate @ x[i]) * (up @ x[i])))
        return y

    def forward(self, tokens):
        """Logits (tokens, vocabulary); the tokens follow those of earlier calls since reset()."""
        n, past, repeat = len(tokens), len(self.k[0]), self.heads // self.kv_heads
        x = self.w["token_embd.weight"][np.array(tokens)]
        future = np.arange(past + n)[None] > np.arange(past, past + n)[:, None]
        for l in range(self.layers):
            b = f"blk.{l}."
            h = self.norm(x, b + "attn_norm.weight")
            q = self.rope((h @ self.w[b + "attn_q.weight"].T).reshape(n, self.heads, self.hd), past)
            k = self.rope((h @ self.w[b + "attn_k.weight"].T).reshape(n, self.kv_heads, self.hd), past)
            self.k[l] = np.concatenate((self.k[l], k))
            self.v[l] = np.concatenate((self.v[l], (h @ self.w[b + "attn_v.weight"].T).reshape(k.shape)))
            k, v = np.repeat(self.k[l], repeat, 1), np.repeat(self.v[l], repeat, 1)
            s = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(self.hd)
            s[:, future] = -np.inf
            s = np.exp(s - s.max(-1, keepdims=True))
            s /= s.sum(-1, keepdims=True)
            x = x + np.einsum("hij,jhd->ihd", s, v).reshape(n, -1) @ self.w[b + "attn_output.weight"].T
            x = x + self.ffn(self.norm(x, b + "ffn_norm.weight"), b)
        x = self.norm(x, "output_norm.weight")
        return x @ self.w.get("output.weight", self.w["token_embd.weight"]).T

    def generate(self, prompt, n, temperature=0.0, top_p=1.0, seed=1):
        """The text that follows the prompt."""
        rng = np.random.default_rng(seed)
        self.reset()
        tokens = [self.tokenizer.bos] + self.tokenizer.encode(prompt)
        logits, out = self.forward(tokens)[-1], []
        for _ in range(min(n, self.context - len(tokens))):
            if temperature == 0:
                t = int(logits.argmax())
            else:
                p = np.exp((logits - logits.max()).astype(np.float64) / temperature)
                p /= p.sum()
                order = np.argsort(-p)
                keep = order[:int((np.cumsum(p[order]) < top_p).sum()) + 1]
                t = int(rng.choice(keep, p=p[keep] / p[keep].sum()))
            if t == self.tokenizer.eos:
                break
            out.append(t)
            logits = self.forward([t])[-1]
        return self.tokenizer.decode([self.tokenizer.bos] + self.tokenizer.encode(prompt) + out)[len(prompt):]
