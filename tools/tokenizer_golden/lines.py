# SPDX-License-Identifier: Apache-2.0
"""Lines that are hard on a tokenizer, from a fixed seed and the text that installed Python packages carry."""
import gettext
import glob
import os
import random
import sysconfig
import unicodedata


def code_lines(rng, n):
    """Lines of Python's own library, and now and then several of them, with their indentation and line ends."""
    paths = sorted(glob.glob(os.path.join(sysconfig.get_path("stdlib"), "*.py")))
    lines = []
    for path in rng.sample(paths, min(80, len(paths))):
        with open(path, "rb") as f:
            lines += f.read().splitlines(keepends=True)
    for _ in range(n):
        at = rng.randrange(len(lines))
        yield b"".join(lines[at : at + rng.choice([1, 1, 1, 2, 8])])


def translated_lines(rng, n):
    """Names of countries and languages in some 150 languages: the translations that pycountry carries."""
    import pycountry

    texts = []
    for path in sorted(glob.glob(os.path.join(os.path.dirname(pycountry.__file__), "locales", "*", "*", "*.mo"))):
        with open(path, "rb") as f:
            catalog = gettext.GNUTranslations(f)._catalog
        values = sorted(v for k, v in catalog.items() if k and isinstance(v, str))
        texts += rng.sample(values, min(40, len(values)))
    for _ in range(n):
        yield rng.choice([" ", ", ", "\n", "  ", "、", ""]).join(rng.choices(texts, k=rng.randint(1, 6))).encode()


def any_character(rng):
    while True:
        c = chr(rng.choice([rng.randrange(0x20, 0x250), rng.randrange(0x20, 0x3000), rng.randrange(0x110000)]))
        if unicodedata.category(c) not in ("Cs", "Cn"):
            return c


def character_lines(rng, n):
    for _ in range(n):
        yield "".join(any_character(rng) for _ in range(rng.randint(1, 30))).encode()


def emoji_lines(rng, n):
    words = "so happy to see you again today I love it thanks ok what".split()
    ranges = [(0x1F300, 0x1F5FF), (0x1F600, 0x1F64F), (0x1F680, 0x1F6FF), (0x1F900, 0x1F9FF), (0x2600, 0x27BF)]
    for _ in range(n):
        parts = []
        for _ in range(rng.randint(1, 8)):
            emoji = chr(rng.randint(*rng.choice(ranges)))
            emoji += rng.choice(["", "", "\ufe0f", chr(rng.randint(0x1F3FB, 0x1F3FF)), "\u200d\U0001f680"])
            flag = chr(rng.randint(0x1F1E6, 0x1F1FF)) + chr(rng.randint(0x1F1E6, 0x1F1FF))
            parts.append(rng.choice([rng.choice(words), emoji, emoji, flag]))
        yield rng.choice(["", " "]).join(parts).encode()


def space_lines(rng, n):
    """Runs of spaces and other blanks, the piece spelling of a space, control characters, long repetitions."""
    blanks = [" ", "  ", " " * 7, " " * 40, "\t", "\n", "\r\n", "\u2581", "\u00a0", "\u3000", "\0", "\x7f", "\ufeff"]
    words = ["a", "the", "aaaaaaaaaaaaaaaaaaaaaaaa", "_", "=" * 50, "ab" * 20, "1", "1234567890" * 3, "é", "e\u0301"]
    for _ in range(n):
        yield "".join(rng.choice(rng.choice([blanks, words])) for _ in range(rng.randint(1, 12))).encode()


def special_lines(rng, n):
    """Texts that look like special pieces: most must stay text."""
    names = ["<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<0x41>", "<0x0A>", "[REFERENCE_DOC_3]", "[REFERENCE_DOC_",
             "[REFERENCE_DOC_19]", "[REF]", "[/REF]", "[control_8]", "[AVAILABLE_TOOLS]", "<|im_end|>", "[", "<", " ", "x",
             " [INST] hello [/INST]", "\u2047", "\ufffd"]
    for _ in range(n):
        yield "".join(rng.choice(names) for _ in range(rng.randint(1, 6))).encode()


def break_bytes(rng, text):
    """Cuts, flips and mixes bytes, so that UTF-8 breaks in every way."""
    b = bytearray(text[:120])
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(b) + 1)
        what = rng.randrange(4)
        if what == 0 and b:
            del b[at : at + rng.randint(1, 3)]
        elif what == 1:
            b[at:at] = rng.randbytes(rng.randint(1, 4))
        elif what == 2:
            b[at:at] = rng.choice([b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xf0\x9f\x98",
                                   b"\xff", b"\x80", b"\xe0\x80\xaf", b"\xf8\x88\x80\x80\x80", b"\xef\xbf\xbd"])
        elif at < len(b):
            b[at] = rng.randrange(256)
    return bytes(b)


def make_lines(n, seed):
    rng = random.Random(seed)
    makers = [(translated_lines, 30), (code_lines, 25), (character_lines, 10), (emoji_lines, 10), (space_lines, 7),
              (special_lines, 6)]
    lines = [b"", b" ", b"\n", b"\0"]
    for maker, percent in makers:
        lines += maker(rng, n * percent // 100)
    whole = list(lines)
    while len(lines) < n:
        lines.append(rng.randbytes(rng.randint(1, 40)) if rng.random() < 0.1 else break_bytes(rng, rng.choice(whole)))
    rng.shuffle(lines)
    return lines[:n]
