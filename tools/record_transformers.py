#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what an implementation that is not ours computes: tiny random models in the `transformers` package.

Usage: record_transformers.py FOLDER
Writes transformers-mixtral.gguf and transformers-llama.gguf, which tests/test_transformers.c reads: each a model whose
metadata also holds the tokens (scoria.test.tokens) and the logits of each (scoria.test.logits, tokens x vocabulary).

The weights are rounded to f16 before the model sees them, so the f16 file is exact. transformers runs in double
precision but for the norms, the rotation and the router's softmax, which it takes to single by itself.
Needs numpy, gguf, torch and transformers on the CPU; recorded with transformers 5.23.0 and torch 2.8.0.
"""
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

N_TOKENS = 24

MIXTRAL = MixtralConfig(
    vocab_size=301, hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=256,
    rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, tie_word_embeddings=False,
    sliding_window=None, attn_implementation="eager")

# Dense; tied embeddings, heads wider than the embedding, and Llama 3's frequencies, squeezed to where 24 tokens see them.
LLAMA = LlamaConfig(
    vocab_size=203, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
    rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                     "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
    attn_implementation="eager")


def randomize(model, seed):
    """Activations near 1 and logits of a few units, so that the distributions say something."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if "norm" in name:
                a = 1 + 0.1 * rng.standard_normal(p.shape)
            elif "embed_tokens" in name:
                a = rng.standard_normal(p.shape)
            else:
                gain = 4 if "lm_head" in name else 1 if "v_proj" in name or "o_proj" in name else 2
                a = gain / np.sqrt(p.shape[-1]) * rng.standard_normal(p.shape)
            if "norm" not in name and "mlp.gate.weight" not in name:  # f32 in the file
                a = a.astype(np.float16)
            p.copy_(torch.from_numpy(a.astype(np.float32)))
    return rng


def interleave(w, n_heads):
    """transformers turns dimension i of a head with i + half; GGUF's llama has such pairs beside each other."""
    rows, cols = w.shape
    return w.reshape(n_heads, 2, rows // n_heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def add_hyperparameters(w, c, head_dim):
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(c.rope_parameters["rope_theta"])
    w.add_rope_dimension_count(head_dim)
    if hasattr(c, "num_local_experts"):
        w.add_expert_count(c.num_local_experts)
        w.add_expert_used_count(c.num_experts_per_tok)


def add_tensors(w, model, c, head_dim):
    p = {name: a.detach().numpy() for name, a in model.named_parameters()}
    f16 = lambda name, a: w.add_tensor(name + ".weight", np.ascontiguousarray(a).astype(np.float16))
    f32 = lambda name, a: w.add_tensor(name + ".weight", np.ascontiguousarray(a).astype(np.float32))

    f16("token_embd", p["model.embed_tokens.weight"])
    f32("output_norm", p["model.norm.weight"])
    if not c.tie_word_embeddings:
        f16("output", p["lm_head.weight"])
    if c.rope_parameters["rope_type"] == "llama3":
        plain = c.rope_parameters["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
        f32("rope_freqs", plain / model.model.rotary_emb.inv_freq.numpy())
    for l in range(c.num_hidden_layers):
        hf, b = f"model.layers.{l}.", f"blk.{l}."
        f32(b + "attn_norm", p[hf + "input_layernorm.weight"])
        f32(b + "ffn_norm", p[hf + "post_attention_layernorm.weight"])
        f16(b + "attn_q", interleave(p[hf + "self_attn.q_proj.weight"], c.num_attention_heads))
        f16(b + "attn_k", interleave(p[hf + "self_attn.k_proj.weight"], c.num_key_value_heads))
        f16(b + "attn_v", p[hf + "self_attn.v_proj.weight"])
        f16(b + "attn_output", p[hf + "self_attn.o_proj.weight"])
        if hasattr(c, "num_local_experts"):
            gate_up = p[hf + "mlp.experts.gate_up_proj"]  # (experts, gate's rows then up's, hidden)
            f32(b + "ffn_gate_inp", p[hf + "mlp.gate.weight"])
            f16(b + "ffn_gate_exps", gate_up[:, :c.intermediate_size])
            f16(b + "ffn_up_exps", gate_up[:, c.intermediate_size:])
            f16(b + "ffn_down_exps", p[hf + "mlp.experts.down_proj"])
        else:
            for part in ("gate", "up", "down"):
                f16(b + "ffn_" + part, p[hf + f"mlp.{part}_proj.weight"])


def record(path, model, c, seed):
    model.eval()
    rng = randomize(model, seed)
    tokens = rng.integers(0, c.vocab_size, N_TOKENS)
    model.double()
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens[None])).logits[0].numpy()
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads

    w = GGUFWriter(path, "llama")
    w.add_name("random model")
    add_hyperparameters(w, c, head_dim)
    w.add_array("scoria.test.tokens", [int(t) for t in tokens])
    w.add_array("scoria.test.logits", [float(x) for x in logits.astype(np.float32).flatten()])
    add_tensors(w, model, c, head_dim)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    print(f"{path}: {path.stat().st_size} bytes, logits of deviation {logits.std():.2f}")


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    record(folder / "transformers-mixtral.gguf", MixtralForCausalLM(MIXTRAL), MIXTRAL, 1)
    record(folder / "transformers-llama.gguf", LlamaForCausalLM(LLAMA), LLAMA, 2)


main()
