# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking (Chen et al., arXiv 2504.11468; Apache-2.0): distilled reasoning for fine-tuning
(SFT-126K) and harder questions for reinforcement learning (GRPO-25K).

As published: VLAA-Thinking-SFT-126K.json and VLAA-Thinking-GRPO-25K.json, both JSON lines in spite
of their names, beside a folder `images` with a folder for each of the sources.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from jaxvl.data import files, places
from jaxvl.data.example import BadRow, Example, FilteredRow, ReadRow, RowSource
from jaxvl.data.tasks import fields
from jaxvl.errors import UserError

FILES = {"sft": "VLAA-Thinking-SFT-126K.json", "grpo": "VLAA-Thinking-GRPO-25K.json"}
TYPES = ("digit", "mcq", "math", "iou", "open")
_OTHER_NAMES = {"bbox": "iou", "box": "iou", "open_ended": "open", "open-ended": "open"}
# The folder of a source's images, and the reward that its questions get in the paper (Fig. 4).
SOURCES = {
    "clevr_math": "digit",
    "geoqa170k": "mcq",
    "synthesis": "math",  # Math PUMA's
    "arxivqa": "mcq",
    "docvqa": "open",
    "vizwiz": "open",
    "allava_laion": "open",
    "coco": "iou",  # LLaVA-CoT's, as is the next
    "vg": "iou",
}
_LETTER = re.compile(r"[(\[]?([A-Ja-j])(?:$|[)\].:])")
_OPTION = re.compile(r"^\s*[(\[]?([A-J])[)\].:]", re.MULTILINE)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_UNKNOWN = re.compile(r"\s*([a-wz])\s*=\s*([^=,;]+?)\s*(?:,|;|\band\b|$)")


@dataclasses.dataclass(frozen=True)
class VLAA(RowSource):
    """A part of VLAA-Thinking; `path` is the folder of the dataset, or a file beside `images`.

    A row of `grpo` gets the columns `verifier_type` (one of TYPES: what the row says, else by its
    source) and `source`, and its answer in one form (`normal_answer`). A row of `sft` has what is
    in its answer tags as answer and the whole reply in the column `completion`. `sources` takes
    only rows of these folders of images (all where empty); `types` gives the meaning of names that
    the file has for a verifier type, as ("rm=open",). A type that is not known is an error. Rows
    name files below the folder of their file alone, unless `allow_outside`. Ids are the part and
    the row, counted from 0: "grpo-17".
    """

    path: str
    part: Literal["grpo", "sft"] = "grpo"
    sources: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    allow_outside: bool = False

    def files(self) -> list[Path]:
        path = Path(self.path)
        path = path / FILES[self.part] if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"there is no {path}; expected {_expected(path)}")
        return [path]

    def rows(self, start: int = 0) -> Iterator[ReadRow]:
        unknown = [source for source in self.sources if source not in SOURCES]
        if unknown:
            raise UserError(f"sources: no `{unknown[0]}`; expected some of {', '.join(SOURCES)}")
        for number, file, raw in files.read(self.files(), start + 1):
            id = f"{self.part}-{number - 1}"
            try:
                if isinstance(raw, BadRow):
                    raise raw
                yield id, self._example(raw, id, file.parent)
            except BadRow as why:
                yield id, why

    def _example(self, raw: Mapping[str, Any], id: str, folder: Path) -> Example:
        image = raw.get("image")
        if not isinstance(image, str) or not Path(image.lstrip("/")).parts:
            raise BadRow("no image", f"`image` is {fields.shown(image)}, expected a path")
        image = image.lstrip("/")
        source = Path(image).parts[0]
        if self.sources and source not in self.sources:
            raise FilteredRow("another source", f"the row is of {source}")
        question = fields.text(raw, "question")
        root = None if self.allow_outside else folder
        images = fields.pictures(image, [folder / "images", folder], root)
        if places.MARKER.search(question):
            (question,), images = places.fit([question], images, {})
        columns = {"source": source}
        if self.part == "grpo":
            kind = self._type(raw, source, id)
            columns["verifier_type"] = kind
            answer = normal_answer(kind, raw.get("gt"), question, raw.get("meta"))
        else:
            columns["completion"] = _reply(raw)
            answer = _ANSWER.findall(columns["completion"])[0].strip()
        return Example(
            id=id,
            question=question,
            answer=answer,
            images=images,
            task=source,
            columns=columns,
        )

    def _type(self, raw: Mapping[str, Any], source: str, id: str) -> str:
        """The reward that a row gets."""
        named = str(raw.get("verifier_type") or SOURCES.get(source, ""))
        given = dict(pair.split("=", 1) for pair in self.types if "=" in pair)
        kind = given.get(named) or _OTHER_NAMES.get(named.lower(), named.lower())
        if kind not in TYPES:
            raise UserError(
                f"{self.path}: row {id} of {source} has the verifier type `{named}`; expected one "
                f"of {', '.join(TYPES)}: say which it is, as types=('{named or 'name'}=open',)"
            )
        return kind


def _expected(path: Path) -> str:
    """What is in the place of a file that is not there, or what makes it."""
    if path.suffix != ".jsonl":
        return "the folder of the published dataset"
    makes = "select" if path.name.startswith("sft-") else "run"
    return (
        f"the folder of the published dataset, or what `jaxvl curate {makes} .. --out "
        f"{path.parent}` makes (docs/curate.md has the commands)"
    )


def completion(example: Example) -> str:
    """The target of supervised fine-tuning: the whole reply."""
    return example.columns["completion"]


def normal_answer(kind: str, gold: Any, question: str, meta: Any = None) -> str:
    """A gold answer in the one form that its reward reads; BadRow where it has none.

    Follows the paper's appendix C.1: an option letter is "A" however it is written; of a solution
    in steps the final answer is kept; a value of an unknown where the function is asked for is put
    into the function. A box becomes "[x1, y1, x2, y2]", in parts of the image's sides.
    """
    if isinstance(gold, list) and kind != "iou":
        gold = gold[0] if gold else None
    if kind == "iou":
        return _box(gold)
    text = fields.answer({"gt": gold}, "gt")
    if kind == "digit":
        if not re.fullmatch(r"-?\d+(\.0+)?", text):
            raise BadRow("answer of a wrong form", f"`gt` is {text!r:.60}, expected a whole number")
        return text.partition(".")[0]
    if kind == "mcq":
        return _letter(text, question)
    return _formula(text, question, meta) if kind == "math" else text


def _letter(text: str, question: str) -> str:
    match = _LETTER.match(text)
    letter = match[1].upper() if match else ""
    options = _OPTION.findall(question)
    if not letter or (options and letter not in options):
        listed = "".join(options) or "A, B, .."
        raise BadRow(
            "answer of a wrong form", f"`gt` is {text!r:.60}, expected a letter of {listed}"
        )
    return letter


def _formula(text: str, question: str, meta: Any) -> str:
    final = text.rpartition("Answer:")[2].strip().rstrip(".").strip()
    asked = meta.get("text_question") if isinstance(meta, Mapping) else None
    function = re.search(
        r"\b(y|f\(x\)) = (.+?)(?= (?:goes|passes|with|where|and)\b|[,;]|\. |$)",
        asked if isinstance(asked, str) else question,
    )
    known = dict(_UNKNOWN.findall(final))
    wanted = re.search(r"\b(function|equation|expression)\b", question, re.IGNORECASE)
    if not (function and known and wanted) or re.match(r"(y|f\(x\))\s*=", final):
        return final
    body = function[2]
    for name, value in known.items():
        value = value if re.fullmatch(r"[\w.]+", value) else f"({value})"
        body = re.sub(rf"\b{name}\b", lambda _, value=value: value, body)
    return f"{function[1]} = {body}"


def _box(gold: Any) -> str:
    numbers = [float(number) for number in _NUMBER.findall(str(gold))]
    ordered = len(numbers) == 4 and numbers[0] < numbers[2] and numbers[1] < numbers[3]
    if not ordered or not all(0 <= number <= 1 for number in numbers):
        raise BadRow(
            "answer of a wrong form",
            f"`gt` is {fields.shown(gold)}, expected one box x1 < x2, y1 < y2 between 0 and 1",
        )
    return "[" + ", ".join(str(number) for number in numbers) + "]"


def _reply(raw: Mapping[str, Any]) -> str:
    """The reply to learn, which thinks and then gives one answer."""
    reply = fields.text(raw, "answer")
    answers = _ANSWER.findall(reply)
    thinks = re.match(r"\s*<think>.*</think>", reply, re.DOTALL)
    if not thinks or len(answers) != 1 or not answers[0].strip():
        raise BadRow(
            "reply of a wrong form",
            f"`answer` is {reply!r:.60}, expected <think>..</think> and one <answer>..</answer>",
        )
    return reply
