#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares our tokenizer with the sentencepiece library, line by line: compare.py TOKENIZE_LINES OUT_DIR [N] [SEED]

TOKENIZE_LINES is the binary built from tests/tokenize_lines.c. The vocabularies are Mistral's, from the package
mistral-common; OUT_DIR receives them as GGUF files. Compared are the ids, and the text that they decode to.
"""
import os
import struct
import subprocess
import sys

import mistral_common
import sentencepiece

from lines import make_lines
from spm_to_gguf import convert

MODELS = {
    "v1": "tokenizer.model.v1",
    "v2": "mistral_instruct_tokenizer_240216.model.v2",
    "v3": "mistral_instruct_tokenizer_240323.model.v3",
    "v7": "mistral_instruct_tokenizer_241114.model.v7",
}


def our_answers(binary, gguf_path, lines):
    """A list of (ids, decoded text) for the lines."""
    records = b"".join(struct.pack("<I", len(line)) + line for line in lines)
    out = subprocess.run([binary, gguf_path], input=records, stdout=subprocess.PIPE, check=True).stdout
    answers = []
    for line in out.decode().splitlines():
        ids, text = line.split("|")
        answers.append(([int(i) for i in ids.split()], bytes.fromhex(text)))
    return answers


def compare(binary, gguf_path, processor, lines):
    answers = our_answers(binary, gguf_path, lines)
    assert len(answers) == len(lines), f"{len(answers)} answers for {len(lines)} lines"
    mismatches = 0
    for line, (ids, text) in zip(lines, answers):
        want_ids = processor.encode(line)
        want_text = processor.decode(want_ids).encode()
        if ids != want_ids or text != want_text:
            mismatches += 1
            if mismatches <= 5:
                print(f"  {line!r}\n    want {want_ids} {want_text!r}\n    got  {ids} {text!r}")
    return mismatches


def main():
    binary, out_dir = sys.argv[1:3]
    n = int(sys.argv[3]) if len(sys.argv) > 3 else 10000
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    os.makedirs(out_dir, exist_ok=True)
    lines = make_lines(n, seed)
    failed = False
    for name, file in MODELS.items():
        with open(os.path.join(os.path.dirname(mistral_common.__file__), "data", file), "rb") as f:
            model = f.read()
        gguf_path = os.path.join(out_dir, f"mistral-{name}.gguf")
        convert(model, gguf_path)
        mismatches = compare(binary, gguf_path, sentencepiece.SentencePieceProcessor(model_proto=model), lines)
        print(f"mistral {name}: {mismatches} of {len(lines)} lines differ from sentencepiece {sentencepiece.__version__}")
        failed |= mismatches > 0
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
