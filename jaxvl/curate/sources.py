# SPDX-License-Identifier: Apache-2.0
"""The nine datasets of VLAA-Thinking, and what a row of a published file says.

A row of any other set is read by the same rules: `question`; `gt`, `answer`, `label` or `answers`;
`image`; `options` or `choices`; and what a step may use (`caption`, `ds_answer`, `text_question`,
`rationale`, `scene`, `verifier_type`). Conversations are those of LLaVA's JSON.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from jaxvl.data import places
from jaxvl.data.example import BadRow
from jaxvl.data.tasks import fields
from jaxvl.data.tasks.vlaa import SOURCES as KINDS
from jaxvl.errors import UserError

RawRow = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Facts:
    """A source in the paper's Table 1: its rows to begin with, after the pipeline, for SFT and for
    RL. `rl_only`: it gets neither captions nor reasoning. `as_is`: it brings its own reasoning.
    `in_words`: the teacher reads its question in words alone, which each row has to have."""

    original: int
    pipeline: int
    sft: int
    rl: int
    rl_only: bool = False
    as_is: bool = False
    in_words: bool = False

    @property
    def taken(self) -> int:
        """The rows to begin with. Of LLaVA-CoT's two the table has fewer than it gives to SFT, and
        of GeoQA170K no number: of these as many as the two sets need."""
        return max(self.original, self.sft + self.rl)


PAPER = {
    "clevr_math": Facts(35_000, 28_018, 5_923, 2_000),
    "geoqa170k": Facts(0, 0, 0, 6_499, rl_only=True),
    "synthesis": Facts(30_000, 26_672, 19_258, 6_696, in_words=True),  # Math PUMA's
    "arxivqa": Facts(54_399, 51_348, 34_604, 1_000),
    "docvqa": Facts(10_194, 8_206, 4_897, 1_000),
    "vizwiz": Facts(20_523, 6_528, 4_266, 1_000),
    "allava_laion": Facts(47_066, 18_123, 10_496, 3_000),
    "coco": Facts(3_000, 3_000, 8_727, 2_000, as_is=True),  # LLaVA-CoT's, as is the next
    "vg": Facts(3_000, 3_000, 38_242, 2_000, as_is=True),
}
_NOT_OURS = Facts(0, 0, 0, 0)
_META = ("text_question", "rationale", "scene", "url")
_LETTERED = re.compile(r"\s*[(\[]?([A-Z])[)\].:]")
_GOLD_LETTER = re.compile(r"[(\[]?([A-Za-z])(?:$|[)\].:])")  # as its reward reads it
_GEO_ANSWER = re.compile(r"\b[Aa]nswer(?: is)?\s*:?\s*\(?([A-J])\b")
_WHOLE = re.compile(r"(?<![\w.,-])-?\d+(?![\w,]|\.\d)")
_SECTION = {
    name: re.compile(rf"<{name}>(.*?)</{name}>", re.DOTALL)
    for name in ("CAPTION", "REASONING", "CONCLUSION")
}


def check_names(named: Iterable[str], there: Iterable[str], option: str) -> None:
    """UserError for a name that is neither a source that is there nor one of the paper's."""
    known = [*there, *(name for name in PAPER if name not in there)]
    for name in named:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"expected one of {', '.join(known)}"
            raise UserError(f"{option} {name}: no such source; {hint}")


def read_row(raw: RawRow, source: str, kind: str = "") -> dict[str, Any] | None:
    """A row without id and image: question, gt, verifier_type and what else it says; None where a
    file of several sources has a row of another one. `kind` is the verifier type of a row that is
    of no known source and says none."""
    facts = PAPER.get(source, _NOT_OURS)
    if facts.as_is and not str(raw.get("image") or "").lstrip("/").startswith(f"{source}/"):
        return None
    if isinstance(raw.get("conversations"), list):
        row = _conversation(raw, facts, KINDS.get(source, kind))
    else:
        row = _plain(raw)
    options = _options(raw)
    row["verifier_type"] = _kind(raw, source, kind, options)
    row["question"] = _lettered(row["question"], options)
    if row["verifier_type"] == "mcq" and options:
        row["gt"] = _letter(row["gt"], options)
    meta = _meta(raw)
    if facts.in_words and "text_question" not in meta:
        raise BadRow("no question in words", "`text_question` is missing, which its teacher reads")
    for name in ("caption", "ds_answer"):
        if not fields.missing(raw.get(name)):
            row.setdefault(name, _text(raw[name], name).strip())
    return row | ({"only": "rl"} if facts.rl_only else {}) | ({"meta": meta} if meta else {})


def said_in(raw: RawRow, speaker: str) -> str:
    """What the first turn of "human" or "gpt" says, without an image's mark."""
    for turn in raw["conversations"]:
        if isinstance(turn, Mapping) and turn.get("from") == speaker:
            return places.MARKER.sub("", fields.text(turn, "value")).strip()
    raise BadRow("no question" if speaker == "human" else "no answer", f"no turn of {speaker}")


def _conversation(raw: RawRow, facts: Facts, kind: str) -> dict[str, Any]:
    question, reply = said_in(raw, "human"), said_in(raw, "gpt")
    if facts.rl_only or kind == "digit":
        found = (_WHOLE if kind == "digit" else _GEO_ANSWER).findall(reply)
        if not found:
            wanted = "whole number" if kind == "digit" else "letter"
            raise BadRow("answer cannot be verified", f"no {wanted} in {reply[-60:]!r}")
        return {"question": question, "gt": found[-1]}
    if not facts.as_is:
        return {"question": question, "gt": reply}
    parts = {name: pattern.search(reply) for name, pattern in _SECTION.items()}
    if not parts["REASONING"] or not parts["CONCLUSION"]:
        raise BadRow("no reasoning", f"no <REASONING> and <CONCLUSION> in {reply!r:.60}")
    answer = parts["CONCLUSION"][1].strip()
    whole = f"<think>\n{parts['REASONING'][1].strip()}\n</think>\n\n{answer}"
    caption = parts["CAPTION"][1].strip() if parts["CAPTION"] else ""
    given = {"ds_answer": whole, "answer": whole, "verified": "given"}
    return {"question": question, "gt": answer} | given | ({"caption": caption} if caption else {})


def _plain(raw: RawRow) -> dict[str, Any]:
    question = places.MARKER.sub("", fields.text(raw, "question")).strip()
    if str(raw.get("answerable", 1)) in ("0", "False"):
        raise BadRow("question has no answer", "the set says that it is not answerable")
    if isinstance(raw.get("answers"), list):
        said = [a.get("answer") if isinstance(a, Mapping) else a for a in raw["answers"]]
        counts = Counter(text for text in said if isinstance(text, str) and text.strip())
        if not counts:
            raise BadRow("no answer", f"`answers` is {fields.shown(raw['answers'])}")
        return {"question": question, "gt": counts.most_common(1)[0][0]}
    name = next((n for n in ("gt", "answer", "label") if raw.get(n) is not None), "answer")
    if isinstance(raw.get(name), list):  # a box
        return {"question": question, "gt": str(raw[name])}
    return {"question": question, "gt": fields.answer(raw, name)}


def _kind(raw: RawRow, source: str, kind: str, options: Sequence[str]) -> str:
    named = raw.get("verifier_type") or KINDS.get(source) or ("mcq" if options else kind)
    if not isinstance(named, str) or not named:
        raise BadRow(
            "no verifier type",
            f"`{source}` is none of the known sources and the row has neither `verifier_type` nor "
            f"options; say which with --kind {source}=math (digit, mcq, math, iou or open)",
        )
    return named


def _meta(raw: RawRow) -> dict[str, str]:
    """What a step may use, as text: an object or a list is written as JSON."""
    inner = raw.get("meta")
    nested = inner if isinstance(inner, Mapping) else {}
    found = {}
    for name in _META:
        value = raw.get(name, nested.get(name))
        if fields.missing(value) or value in ([], {}):
            continue
        if name != "text_question" and not isinstance(value, str):
            value = json.dumps(value, ensure_ascii=False, default=str)
        found[name] = _text(value, name)
    return found


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRow("text of a wrong type", f"`{name}` is {fields.shown(value)}, expected text")
    return value


def _options(raw: RawRow) -> tuple[str, ...]:
    """The choices, a letter each; those that are missing at the end are left off."""
    for name in ("options", "choices"):
        if fields.missing(raw.get(name)) or raw[name] in ([], {}):
            continue
        found = fields.options(raw[name], name)
        if len(found) > len(ascii_uppercase):
            raise BadRow("too many choices", f"`{name}` has {len(found)}, expected 26 at most")
        return found
    return ()


def _marks(options: Sequence[str]) -> list[re.Match[str]]:
    """The letters that the options bring themselves; none where one has none."""
    marks = [found for option in options if (found := _LETTERED.match(option))]
    return marks if len(marks) == len(options) else []


def _lettered(question: str, options: Sequence[str]) -> str:
    """The question with its options below it, each with a letter."""
    letters = ascii_uppercase[: len(options)]
    if not options or list(options) == list(letters):
        return question  # the options stand in the image
    if not _marks(options):
        options = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
    return question + "\n" + "\n".join(options)


def _letter(gold: str, options: Sequence[str]) -> str:
    """The letter of the option that the gold answer is; BadRow where it is none of them."""
    gold, marks = gold.strip(), _marks(options)
    if marks:  # "B) down" and "B" are read as they are, "down" is looked for without its letter
        letters = [mark[1] for mark in marks]
        texts = [option[mark.end() :].strip() for option, mark in zip(options, marks, strict=True)]
    else:
        letters, texts = list(ascii_uppercase[: len(options)]), list(options)
    if gold in texts and not _LETTERED.match(gold):
        return letters[texts.index(gold)]
    named = _GOLD_LETTER.match(gold)
    if gold in options or (named and named[1].upper() in letters):
        return gold
    found = fields.one_of(gold, texts)  # a number may be written in another way
    return letters[texts.index(found)] if found in texts else found
