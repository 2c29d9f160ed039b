#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what the sentencepiece library says, for tests that run without it: record.py VECTORS_DIR [mistral]

Writes small_vocab.txt (a BPE vocabulary of 1000 pieces, trained here; "type unused score piece" a line) and
small_golden.txt with "text|decoded|ids|ids without byte pieces|ids with unused pieces" a line, texts in hex. With `mistral`
only mistral_golden.txt is written: "text|v1 ids|v3 ids". The vocabulary is trained on Apache-2.0 sources and on the
sentences below.
"""
import glob
import os
import random
import sys
import tempfile

import mistral_common
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb

import lines
from compare import MODELS

SENTENCES = """
The quick brown fox jumps over the lazy dog, and then it rests in the shade of the old oak tree.
She said: "I'll be there at 10:30, don't wait for me!" -- but nobody believed her.
Der schnelle braune Fuchs springt über den faulen Hund; das Wetter ist heute schön, aber kühl.
Le renard brun saute par-dessus le chien paresseux, et l'été finit déjà. Où êtes-vous allés ?
El zorro marrón salta sobre el perro perezoso. ¿Cómo está usted? ¡Muy bien, señor!
A raposa castanha salta sobre o cão preguiçoso; amanhã não haverá lições.
Szybki brązowy lis przeskakuje nad leniwym psem, żeby zdążyć na obiad.
Hızlı kahverengi tilki tembel köpeğin üstünden atlar. Bugün hava çok güzel.
Быстрая коричневая лиса прыгает через ленивую собаку. Сегодня хорошая погода.
Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.
השועל החום המהיר קופץ מעל הכלב העצלן.
الثعلب البني السريع يقفز فوق الكلب الكسول.
तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।
敏捷的棕色狐狸跳过了懒狗。今天天气很好,我们去公园散步吧。
素早い茶色の狐がのろまな犬を飛び越える。今日はいい天気ですね。
빠른 갈색 여우가 게으른 개를 뛰어넘습니다. 오늘은 날씨가 좋네요.
สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ
Con cáo nâu nhanh nhẹn nhảy qua con chó lười biếng.
for (uint32_t i = 0; i < n; i++) { sum += x[i] * w[i]; } /* in order */
def add(a, b):\n    return a + b\n\n\nclass Node(object):\n    pass
{"name": "scoria", "values": [1, 2.5, -3e10, null, true], "path": "C:\\\\temp"}
SELECT id, name FROM users WHERE created_at > '2024-01-01' ORDER BY id DESC LIMIT 10;
<div class="main"><a href="https://example.org/?q=1&amp;r=2">link</a></div>
$ grep -rn 'TODO' src/ | wc -l && echo "done: $?"
E = mc², ∑ᵢ xᵢ ≤ ∫f(x)dx, a ≠ b, ½ + ¼ = ¾, 25 °C, 100 €, ™ ® ©
""".strip().split("\n")

NASTY = [
    b"", b" ", b"  ", b"   ", b"a", b" a", b"a ", b"  a  b  ", b"\n", b"\n\n", b"\r\n", b"\t", b"\0", b"a\0b", b"\x7f",
    "\u2581".encode(), " \u2581 \u2581a".encode(), "a\u2581b".encode(), "\u00a0\u3000\u200b\ufeff".encode(),
    b"\x80", b"\xff", b"\xc0\x80", b"\xc1\xbf", b"\xc3", b"\xc3a", b"\xe2\x96", b"\xe2\x96a", b"\xe2\x96\xe2\x96\x81",
    b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xe0\xa0\x80", b"\xed\x9f\xbf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xee\x80\x80",
    b"\xef\xbf\xbd", b"\xef\xbf\xbe", b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf0\x90\x80\x80", b"\xf0\x9f\x98",
    b"\xf0\x9f\x98a", b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfe\xff",
    b"a" * 100, b" " * 100, b"ab" * 50, b"the" * 30, b"=" * 64, "é".encode() * 20, "e\u0301".encode() * 5,
    "😀😀😀".encode(), "👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 👍🏽".encode(), b"<s>", b"</s>", b"<unk>", b"a<s>b</s>c", b"<0x41>", b"<0x0A>",
    b"[INST] hi [/INST]", b"[REF]", b"x[REF]y", b"[REF][REF] [REF", b"abcab", b"aabcbab", b"zabcz", "🦀🦀x🦀".encode(),
    b"[REFERENCE_DOC_1]", b"[REFERENCE_DOC_12] [REFERENCE_DOC_", "<|im_end|>".encode(), "x \u2047 y".encode(),
]
USER_DEFINED = ["[REF]", "abc", "ab", "🦀"]


def golden_lines():
    rng = random.Random(4)
    texts = NASTY + [s.encode().replace(b"\\n", b"\n") for s in SENTENCES]
    for maker, n in [(lines.character_lines, 15), (lines.emoji_lines, 10), (lines.space_lines, 12), (lines.special_lines, 8)]:
        texts += maker(rng, n)
    return texts + [lines.break_bytes(rng, rng.choice(texts)) for _ in range(20)]


def train():
    root = os.path.dirname(mistral_common.__file__)
    sources = sorted(glob.glob(os.path.join(root, "**", "*.py"), recursive=True))
    text = "".join(open(path, encoding="utf-8").read() for path in sources)
    sentences = [s for s in text.split("\n") if s] + SENTENCES * 40
    with tempfile.TemporaryDirectory() as folder:
        prefix = os.path.join(folder, "small")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_prefix=prefix, model_type="bpe", vocab_size=1000, byte_fallback=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.995,
            user_defined_symbols=USER_DEFINED, allow_whitespace_only_pieces=True, split_digits=True, minloglevel=2)
        with open(prefix + ".model", "rb") as f:
            model = pb.ModelProto()
            model.ParseFromString(f.read())
    return model


def processor(model):
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def record_small(folder):
    model = train()
    merged = [i for i, p in enumerate(model.pieces) if p.type == 1 and len(p.piece) > 1]
    unused = set(random.Random(5).sample(merged, 80))
    with open(os.path.join(folder, "small_vocab.txt"), "w", encoding="utf-8") as f:
        for i, p in enumerate(model.pieces):
            assert p.score == int(p.score) and "\n" not in p.piece
            f.write(f"{p.type} {int(i in unused)} {int(p.score)} {p.piece}\n")

    no_bytes, with_unused = pb.ModelProto(), pb.ModelProto()
    no_bytes.CopyFrom(model)
    no_bytes.trainer_spec.byte_fallback = False
    for p in no_bytes.pieces:
        p.type = 1 if p.type == 6 else p.type
    with_unused.CopyFrom(model)
    for i in unused:
        with_unused.pieces[i].type = 5

    processors = [processor(m) for m in (model, no_bytes, with_unused)]
    with open(os.path.join(folder, "small_golden.txt"), "w") as f:
        for text in golden_lines():
            ids = [p.encode(text) for p in processors]
            decoded = processors[0].decode(ids[0]).encode()
            f.write("|".join([text.hex(), decoded.hex()] + [" ".join(map(str, i)) for i in ids]) + "\n")


def record_mistral(folder):
    data = os.path.join(os.path.dirname(mistral_common.__file__), "data")
    processors = [sentencepiece.SentencePieceProcessor(model_file=os.path.join(data, MODELS[v])) for v in ("v1", "v3")]
    with open(os.path.join(folder, "mistral_golden.txt"), "w") as f:
        for text in golden_lines():
            f.write("|".join([text.hex()] + [" ".join(map(str, p.encode(text))) for p in processors]) + "\n")


if __name__ == "__main__":
    if sys.argv[2:] == ["mistral"]:
        record_mistral(sys.argv[1])
    else:
        record_small(sys.argv[1])
