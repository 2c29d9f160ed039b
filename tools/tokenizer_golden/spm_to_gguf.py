#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A SentencePiece model as a GGUF file that holds a vocabulary and no tensors: spm_to_gguf.py MODEL OUT"""
import sys

import gguf
from sentencepiece import sentencepiece_model_pb2


def convert(model_bytes, path):
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(model_bytes)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([p.piece.encode() for p in model.pieces])
    writer.add_token_scores([p.score for p in model.pieces])
    writer.add_token_types([p.type for p in model.pieces])
    writer.add_unk_token_id(model.trainer_spec.unk_id)
    writer.add_bos_token_id(model.trainer_spec.bos_id)
    writer.add_eos_token_id(model.trainer_spec.eos_id)
    writer.add_add_space_prefix(model.normalizer_spec.add_dummy_prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as f:
        convert(f.read(), sys.argv[2])
