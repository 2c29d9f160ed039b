#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares our tokenizer with the sentencepiece library, line by line: compare.py TOKENIZE_LINES OUT_DIR [N] [SEED]

TOKENIZE_LINES is the binary built from tests/tokenize_lines.c. The vocabularies are Mistral's, from the package
mistral-common; OUT_DIR receives them as GGUF files. Compared are the ids, and the text that they decode to; and, with
mistral-common itself, the ids of whole conversations.
"""
import os
import random
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

CHAT_TEMPLATES = {"v1": "mistral-v1", "v2": "mistral-v3", "v3": "mistral-v3", "v7": "mistral-v7"}


def our_answers(binary, gguf_path, lines, *options):
    """A list of (ids, decoded text) for the lines."""
    records = b"".join(struct.pack("<I", len(line)) + line for line in lines)
    out = subprocess.run([binary, gguf_path, *options], input=records, stdout=subprocess.PIPE, check=True).stdout
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
                print(f"  {line!r}\n    want {str(want_ids)[:500]} {want_text!r}\n    got  {str(ids)[:500]} {text!r}")
    return mismatches


def make_conversations(version, n, seed):
    """(system or None, [question, answer, question, ...]) as mistral-common takes them: whole UTF-8, nothing empty."""
    rng = random.Random(seed)
    texts = [t for t in (line.decode(errors="replace").replace("\x1e", "") for line in make_lines(n, seed)) if t.strip()]
    for _ in range(n):
        messages = rng.choices(texts, k=rng.choice([1, 3, 5, 7]))
        system = rng.choice(texts) if rng.random() < 0.5 else None
        if version in ("v2", "v3") and len(messages) > 1:
            system = None  # mistral-common moves it to the last question there; chat.h says why we do not
        yield system, messages


def compare_chat(binary, gguf_path, version, model_path, n, seed):
    from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    tokenizer = MistralTokenizer.from_file(model_path)
    conversations = list(make_conversations(version, n, seed))
    records = ["\x1e".join([system or ""] + messages).encode() for system, messages in conversations]
    answers = our_answers(binary, gguf_path, records, CHAT_TEMPLATES[version])
    mismatches = 0
    for (system, messages), (ids, _) in zip(conversations, answers):
        request = [SystemMessage(content=system)] if system else []
        request += [AssistantMessage(content=m) if i % 2 else UserMessage(content=m) for i, m in enumerate(messages)]
        want = tokenizer.encode_chat_completion(ChatCompletionRequest(messages=request)).tokens
        if ids != want:
            mismatches += 1
            if mismatches <= 5:
                print(f"  {str((system, messages))[:500]}\n    want {str(want)[:500]}\n    got  {str(ids)[:500]}")
    return mismatches


def main():
    binary, out_dir = sys.argv[1:3]
    n = int(sys.argv[3]) if len(sys.argv) > 3 else 10000
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    os.makedirs(out_dir, exist_ok=True)
    lines = make_lines(n, seed)
    failed = False
    for name, file in MODELS.items():
        model_path = os.path.join(os.path.dirname(mistral_common.__file__), "data", file)
        with open(model_path, "rb") as f:
            model = f.read()
        gguf_path = os.path.join(out_dir, f"mistral-{name}.gguf")
        convert(model, gguf_path)
        mismatches = compare(binary, gguf_path, sentencepiece.SentencePieceProcessor(model_proto=model), lines)
        print(f"mistral {name}: {mismatches} of {len(lines)} lines differ from sentencepiece {sentencepiece.__version__}")
        failed |= mismatches > 0
        if name in CHAT_TEMPLATES:
            mismatches = compare_chat(binary, gguf_path, name, model_path, n // 10, seed)
            print(f"mistral {name}: {mismatches} of {n // 10} conversations differ from mistral-common "
                  f"{mistral_common.__version__}")
            failed |= mismatches > 0
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
