# SPDX-License-Identifier: Apache-2.0
"""The four steps that ask a teacher: what is asked about a row, and what becomes of the reply.

`body(row)` is the request, None where the row has already what the step would make; `take(row,
text)` is the row with it. BadRow says why a row is dropped.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxvl.curate import pictures, rows
from jaxvl.curate.rows import CuratedRow
from jaxvl.curate.teachers import Body, TeacherSettings
from jaxvl.data.example import BadRow
from jaxvl.data.tasks import fields
from jaxvl.errors import UserError

WORD_GAP = 15
PLACES = {
    "caption": (),
    "distil": ("caption", "question"),
    "rewrite": ("input",),
    "verify": ("gold", "pred"),
}
MAX_TOKENS = {"caption": 1024, "distil": 8192, "rewrite": 8192, "verify": 8}
# What a reply is taken for before there is one: words, about the length of the published rows.
GUESS = {
    "caption": "word " * 300,
    "distil": "<think>" + "word " * 600 + "</think>" + "word " * 60,
    "rewrite": "",  # as long as what it is made of
    "verify": "Yes",
}
# Where each prompt stands in the folder that VLAA-Thinking's repository publishes.
PUBLISHED = {
    "caption": "1.captioning.txt",
    "distil": "2.r1cot.txt",
    "rewrite": "3.rewrite.txt",
    "verify": "4.verify.txt",
}
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
_YES_OR_NO = re.compile(r"\W*(yes|no)\W*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Step:
    """One of the steps, as a run has it; `images` is the folder that images are in."""

    name: str
    asked: TeacherSettings
    prompt: str
    images: Path

    def body(self, row: CuratedRow, look: bool = True) -> Body | None:
        """The request; without `look` no image is read, and none is in it."""
        text = _TEXTS[self.name](self.prompt, row)
        if text is None:
            return None
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if self.name == "caption" and look:
            url = pictures.data_url(pictures.picture(row, self.images), self.asked.max_side)
            content.insert(0, {"type": "image_url", "image_url": {"url": url}})
        return {
            "model": self.asked.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self.asked.temperature,
            "max_tokens": self.asked.max_tokens,
        }

    def take(self, row: CuratedRow, text: str, reason: str = "stop") -> CuratedRow:
        """The row with what the reply says."""
        if reason == "length":
            raise BadRow("reply was cut off", f"at {self.asked.max_tokens} tokens: {text[-60:]!r}")
        if reason != "stop":
            found = f"for {reason!r:.60}, after: {text[-60:]!r}"
            raise BadRow("reply was ended by the server", found)
        if not text.strip():
            raise BadRow("empty reply", "the reply has no text")
        return row | _TAKE[self.name](row, fields.plain(text, "reply"))

    def settings(self) -> dict[str, Any]:
        """What the step's output depends on, beside its input."""
        found = {**self.asked.settings(), "prompt": rows.digest(self.prompt)}
        return found | ({"word_gap": WORD_GAP} if self.name == "rewrite" else {})


def shared(step: Step, workers: int) -> Step:
    """The step as each of so many workers has it: together they ask as many requests at a time."""
    concurrency = max(step.asked.concurrency // max(workers, 1), 1)
    return dataclasses.replace(step, asked=dataclasses.replace(step.asked, concurrency=concurrency))


def prompt(step: str, folder: Path | None = None) -> str:
    """A step's prompt: of one's own folder, where it has one, else ours.

    A folder holds `caption.txt`, `distil.txt`, .., or files under the names of VLAA-Thinking's
    repository (assets/prompts), so that the papers' own are given as they are.
    """
    names = (f"{step}.txt", PUBLISHED[step])
    places = [folder / name for name in names] if folder else []
    if folder and not any((folder / n).is_file() for s in PLACES for n in _names(s)):
        expected = ", ".join(name for s in PLACES for name in _names(s))
        raise UserError(f"--prompts {folder}: no prompt is there; expected some of {expected}")
    ours = Path(__file__).parent / "prompts" / names[0]
    path = next((place for place in places if place.is_file()), ours)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    for place in PLACES[step]:
        if f"{{{place}}}" not in text:
            raise UserError(f"{path} has no {{{place}}}, where the prompt's {place} is to stand")
    return text


def _names(step: str) -> tuple[str, str]:
    return f"{step}.txt", PUBLISHED[step]


def fill(template: str, **values: str) -> str:
    """The template with its {places} filled, all at once: what is put in is never read for more."""
    pattern = "|".join(re.escape(f"{{{name}}}") for name in values)
    return re.sub(pattern, lambda found: values[found[0][1:-1]], template)


def thought_and_answer(text: str) -> tuple[str, str]:
    """What stands inside <think>..</think>, and the text behind it without answer tags."""
    match = _THOUGHT.fullmatch(text)
    answer = re.sub(r"</?answer>", "", match[2]).strip() if match else ""
    if not match or not match[1].strip() or not answer or "<think>" in match[2]:
        raise BadRow(
            "no thinking and answer",
            f"the reply is {text!r:.60}, expected <think>..</think> and an answer behind it",
        )
    return match[1], answer


def _for_caption(template: str, row: CuratedRow) -> str | None:
    given = row.get("caption") or row.get("ds_answer") or _text_question(row)
    return None if given or row.get("only") == "rl" else template


def _for_distil(template: str, row: CuratedRow) -> str | None:
    if row.get("ds_answer") or row.get("only") == "rl":
        return None
    if _text_question(row):
        return _text_question(row)  # the question in words alone says all: Math PUMA's
    meta = row.get("meta") or {}
    parts = [row.get("caption"), meta.get("scene"), meta.get("rationale")]
    shown = "\n\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip())
    if not shown:
        raise BadRow("no caption", "the row has neither a caption nor a question in words alone")
    return fill(template, caption=shown, question=row["question"])


def _for_rewrite(template: str, row: CuratedRow) -> str | None:
    if row.get("answer") or row.get("only") == "rl":
        return None
    return fill(template, input=fields.text(row, "ds_answer"))


def _for_verify(template: str, row: CuratedRow) -> str | None:
    if row.get("verified") or row.get("only") == "rl":
        return None
    gold = fields.answer(row, "gt")
    return fill(template, gold=gold, pred=thought_and_answer(fields.text(row, "answer"))[1])


def _text_question(row: CuratedRow) -> str | None:
    text = (row.get("meta") or {}).get("text_question")
    return text if isinstance(text, str) and text.strip() else None


def _caption(row: CuratedRow, text: str) -> dict[str, str]:
    return {"caption": text.strip()}


def _distilled(row: CuratedRow, text: str) -> dict[str, str]:
    thought_and_answer(text)
    return {"ds_answer": text.strip()}


def _rewritten(row: CuratedRow, text: str) -> dict[str, str]:
    before, after = len(row["ds_answer"].split()), len(text.split())
    if abs(before - after) > WORD_GAP:
        raise BadRow(f"word gap above {WORD_GAP}", f"{before} words became {after}")
    thought_and_answer(text)
    return {"answer": text.strip()}


def _verified(row: CuratedRow, text: str) -> dict[str, str]:
    word = _YES_OR_NO.fullmatch(text)
    if not word:
        raise BadRow("neither Yes nor No", f"the verifier says {text!r:.60}")
    if word[1].lower() == "no":
        raise BadRow("answer is wrong", f"the verifier says {text.strip()!r:.60}")
    return {"verified": "Yes"}


_TEXTS: Mapping[str, Callable[[str, CuratedRow], str | None]] = {
    "caption": _for_caption,
    "distil": _for_distil,
    "rewrite": _for_rewrite,
    "verify": _for_verify,
}
_TAKE: Mapping[str, Callable[[CuratedRow, str], dict[str, str]]] = {
    "caption": _caption,
    "distil": _distilled,
    "rewrite": _rewritten,
    "verify": _verified,
}
