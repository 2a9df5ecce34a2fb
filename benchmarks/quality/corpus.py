"""The corpus that the models are trained on, from pinned source distributions: prose (documentation) and Python.

    python benchmarks/quality/corpus.py

Writes `train.txt`, `heldout.txt` (one file in 64, seen by no model) and `tokenizer.json` (byte-level BPE, 2048
entries).
CPython's tests are in neither: `fixtures/models/heldout.txt` is made of them.
"""

import hashlib
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from paths import CORPUS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

DISTRIBUTIONS = {  # requirement: sha256 of its sdist
    "Django==5.2.8": "23254866a5bb9a2cfa6004e8b809ec6246eba4b58a7589bc2772f1bcc8456c7f",
    "SQLAlchemy==2.0.44": "0ae7454e1ab1d780aee69fd2aae7d6b8670a581d8847f2d1e0f7ddfbf47e5a22",
    "sympy==1.14.0": "d3d3fe8df1e5a0b42f0e7bdf50541697dbe7d23746e894990c030e2b05e72517",
}
PROSE, CODE = (".txt", ".rst", ".md"), (".py",)
VOCABULARY = 2048
END = "<|endoftext|>"
HELDOUT_ONE_IN = 64


def main() -> None:
    CORPUS.mkdir(parents=True, exist_ok=True)
    download()
    parts = {"train": [], "heldout": []}
    for name, text in deduplicated(sorted(files())):
        parts["heldout" if digest(name) % HELDOUT_ONE_IN == 0 else "train"].append(text)
    for part, texts in parts.items():
        texts.sort(key=digest)
        (CORPUS / f"{part}.txt").write_text(END.join(texts), encoding="utf-8")
        print(part, len(texts), "files", (CORPUS / f"{part}.txt").stat().st_size, "bytes")
    train_tokenizer(parts["train"]).save(str(CORPUS / "tokenizer.json"))


def download() -> None:
    pins = CORPUS / "requirements.txt"
    pins.write_text("".join(f"{name} --hash=sha256:{sha}\n" for name, sha in DISTRIBUTIONS.items()))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "--require-hashes", "-r", pins, "-d", CORPUS], check=True)


def files() -> Iterator[tuple[str, str]]:
    for archive in CORPUS.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and member.name.endswith(PROSE + CODE) and 500 < member.size < 300_000:
                    yield member.name, tar.extractfile(member).read().decode("utf-8", "replace")


def deduplicated(named: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Each file without the paragraphs that an earlier file had (licence headers, repeated examples)."""
    seen = set()
    for name, text in named:
        fresh = []
        for paragraph in text.split("\n\n"):
            if len(paragraph) < 60 or paragraph not in seen:
                fresh.append(paragraph)
                seen.add(paragraph)
        if sum(map(len, fresh)) > 500:
            yield name, "\n\n".join(fresh)


def digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokens_of(part: Path, tokenisation: str) -> np.ndarray:
    """uint16 token ids of a text: its bytes, or the pieces of the corpus's tokenizer; kept beside the text."""
    kept = part.with_suffix(f".{tokenisation}.npy")
    if not kept.exists():
        np.save(kept, encode(part.read_bytes(), tokenisation))
    return np.load(kept)


def encode(text: bytes, tokenisation: str) -> np.ndarray:
    if tokenisation == "bytes":
        return np.frombuffer(text, np.uint8).astype(np.uint16)
    pieces = Tokenizer.from_file(str(CORPUS / "tokenizer.json")).encode_batch(text.decode().split(END))
    return np.concatenate([np.array([0, *piece.ids], np.uint16) for piece in pieces])


if __name__ == "__main__":
    main()
