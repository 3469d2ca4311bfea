# SPDX-License-Identifier: Apache-2.0
"""A file of one's own: one JSON object a line."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from pathlib import Path
from typing import Any

from jaxvl.data.example import Example
from jaxvl.errors import UserError

_MARKER = re.compile(r"[ \t]*<image\d*>")
_SHOWN = 5  # unusable rows that a message lists


class _Unusable(Exception):
    """Why a row cannot be used."""


@dataclasses.dataclass(frozen=True)
class Jsonl:
    """Examples from the JSON-lines file `path`.

    `question`, `answer`, `choices`, `image` and `id` are the names of the fields to read; all the
    others become columns. A question and an answer (text or a number) are needed; with choices the
    answer is one of them or the letter of one. An image is a path or a list of paths, relative to
    the folder `images` (default: the file's own), and may be absent. A row without an id has its
    line number. `<image>` and `<image1>` markers are taken out of the question unless
    `keep_markers`. `limit` stops after so many examples (0: none).

    Rows that cannot be used are left out with a warning that counts them and lists the first;
    `strict` makes them an error.
    """

    path: str
    images: str = ""
    question: str = "question"
    answer: str = "answer"
    choices: str = "choices"
    image: str = "image"
    id: str = "id"
    task: str = ""  # default: the name of the file
    keep_markers: bool = False
    strict: bool = False
    limit: int = 0

    def load(self) -> list[Example]:
        """The usable rows, in file order. Images stay paths and are opened when they are drawn."""
        if not Path(self.path).is_file():
            raise UserError(f"no file {self.path}; Jsonl reads one JSON object a line from it")
        examples: list[Example] = []
        unusable: list[str] = []
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if self.limit and len(examples) == self.limit:
                    break
                if not line.strip():
                    continue
                try:
                    examples.append(self._example(_object(line), number))
                except _Unusable as why:
                    unusable.append(f"line {number}: {why}")
        self._report(unusable, len(examples))
        return examples

    def _report(self, unusable: list[str], usable: int) -> None:
        listed = "".join(f"\n  {row}" for row in unusable[:_SHOWN])
        more = f"\n  and {len(unusable) - _SHOWN} more" if len(unusable) > _SHOWN else ""
        count = f"{self.path}: {len(unusable)} of {usable + len(unusable)} rows cannot be used"
        if not usable or (unusable and self.strict):
            raise UserError(f"{count}{':' if unusable else ''}{listed}{more}")
        if unusable:
            warnings.warn(f"{count} and are left out:{listed}{more}", stacklevel=3)

    def _example(self, row: dict[str, Any], number: int) -> Example:
        question = row.get(self.question)
        if not isinstance(question, str) or not question.strip():
            raise _Unusable(f"`{self.question}` is {_shown(question)}, expected text")
        choices = row.get(self.choices) or []
        if not isinstance(choices, list):
            raise _Unusable(f"`{self.choices}` is {_shown(choices)}, expected a list")
        choices = tuple(str(choice) for choice in choices)
        read = {self.question, self.answer, self.choices, self.image, self.id}
        return Example(
            id=str(row.get(self.id, number)),
            question=question if self.keep_markers else _MARKER.sub("", question).strip(),
            answer=self._answer(row.get(self.answer), choices),
            images=self._images(row.get(self.image)),
            choices=choices,
            task=self.task or Path(self.path).stem,
            columns={name: value for name, value in row.items() if name not in read},
        )

    def _answer(self, answer: Any, choices: tuple[str, ...]) -> str:
        number = isinstance(answer, (int, float)) and not isinstance(answer, bool)
        if not number and not (isinstance(answer, str) and answer.strip()):
            raise _Unusable(f"`{self.answer}` is {_shown(answer)}, expected text or a number")
        answer = str(answer).strip()
        letters = [chr(ord("A") + index) for index in range(len(choices))]
        if choices and answer not in choices and answer.strip("()").upper() not in letters:
            raise _Unusable(
                f"`{self.answer}` is {_shown(answer)}, neither one of the {len(choices)} choices "
                "nor the letter of one"
            )
        return answer

    def _images(self, image: Any) -> tuple[str, ...]:
        names = [image] if isinstance(image, str) and image else image or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _Unusable(f"`{self.image}` is {_shown(image)}, expected a path or a list of them")
        folder = Path(self.images) if self.images else Path(self.path).parent
        files = [folder / name for name in names]
        missing = [str(file) for file in files if not file.is_file()]
        if missing:
            raise _Unusable(f"no image file {missing[0]}")
        return tuple(str(file) for file in files)


def _object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Unusable(f"broken JSON: {error}") from None
    if not isinstance(row, dict):
        raise _Unusable(f"a JSON {type(row).__name__}, expected an object")
    return row


def _shown(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.60}"
