#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a checkpoint of train.py as a GGUF file of the Mixtral architecture.

Usage: export.py CHECKPOINT SPM_MODEL OUT [ROLE=TYPE ...]
ROLE: token_embd attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down, or 'all'; later ones win. TYPE: f32 f16
q8_0 q6_k q5_k q4_k, or A/B: A in even layers, B in odd ones. Without any: the types of the published demo model.
"""
import sys

import numpy as np
import sentencepiece as spm
import torch
from gguf import GGUFWriter, GGMLQuantizationType, LlamaFileType

from model import Config
from quantize import QUANTIZERS

# Measured: 0.0003 nats a token worse than f32. Of use to those who test: three block types in one file.
PUBLISHED = ["all=q8_0", "ffn_gate=q4_k", "ffn_up=q4_k", "ffn_down=q6_k"]
DESCRIPTION = ("A small mixture of experts trained from scratch on public-domain English books, "
               "for trying and testing Scoria. A base model: it continues text.")


def add_tokenizer(w, path):
    sp = spm.SentencePieceProcessor(model_file=path)
    n = sp.vocab_size()
    kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list([sp.id_to_piece(i).encode() for i in range(n)])
    w.add_token_scores([sp.get_score(i) for i in range(n)])
    w.add_token_types([kind(i) for i in range(n)])
    w.add_bos_token_id(sp.bos_id())
    w.add_eos_token_id(sp.eos_id())
    w.add_unk_token_id(sp.unk_id())
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_add_space_prefix(True)


def main(checkpoint, tokenizer, out, *types):
    state = torch.load(checkpoint, weights_only=False)
    c, t = Config(experts=0) if state["dense"] else Config(), {k: v.numpy() for k, v in state["model"].items()}
    chosen = {}
    for role, kind in (x.split("=") for x in types or PUBLISHED):
        if role == "all":
            chosen.clear()
        chosen[role] = kind

    w = GGUFWriter(out, "llama")
    w.add_name("Scoria demo")
    w.add_description(DESCRIPTION)
    w.add_license("apache-2.0")
    w.add_languages(["en"])
    w.add_quantization_version(2)
    kinds = {k for kind in chosen.values() for k in kind.split("/")}
    main_kind = min(kinds, key=["q4_k", "q5_k", "q6_k", "q8_0", "f16", "f32"].index)
    w.add_file_type(dict(q4_k=LlamaFileType.MOSTLY_Q4_K_M, q5_k=LlamaFileType.MOSTLY_Q5_K_M,
                         q6_k=LlamaFileType.MOSTLY_Q6_K, q8_0=LlamaFileType.MOSTLY_Q8_0,
                         f16=LlamaFileType.MOSTLY_F16, f32=LlamaFileType.ALL_F32)[main_kind])
    w.add_context_length(c.context)
    w.add_embedding_length(c.d)
    w.add_block_count(c.layers)
    w.add_feed_forward_length(c.ff if c.experts else c.used * c.ff)
    w.add_head_count(c.heads)
    w.add_head_count_kv(c.kv_heads)
    w.add_rope_dimension_count(c.head_dim)
    w.add_rope_freq_base(c.rope_base)
    w.add_layer_norm_rms_eps(c.eps)
    w.add_vocab_size(c.vocab)
    if c.experts:
        w.add_expert_count(c.experts)
        w.add_expert_used_count(c.used)
    add_tokenizer(w, tokenizer)

    def add(name, a, layer=0):
        role = name.split(".")[-2].replace("_exps", "")
        kind = chosen.get(role, chosen.get("all", "f32")).split("/")
        kind = kind[layer % len(kind)]
        a = np.ascontiguousarray(a, np.float32)
        if kind in QUANTIZERS:
            data = QUANTIZERS[kind](a.reshape(-1, a.shape[-1])).reshape(*a.shape[:-1], -1)
        else:
            data = a.astype(np.float16 if kind == "f16" else np.float32)
        w.add_tensor(name, data, raw_dtype=GGMLQuantizationType[kind.upper()])

    add("token_embd.weight", t["embed"])  # also the output matrix: there is no output.weight
    w.add_tensor("output_norm.weight", t["norm"])
    for l in range(c.layers):
        p, b = f"blocks.{l}.", f"blk.{l}."
        w.add_tensor(b + "attn_norm.weight", t[p + "attn_norm"])
        for ours, theirs in (("q", "attn_q"), ("k", "attn_k"), ("v", "attn_v"), ("o", "attn_output")):
            add(f"{b}{theirs}.weight", t[f"{p}attn.{ours}.weight"], l)
        w.add_tensor(b + "ffn_norm.weight", t[p + "ffn_norm"])
        s = "_exps" if c.experts else ""
        if c.experts:
            w.add_tensor(b + "ffn_gate_inp.weight", t[p + "ffn.router"])
        gate, up = np.split(t[p + "ffn.gate_up"], 2, axis=-2)
        add(f"{b}ffn_gate{s}.weight", gate, l)
        add(f"{b}ffn_up{s}.weight", up, l)
        add(f"{b}ffn_down{s}.weight", t[p + "ffn.down"], l)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
