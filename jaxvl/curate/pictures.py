# SPDX-License-Identifier: Apache-2.0
"""Pictures of the pipeline: where a row's is, what it holds, and how other folders have it too.

A picture is known by its bytes and not by its name, since one folder may be read by two sources and
a copy has another name.
"""

from __future__ import annotations

import base64
import filecmp
import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxvl.curate.rows import CuratedRow
from jaxvl.data import files
from jaxvl.data.example import BadRow
from jaxvl.data.image import load_image
from jaxvl.data.tasks import fields
from jaxvl.errors import UserError

# What steps leave beside their pictures: a folder with none of it is somebody else's.
_OURS = ("*.manifest.json", "*.journal", "scores-*.jsonl")


def find(value: Any, folders: Sequence[Path], root: Path) -> tuple[str | bytes, ...]:
    """`fields.pictures`, whose way out for files from elsewhere the pipeline does not have."""
    try:
        return fields.pictures(value, folders, root)
    except BadRow as why:
        if why.reason != "image file outside its folder":
            raise
        found = f"an image is {fields.shown(value)}, a file that is not below {root}"
        raise BadRow(why.reason, f"{found}: put the file itself there, and no link to it") from why


def picture(row: CuratedRow, folder: Path) -> Path:
    """Where a row's image is, below `folder`; BadRow where it has none or it is elsewhere."""
    name = row.get("image")
    if not isinstance(name, str) or not name.strip("/"):
        raise BadRow("no image", f"`image` is {fields.shown(name)}, expected a path")
    name = name.lstrip("/")  # as the published files are read
    if ".." in Path(name).parts:
        raise BadRow("image outside the folder", f"`image` is {name!r:.60}")
    (found,) = find(name, [folder], folder)
    return Path(os.fsdecode(found))  # of a path it is a path


def data_url(path: Path, max_side: int) -> str:
    """An image as an endpoint takes it: the file itself where it is small, else a smaller PNG."""
    image = load_image(path)  # says what is wrong with a broken one
    data = path.read_bytes()
    kind = "jpeg" if data[:2] == b"\xff\xd8" else "png" if data[:4] == b"\x89PNG" else ""
    if not kind or max(image.size) > max_side:
        image.thumbnail((max_side, max_side))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        kind, data = "png", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def content(found: str | bytes | Path) -> str:
    """What tells a picture from others: the digest of its bytes."""
    if isinstance(found, bytes):
        return hashlib.sha256(found).hexdigest()
    try:
        return files.sha256(Path(found))
    except OSError as error:
        raise BadRow("broken image", f"cannot read the image {found}: {error.strerror}") from error


def contents(given: Iterable[CuratedRow], images: Path) -> list[str]:
    """The content of each row's picture, "" of one that cannot be read."""
    known: dict[Any, str] = {}
    found = []
    for row in given:
        name = str(row.get("image"))
        if name not in known:
            try:
                known[name] = content(picture(row, images))
            except BadRow:
                known[name] = ""
        found.append(known[name])
    return found


class Album:
    """Pictures of sources, each read once, and put below the folder `images`; None puts none."""

    def __init__(self, images: Path | None):
        self.images = images
        self._contents: dict[str, str] = {}
        self._placed: dict[Path, tuple[str, str]] = {}  # (file, content) by target

    def content(self, found: str | bytes) -> str:
        """As the function of that name."""
        if isinstance(found, bytes):
            return content(found)
        if found not in self._contents:
            self._contents[found] = content(found)
        return self._contents[found]

    def add(self, found: str | bytes, name: str) -> None:
        """Has a picture at `name` below the folder; UserError where another one has that name."""
        if self.images is None:
            return
        target = self.images / name
        if isinstance(found, bytes):
            _put(found, self.images, name)
            return
        file, held = self._placed.setdefault(target, (found, self.content(found)))
        if held != self.content(found):
            raise UserError(
                f"{file} and {found} would both be {target}; give another name to one of them, or "
                "make them two sources"
            )
        if file == found:
            _put(Path(found), self.images, name)


def share(source: Path, target: Path) -> None:
    """Lets the images beside the file `source` be found beside the file `target` as well, those
    too that are new or another since the last time."""
    theirs, ours = source.parent / "images", target.parent / "images"
    if not theirs.is_dir() or (ours.exists() and ours.samefile(theirs)):
        return
    for folder, _, names in os.walk(theirs, followlinks=True):
        for file in (Path(folder, name) for name in sorted(names)):
            if file.is_file() and file.suffix != ".half":
                _put(file, ours, str(file.relative_to(theirs)))


def _put(found: Path | bytes, images: Path, name: str) -> None:
    """Have a picture at `name` below `images`. One that is there and is another is replaced where a
    step of the pipeline has put it there."""
    target = images / name
    try:
        if target.exists():
            if _same(found, target):
                return
            if not any(any(images.parent.glob(pattern)) for pattern in _OURS):
                what = found if isinstance(found, Path) else "the picture that a row holds"
                raise UserError(
                    f"{target} is there and is not {what}; remove it, or give another --out"
                )
        target.parent.mkdir(parents=True, exist_ok=True)
        half = target.with_name(target.name + ".half")
        half.unlink(missing_ok=True)
        if isinstance(found, bytes):
            half.write_bytes(found)
        else:
            _link(found, half)
        half.replace(target)  # a new file, so that other folders' links stay what they were
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error}); expected a folder `images` that can be, or "
            "none: remove what is in its way, or give another --out"
        ) from error


def _same(found: Path | bytes, target: Path) -> bool:
    if isinstance(found, bytes):
        return target.read_bytes() == found
    return target.samefile(found) or filecmp.cmp(target, found, shallow=False)


def _link(file: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none. No symbolic link: those are not
    followed out of the folder of a dataset."""
    try:
        os.link(os.path.realpath(file), target)
    except OSError:
        shutil.copyfile(file, target)
