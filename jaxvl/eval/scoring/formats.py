# SPDX-License-Identifier: Apache-2.0
"""Files of benchmarks as they are published: Hugging Face's parquet, VLMEvalKit's TSV, JSON and
JSON lines with a folder of images. They are found by their names, and rows are read alike."""

from __future__ import annotations

import ast
import dataclasses
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data import files
from jaxvl.data.example import BadRow, Dropped, summary
from jaxvl.data.tasks import fields
from jaxvl.errors import UserError
from jaxvl.eval.benchmark import Item

LETTERS = string.ascii_uppercase
# Where images lie beside a file of rows, below its folder or the ones above it.
_IMAGE_FOLDERS = ("", "images", "image", "img", "trainval2017", "train2017", "val2017")
_OPTION = re.compile(r"(?:\(|\b)([A-J])\)")
_REFERENCE = 64  # an `image` of a TSV that is no longer than this is the index of another row

FileLayout = str | tuple[str, ...]  # globs of files that belong together


def find(source: str | Path, layouts: Sequence[FileLayout]) -> list[Path]:
    """The files of the first layout that is there below `source`, or `source` where it is a file.

    UserError where there is none.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    for layout in layouts:
        globs = (layout,) if isinstance(layout, str) else layout
        found = sorted({path for glob in globs for path in source.glob(f"**/{glob}")})
        if found:
            return found
    expected = ", ".join(layout if isinstance(layout, str) else layout[0] for layout in layouts)
    what = "has none of its files" if source.is_dir() else "does not exist"
    raise UserError(f"{source} {what}; expected a file or folder with one of {expected}")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a file: `number` counts from 1 over all files, `folders` may hold its images,
    which are below `root`."""

    values: Mapping[str, Any]
    number: int
    file: Path
    folders: tuple[Path, ...]
    root: Path

    def get(self, *names: str) -> Any:
        """The first of these fields that holds something, else None. NaN is nothing."""
        values = (self.values.get(name) for name in names)
        return next((v for v in values if v is not None and v != "" and v == v), None)

    def text(self, *names: str) -> str:
        """The text of the first of these fields that holds something; BadRow where none does."""
        value = self.get(*names)
        return fields.text({names[0]: value if value is None else str(value)}, names[0])

    def word(self, *names: str) -> str:
        """The same for a field that may be empty, which is then ""."""
        value = self.get(*names)
        return "" if value is None else str(value)

    def picture(self, *names: str) -> tuple[str | bytes, ...]:
        """The image, or the list of them, in the first of these fields that holds something;
        BadRow where none does, and where an image is named but not there."""
        value = self.get(*names)
        value = listed(value) if isinstance(value, str) and value[:1] == "[" else value
        found = fields.pictures(value, self.folders, self.root)
        if not found:
            raise BadRow("no image", f"the row has no image in {' or '.join(names)}")
        return found

    def pictures(self, *names: str) -> tuple[str | bytes, ...]:
        """The images of all of these fields that hold some, in order; BadRow where none does."""
        filled = [name for name in names if self.get(name) is not None]
        return tuple(picture for name in filled or names[:1] for picture in self.picture(name))

    def choices(self, *names: str) -> tuple[str, ...]:
        """The options: a list in one of these fields (perhaps as its text, as Python writes it), or
        the columns A, B, ..; () where there are none. An option may well be "None" or "nan"."""
        value = self.get(*names)
        if value is not None:
            value = listed(value) if isinstance(value, str) else value
            if not isinstance(value, (list, tuple)):
                raise BadRow(
                    "choices of a wrong type", f"choices are {fields.shown(value)}, expected a list"
                )
            return tuple(fields.plain(str(option).strip(), "choices") for option in value)
        options = [self.get(letter) for letter in LETTERS]
        count = options.index(None) if None in options else len(options)
        if any(option is not None for option in options[count:]):
            raise BadRow("a gap in the options", f"there is no option {LETTERS[count]}")
        return tuple(fields.plain(str(option).strip(), "options") for option in options[:count])


def rows(paths: Sequence[Path], source: str | Path) -> Iterator[Row | BadRow]:
    """The rows of files below `source`. Those of a TSV have the image itself where they name the
    row that has it."""
    number = 0
    for file in paths:
        levels = _levels(file, Path(source))
        folders = tuple(level / name for level in levels for name in _IMAGE_FOLDERS)
        root = Path(source) if Path(source).is_dir() else file.parent
        read = (raw for _, _, raw in files.read([file]))
        for raw in _with_images(list(read)) if file.suffix == ".tsv" else read:
            number += 1
            yield raw if isinstance(raw, BadRow) else Row(raw, number, file, folders, root)


def _levels(file: Path, source: Path) -> list[Path]:
    """The folder of a file and up to two above it, but not above `source`."""
    levels = [file.parent]
    while len(levels) < 3 and source in levels[-1].parents:
        levels.append(levels[-1].parent)
    return levels


def _with_images(table: list[files.Raw]) -> Iterator[files.Raw]:
    """Rows of a VLMEvalKit TSV, whose `image` may be the index of another row, and whose images
    may be files instead, in `image_path`."""
    good = [raw for raw in table if not isinstance(raw, BadRow)]
    whole = [raw for raw in good if len(raw.get("image") or "") > _REFERENCE]
    images = {raw.get("index"): raw["image"] for raw in whole}
    for raw in table:
        image = None if isinstance(raw, BadRow) else raw.get("image")
        if isinstance(raw, BadRow) or (image and (len(image) > _REFERENCE or "." in image)):
            yield raw
        elif image is None:
            yield {**raw, "image": raw.get("image_path")}
        elif image in images:
            yield {**raw, "image": images[image]}
        else:
            yield BadRow("missing image", f"`image` names row {image}, which has none")


def listed(text: str) -> list[Any]:
    """A list that stands in a cell as Python writes it; BadRow where it is none."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        value = None
    if not isinstance(value, list):
        raise BadRow("broken list", f"{fields.shown(text)} is not a list")
    return value


def inline(text: str) -> tuple[str, ...]:
    """The texts of the options that stand in a question as "(A) .. (B) .." or "A) .. B) ..", in
    order from A; () where there are not at least two such."""
    pieces = _OPTION.split(text)
    letters, texts = "".join(pieces[1::2]), [piece.strip(" ,;.\n\t") for piece in pieces[2::2]]
    start = letters.rfind("A")
    letters, texts = letters[start:], texts[start:]
    whole = start >= 0 and len(letters) > 1 and letters == LETTERS[: len(letters)] and all(texts)
    return tuple(texts) if whole else ()


def letter(gold: Any, choices: Sequence[str]) -> str:
    """The letter that a gold like "B", "(B)" or "b" is; BadRow where no choice has it."""
    found = str(gold).strip().strip("()").strip().upper()
    if len(found) != 1 or found not in LETTERS[: len(choices)]:
        raise _none_of(gold, choices)
    return found


def letters(gold: Any, choices: Sequence[str]) -> str:
    r"""The letters that a gold names, a line each ("A\nC" is "A, C"), or that of the choice that it
    reads; BadRow where no choice is meant."""
    lines = str(gold).split()
    if len(choices) > 0 and str(gold).strip() in choices:
        return letter_of(gold, choices)
    return ", ".join(letter(line, choices or LETTERS[:8]) for line in lines or [""])


def letter_of(text: Any, choices: Sequence[str]) -> str:
    """The letter of the choice that reads `text`, the first where one is there twice; BadRow where
    there is none."""
    if str(text).strip() not in choices:
        raise _none_of(text, choices)
    return LETTERS[list(choices).index(str(text).strip())]


def _none_of(gold: Any, choices: Sequence[str]) -> BadRow:
    found = f"the answer is {fields.shown(gold)}, the choices are {fields.shown(list(choices))}"
    return BadRow("answer is none of the choices", found)


def collect(
    source: str | Path, layouts: Sequence[FileLayout], make: Callable[[Row], list[Item]]
) -> tuple[list[Item], list[Dropped]]:
    """The items that `make` makes of the rows of the files found, and the rows that were left out.

    `make` raises BadRow (LeftOut) for a row that is not to be used. An id that comes again is a bad
    row. UserError where no row is usable.
    """
    items: dict[str, Item] = {}
    dropped: list[Dropped] = []
    for place, row in enumerate(rows(find(source, layouts), source), 1):
        try:
            if isinstance(row, BadRow):
                raise row
            made = make(row)
            again = [item.id for item in made if item.id in items]
            if again:
                raise BadRow("an id that comes again", f"the id {again[0]} was there before")
            items.update((item.id, item) for item in made)
        except BadRow as why:
            dropped.append(Dropped.of(str(place), why))
    return checked(source, list(items.values()), dropped)


def checked(
    source: str | Path, items: list[Item], dropped: list[Dropped]
) -> tuple[list[Item], list[Dropped]]:
    """Both as they are; UserError where there is no item, which says why."""
    if not items:
        raise UserError(f"{source} has no usable row: {summary(dropped) or 'it has no rows'}")
    return items, dropped
