# SPDX-License-Identifier: Apache-2.0
"""Data of one's own: JSON lines, JSON, parquet, arrow, CSV, TSV, or a dataset of the Hugging Face
hub, with the fields named in the config."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from jaxvl.data import files, gold, hub, places
from jaxvl.data.example import BadRow, Example, ReadRow, RowSource
from jaxvl.data.tasks import conversations, fields

# Of TRL's datasets, and of LLaVA's: what a column is, and what is said of it.
_KNOWN = {
    "prompt": "conversation",
    "messages": "conversation",
    "conversations": "conversation",
    "problem": "question",
}
_MEANS = {
    "conversation": "holds turns, which the template as-given takes as they are",
    "question": "is the question",
}


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A source, and what of it was recognised rather than set, in words."""

    source: Records
    told: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Records(RowSource):
    """Examples from `path`: a file, a folder, or `hf://datasets/OWNER/NAME[@REVISION][/FOLDER]`.

    `question`, `answer`, `choices`, `image` and `id` are the names of the fields to read; all the
    others become columns, but for bytes. A question and an answer are needed; the answer is text,
    a number or a box of four (`jaxvl.data.gold.text`), with choices one of them or the letter of
    one; rows without a field `answer` may have it in the answer tags of a field `solution`.
    `choices` is one field that holds a list, or several that hold one each; `image` is the fields
    that hold images (paths, bytes, Hugging Face's {"bytes", "path"}, base64 text, or a list of
    these), of which a row may lack some or all. Paths are relative to the folder `images` (default:
    that of the file, or `path`) and lead to files below it, unless `allow_outside`: by default a
    row names no other file of the machine. A row without an id has its number. A marker (`<image>`,
    `<image2>`, `<img>`) in the question or a choice is the place of an image, and a row has as
    many as it has images, or none: they stand in front. Markers in front of a question are taken
    off unless `keep_markers`.

    With `conversation`, the name of a field that holds turns in TRL's format ("messages" or
    "prompt") or LLaVA's ("conversations"), the question is the last user's turn and the answer,
    where there is no field of that name, what the assistant replies in it or in `completion`; the
    turns become the column `messages` and the template is
    `jaxvl.data.tasks.conversations.as_given`.

    Where these names are left as they are and the first row has no `question`, columns as in TRL's
    datasets are recognised, which is printed: `prompt` (turns or text) or `problem`, `solution`;
    so are LLaVA's `conversations`.

    `limit` takes only the first so many rows (0: all).
    """

    path: str
    split: str = "train"
    subset: str = ""
    images: str = ""
    question: str = "question"
    answer: str = "answer"
    choices: tuple[str, ...] = ("choices",)
    image: tuple[str, ...] = ("image", "images")
    id: str = "id"
    conversation: str = ""
    task: str = ""  # default: the name of the file or dataset
    keep_markers: bool = False
    limit: Annotated[int, Ge(0)] = 0
    allow_outside: bool = False

    def files(self) -> list[Path]:
        return hub.find(self.path, self.split, self.subset)

    def folders(self, file: Path) -> list[Path]:
        """Where relative paths of images in a file may start: its own folder, `path`, or where
        the file is in the `data` of a hub dataset, the folder above."""
        if self.images:
            return [Path(self.images)]
        root = hub.root(self.path, file)
        return list(dict.fromkeys([file.parent, root]))

    def pictures(self, value: Any, file: Path) -> tuple[str | bytes, ...]:
        """Those that a value in a row of a file names or holds, as `fields.pictures`."""
        root = Path(self.images) if self.images else hub.root(self.path, file)
        return fields.pictures(value, self.folders(file), None if self.allow_outside else root)

    def recognised(self) -> Recognised:
        """This source with the fields that its first row has, where their names are left to jaxvl
        and the row has them as TRL's datasets do: `prompt` or `problem`, and `solution`."""
        named = (self.question, self.answer, self.conversation)
        if named != ("question", "answer", ""):
            return Recognised(self)
        first = next((raw for _, _, raw in files.read(self.files()) if isinstance(raw, dict)), {})
        told: list[str] = []
        found: dict[str, Any] = {}
        if "question" not in first:
            for name, field in _KNOWN.items():
                if name in first:
                    found[field] = name
                    told.append(f"`{name}` {_MEANS[field]}")
                    break
        if "answer" not in first and found and "solution" in first:
            found["answer"] = "solution"
            told.append("`solution` is the answer")
        return Recognised(dataclasses.replace(self, **found), tuple(told))

    def unread_picture(self) -> str:
        """The field of the first row that holds a picture, where none that is read does."""
        first = next((raw for _, _, raw in files.read(self.files()) if isinstance(raw, dict)), {})
        if any(first.get(name) for name in self.image):
            return ""
        return places.blind({name: x for name, x in first.items() if name not in self.image})

    def rows(self, start: int = 0) -> Iterator[ReadRow]:
        seen = self.recognised()
        if seen.told and start == 0:
            whose = "LLaVA" if seen.source.conversation == "conversations" else "TRL"
            text = f"data: {self.path} has the form of {whose}'s datasets: {', '.join(seen.told)}"
            print(text, file=sys.stderr, flush=True)
        yield from seen.source._rows(start)

    def _rows(self, start: int) -> Iterator[ReadRow]:
        task = self.task or Path(self.path).stem
        for number, file, raw in files.read(self.files(), start + 1):
            if self.limit and number > self.limit:
                return
            if isinstance(raw, BadRow):
                yield str(number), raw
                continue
            if file.suffix in (".csv", ".tsv") and self.answer in raw:
                raw[self.answer] = _whole(raw[self.answer])
            id = raw.get(self.id)
            id = str(number if id is None else id)
            try:
                yield id, self._example(raw, id, task, file)
            except BadRow as why:
                yield id, why

    def _example(self, raw: Mapping[str, Any], id: str, task: str, file: Path) -> Example:
        read = {self.question, self.answer, *self.choices, *self.image, self.id, self.conversation}
        unread = {name: value for name, value in raw.items() if name not in read}
        columns = {name: value for name, value in unread.items() if _kept(value)}
        pictures = [raw.get(name) for name in self.image]
        if self.conversation:
            question, right, inside = self._conversation(raw, columns)
            pictures = [inside] if inside else pictures
        else:
            question = fields.text(raw, self.question, "data.source.question")
            right = self._gold(raw)
        images = tuple(image for item in pictures for image in self.pictures(item, file))
        choices: Sequence[str] = self._choices(raw)
        answer = fields.one_of(right, choices)
        if self.conversation:
            conversations.place_images(columns["messages"], len(images), unread)
        else:
            (placed, *choices), images = places.fit([question, *choices], images, unread)
            question = question if self.keep_markers else placed
            if not question:
                raise BadRow("no question", f"`{self.question}` has nothing but places of pictures")
        if self.image and not images and (name := places.blind(unread)):
            raise BadRow(
                "picture that is not read",
                f"`{name}` holds a picture and is not read: data.source.image names the columns "
                f"with pictures, now {', '.join(self.image)} (none, for questions without any)",
            )
        return Example(
            id=id,
            question=question,
            answer=answer,
            images=images,
            choices=tuple(choices),
            task=task,
            columns=columns,
        )

    def _conversation(self, raw: Mapping[str, Any], columns: dict) -> tuple[str, str, list[Any]]:
        """The question, the answer, and the images in the turns, which become a column."""
        turns, inside = conversations.turns(raw.get(self.conversation), self.conversation)
        prompt, reply = conversations.prompt_and_reply(turns, self.conversation)
        if raw.get("completion"):
            said, _ = conversations.turns(raw["completion"], "completion")
            reply = "".join(conversations.said(turn) for turn in said)
        columns["messages"] = prompt
        if self.answer in raw:
            right = self._gold(raw)
        else:
            right = fields.text({"answer": reply}, "answer").strip()
        return conversations.said(prompt[-1]).strip(), right, inside

    def _gold(self, raw: Mapping[str, Any]) -> str:
        """The answer; of a row without the field `answer` what `solution` has in answer tags."""
        name = "solution" if self.answer == "answer" and "answer" not in raw else self.answer
        if name == "solution" and "<answer>" in str(raw.get(name)):
            return gold.tagged(fields.answer(raw, name), name)
        return fields.answer(raw, self.answer, "data.source.answer")

    def _choices(self, raw: Mapping[str, Any]) -> tuple[str, ...]:
        if len(self.choices) > 1:
            values = [raw.get(name) for name in self.choices]
            values = [None if value == "" else value for value in values]
            return fields.options(values, ", ".join(self.choices))
        name = next(iter(self.choices), "")
        return fields.options(raw.get(name) or [], name)


def questions_and_images(source: Records) -> Iterator[tuple[str, Any]]:
    """The question ("" where there is none) and the images of every row, or the BadRow that says
    why a row's images cannot be had: what tells a test set, which may come without answers."""
    for _, file, raw in files.read(source.files()):
        if isinstance(raw, BadRow):
            yield "", raw
            continue
        question = raw.get(source.question)
        try:
            values = [raw.get(name) for name in source.image]
            images: Any = tuple(image for item in values for image in source.pictures(item, file))
        except BadRow as why:
            images = why
        yield question if isinstance(question, str) else "", images


def _whole(cell: Any) -> Any:
    """A cell without the ".0" of a whole number: what a column of integers with a gap is saved as,
    and cells have no type."""
    whole = isinstance(cell, str) and re.fullmatch(r"\s*-?\d+\.0\s*", cell)
    return cell.strip()[:-2] if whole else cell


def _kept(value: Any) -> bool:
    """Whether a value is kept as a column: images that are not read are not carried along."""
    if isinstance(value, Mapping):
        return all(_kept(item) for item in value.values())
    if isinstance(value, list):
        return all(_kept(item) for item in value)
    return not isinstance(value, bytes)
