# SPDX-License-Identifier: Apache-2.0
"""Keeping benchmarks out of training: by the names of files and datasets, and by digests of single
questions and images.

Digests are kept in text files (`digests/*.txt` beside this file, and those a config names), made
from a copy of a benchmark by `jaxvl data digest`. They cover what the copy had, and no more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from jaxvl.errors import UserError

MARK = "TEST_DATA.json"  # in a run's folder and its exports: which benchmarks were trained on
_DIGESTS = Path(__file__).with_name("digests")
_DIGITS = 12  # of a digest: 48 bits, a chance match in a million rows of a million is 0.004
_WORDS = 8  # a shorter question may stand in any dataset


@dataclasses.dataclass(frozen=True)
class TestSet:
    """A test set. `names` are how its files and folders are called, in small letters and digits;
    `splits` are its splits, where the dataset has others that may be trained on. `never`: its
    licence forbids training, so that no switch allows it."""

    name: str
    names: tuple[str, ...]
    splits: tuple[str, ...] = ()
    never: bool = False


BENCHMARKS = (
    TestSet("MOSSBench", ("mossbench",), never=True),
    TestSet("CV-Bench", ("cvbench",)),
    TestSet("SAT test", ("sat", "satv2"), ("test",)),
    TestSet("BLINK", ("blink",)),
    TestSet("VSR test", ("vsr", "visualspatialreasoning"), ("test", "dev")),
    TestSet("GQA test", ("gqa",), ("test", "testdev", "val")),
    TestSet("MathVista", ("mathvista",)),
    TestSet("MathVision", ("mathvision", "mathv")),
    TestSet("MathVerse", ("mathverse", "mathverselmmseval")),
    TestSet("DynaMath", ("dynamath",)),
    TestSet("WeMath", ("wemath",)),
    TestSet("LogicVista", ("logicvista",)),
    TestSet("MMMU", ("mmmu",)),
    TestSet("ScienceQA test", ("scienceqa",), ("test", "val", "validation")),
)
# Words that may stand beside a benchmark's name: MathVision_MINI.tsv, MathVerse_MINI_Vision_Only.
_BESIDE = set(
    "test testmini mini val validation valid dev train full data dataset datasets eval bench "
    "benchmark images information sample tsv json jsonl csv parquet arrow 2d 3d vision only img"
    "".split()
)


def named(source: Any) -> list[TestSet]:
    """The benchmarks that a source reads, told by the names in its fields (and in those of sources
    inside it), and by the manifest of a prepared set."""
    found = []
    for texts in _texts(source):
        paths = [[_words(part) for part in re.split(r"[/\\:@]", text)] for text in texts]
        alone = {word for parts in paths if len(parts) == 1 for word in parts[0]}
        for benchmark in BENCHMARKS:
            if benchmark not in found and any(_names(benchmark, p, alone) for p in paths):
                found.append(benchmark)
    return found


def _names(benchmark: TestSet, parts: list[list[str]], alone: set[str]) -> bool:
    """Whether a path (the words of its parts) names the benchmark and, where it has others, one of
    its splits: below the name, or in a text of its own (`split="test"`)."""
    for place, words in enumerate(parts):
        for start, end in itertools.combinations(range(len(words) + 1), 2):
            beside = words[:start] + words[end:]
            if "".join(words[start:end]) in benchmark.names and _plain(beside):
                below = {word for part in parts[place:] for word in part}
                if not benchmark.splits or (below | alone) & set(benchmark.splits):
                    return True
    return False


def _plain(words: Sequence[str]) -> bool:
    return all(word in _BESIDE or word.isdecimal() for word in words)


def _words(part: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", part.lower()) if word]


def _texts(source: Any) -> Iterator[list[str]]:
    """The texts in the fields of a source, for itself and for every source inside it; of a path
    also where it leads, and of a prepared set what it was made from."""
    fields = vars(source) if hasattr(source, "__dict__") else {}
    values = [x for v in fields.values() for x in (v if isinstance(v, (tuple, list)) else [v])]
    texts = [value for value in values if isinstance(value, str)]
    for text in list(texts):
        if ("/" in text or "." in text) and len(text) < 4096 and Path(text).exists():
            texts.append(str(Path(text).resolve()))
            manifest = Path(text, "manifest.json")
            if manifest.is_file():
                origin = json.loads(manifest.read_text(encoding="utf-8")).get("source") or {}
                yield [value for value in origin.values() if isinstance(value, str)]
    yield texts
    for value in values:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _texts(value)


def question_digest(question: str) -> str:
    """Of the question's letters and digits, whatever stands between them; "" where there is none.

    `<image>` markers and differences of case, space, punctuation and Unicode form do not count.
    """
    text = re.sub(r"<image\s*\d*>", " ", unicodedata.normalize("NFKC", question).casefold())
    words = re.findall(r"[^\W_]+", text)
    return _digest(" ".join(words).encode()) if words else ""


def image_digest(image: Image.Image) -> str:
    """An RGB image's size and the digest of its pixels: any lossless copy has the same one."""
    return f"{_size(image)}-{_digest(image.tobytes())}"


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


class Digests:
    """The digests of benchmarks: the files that come with jaxvl and those of `paths`."""

    def __init__(self, paths: Sequence[str | Path] = ()):
        known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
        self.benchmarks: dict[str, TestSet] = {}
        for path in [*sorted(_DIGESTS.glob("*.txt")), *map(Path, paths)]:
            name, digests = _read(path)
            self.benchmarks |= dict.fromkeys(digests, known.get(name) or TestSet(name, ()))
        # Most images are of another size than any of a test set: their pixels need no digest.
        self.sizes = {key[1:].partition("-")[0] for key in self.benchmarks if key[0] == "i"}

    def find(self, question: str, images: Iterable[Image.Image]) -> TestSet | None:
        """The benchmark that has this question or one of these RGB images, if any has."""
        digests = ["q" + question_digest(question)]
        digests += ["i" + image_digest(image) for image in images if _size(image) in self.sizes]
        return next((self.benchmarks[d] for d in digests if d in self.benchmarks), None)


def _read(path: Path) -> tuple[str, list[str]]:
    if not path.is_file():
        raise UserError(f"there is no file of digests {path}; `jaxvl data digest` makes one")
    first, *lines = path.read_text(encoding="utf-8").split("\n")
    lines = [line for line in lines if line]
    whole = re.compile(rf"(?:q|i\d+x\d+-)[0-9a-f]{{{_DIGITS}}}")
    broken = next((line for line in lines if not whole.fullmatch(line)), None)
    if not first.startswith("# ") or broken is not None:
        raise UserError(
            f"{path} is no file of digests (found {broken or first!r:.40}); "
            "`jaxvl data digest` makes one"
        )
    return first.removeprefix("# "), lines


def write(path: Path, name: str, questions: Iterable[str], images: Iterable[str]) -> int:
    """A file of digests of a benchmark's questions and its images' digests; how many it has.

    Short questions (under 8 words), which may stand in any dataset, count only for a benchmark that
    may never be trained on.
    """
    never = any(benchmark.name == name and benchmark.never for benchmark in BENCHMARKS)
    wanted = [q for q in questions if never or len(re.findall(r"\w+", q)) >= _WORDS]
    digests = {"q" + question_digest(question) for question in wanted} - {"q"}
    digests |= {"i" + image for image in images}
    path.write_text("\n".join([f"# {name}", *sorted(digests)]) + "\n", encoding="utf-8")
    return len(digests)


def mark(folder: Path, names: Iterable[str]) -> None:
    """Say in `folder` that a model there was trained on test data, beside what is said already."""
    together = sorted({*marks(folder), *names})
    if together:
        note = "Trained on rows of these benchmarks: results on them mean nothing."
        text = json.dumps({"trained_on": together, "note": note}, indent=2)
        (folder / MARK).write_text(text + "\n", encoding="utf-8")


def marks(folder: str | Path) -> list[str]:
    """The benchmarks that what lies in `folder` was trained on, by its mark."""
    path = Path(folder) / MARK
    return json.loads(path.read_text(encoding="utf-8"))["trained_on"] if path.is_file() else []
