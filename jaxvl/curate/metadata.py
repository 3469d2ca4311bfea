# SPDX-License-Identifier: Apache-2.0
"""Step 1: rows of the pipeline from datasets as they are published, one question an image."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxvl.curate import captions, manifest, pictures, sources
from jaxvl.curate.captions import Captions
from jaxvl.curate.manifest import Manifest, ManifestPlace
from jaxvl.curate.pictures import Album
from jaxvl.curate.rows import CuratedRow, digest
from jaxvl.data import files, hub
from jaxvl.data.example import BadRow
from jaxvl.data.image import load_image
from jaxvl.data.tasks import fields, vlaa
from jaxvl.errors import UserError

_DECODED = 256  # pictures at a time, before it is looked whether enough are sound
_SUFFIX = {b"\xff\xd8": "jpg", b"\x89P": "png"}


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Which rows are taken: `first` so many of a source at most (by a draw of the seed; all where
    it has no number), one of each image's questions but for `all_questions`."""

    first: Mapping[str, int] = dataclasses.field(default_factory=dict)
    kinds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    all_questions: bool = False
    seed: int = 0


@dataclasses.dataclass
class _Found:
    """A row of a source, with a `reason` where it is dropped, and the picture that it names or
    holds."""

    row: CuratedRow
    content: str = ""  # what tells the picture from others
    file: Path | None = None  # where it can be opened


def run(paths: Mapping[str, str], out: Path, chosen: Chosen) -> Manifest:
    """Writes the rows of all sources, `paths` by source, and links their images beside them."""
    _check(paths, chosen)
    place = ManifestPlace(out)
    with manifest.alone(out.parent):
        inputs: dict[str, Path] = {}
        for name, path in paths.items():
            found = hub.find(path, "train")
            inputs |= {f"{name} {number}": file for number, file in enumerate(found)}
        for name, path in chosen.captions.items():
            inputs[f"captions of {name}"] = Path(path)
        identity = manifest.identity("metadata", dataclasses.asdict(chosen), inputs)
        by_source = _all(paths, out.parent / "images", chosen)
        known = [[each.row["id"], each.content] for some in by_source for each in some]
        identity["in"]["pictures"] = {"sha256": digest(known)}
        done = manifest.finished(place, identity)
        if done is None:
            kept, dropped = _taken(by_source, chosen)
            count = len(kept) + len(dropped)
            done = manifest.finish(place, identity, count, {"rows": (out, kept)}, dropped)
        return done


def collect(
    paths: Mapping[str, str], images: Path | None, chosen: Chosen
) -> tuple[list[CuratedRow], list[CuratedRow]]:
    """(rows that are taken, rows that are not) of all sources. Without `images` nothing is linked
    and no picture decoded."""
    _check(paths, chosen)
    return _taken(_all(paths, images, chosen), chosen, images is not None)


def _all(paths: Mapping[str, str], images: Path | None, chosen: Chosen) -> list[list[_Found]]:
    """Every row of each source."""
    album, by_source = Album(images), []
    for name, path in paths.items():
        known = captions.read(chosen.captions.get(name))
        found = list(_read(name, path, album, chosen, known))
        if not found:
            raise UserError(f"--source {name}={path}: the file has no row of {name}")
        known.check(name, chosen.captions.get(name))
        by_source.append([*_bad_captions(name, known), *found])
    return by_source


def _bad_captions(name: str, known: Captions) -> Iterator[_Found]:
    """Rows of its file of captions, which are dropped as others are."""
    for number, why in known.bad:
        bad = BadRow("caption cannot be read", f"row {number} of the file of captions: {why}")
        yield _Found(_drop(f"{name}-caption-{number - 1}", name, bad))


def _taken(
    by_source: Sequence[Sequence[_Found]], chosen: Chosen, look: bool = True
) -> tuple[list[CuratedRow], list[CuratedRow]]:
    kept, dropped = [], []
    for found in by_source:
        sound = [each for each in found if "reason" not in each.row]
        dropped += [each.row for each in found if "reason" in each.row]
        over = {each.row["id"]: why for each, why in _not_drawn(sound, chosen, look)}
        rows = {each.row["id"]: each.row for each in sound}
        dropped += [_drop(id, rows[id]["source"], why) for id, why in over.items()]
        kept += [row for id, row in rows.items() if id not in over]
    return kept, dropped


def _check(paths: Mapping[str, str], chosen: Chosen) -> None:
    if not paths:
        raise UserError("no source; give --source NAME=PATH, once for each dataset")
    sources.check_names(chosen.first, paths, "--take")
    sources.check_names(chosen.kinds, paths, "--kind")
    sources.check_names(chosen.captions, paths, "--captions")


def rank(seed: int, row: Mapping[str, Any]) -> str:
    """By which rows are drawn: the same whatever other rows there are."""
    return hashlib.sha256(f"{seed} {row['id']}".encode()).hexdigest()


def _not_drawn(
    sound: Sequence[_Found], chosen: Chosen, look: bool
) -> Iterator[tuple[_Found, BadRow]]:
    """The rows that are not taken, and why: broken pictures, further questions of one, and what is
    over the number that is wanted. Pictures are decoded only until that is reached."""
    seen: set[str] = set()
    drawn: list[_Found] = []
    more: list[_Found] = []
    for each in sorted(sound, key=lambda each: rank(chosen.seed, each.row)):
        again = each.content in seen and not chosen.all_questions
        (more if again else drawn).append(each)
        seen.add(each.content)
    limit = chosen.first.get(sound[0].row["source"]) if sound else None
    taken: list[_Found] = []
    broken: dict[str, BadRow | None] = {}
    over: list[_Found] = []
    for start in range(0, len(drawn), _DECODED):
        some = drawn[start : start + _DECODED]
        if limit is not None and len(taken) >= limit:
            over += some
            continue
        broken |= _broken(each for each in some if look and each.content not in broken)
        for each in some:
            if why := broken.get(each.content):
                yield each, BadRow(why.reason, f"{each.row['image']}: {why}")
            elif limit is not None and len(taken) >= limit:
                over.append(each)
            else:
                taken.append(each)
    for each in more:
        wrong, name = broken.get(each.content), each.row["image"]
        yield (
            each,
            BadRow(wrong.reason, f"{name}: {wrong}")
            if wrong
            else BadRow("another question of its picture is taken", name),
        )
    for each in over:
        yield each, BadRow("over the number that is taken", each.row["image"])


def _broken(some: Iterable[_Found]) -> dict[str, BadRow | None]:
    """What is wrong with pictures, by content; decoders run beside each other."""
    by_content = {each.content: each.file for each in some}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(by_content, threads.map(_wrong, by_content.values()), strict=True))


def _wrong(file: Path | None) -> BadRow | None:
    try:
        if file:
            load_image(file.read_bytes())  # as bytes, so that no place stands in what is said
    except BadRow as why:
        return why
    return None


def _read(name: str, path: str, album: Album, chosen: Chosen, known: Captions) -> Iterator[_Found]:
    """Every row of a source, sound or (with a `reason`) not; ids are the source and the number."""
    if not name.replace("_", "").replace("-", "").isalnum():
        raise UserError(f"--source {name}={path}: a name has letters, digits, - and _ alone")
    for number, file, raw in files.read(hub.find(path, "train")):
        id = f"{name}-{number - 1}"
        try:
            if isinstance(raw, BadRow):
                raise raw
            image = raw.get("image", raw.get("decoded_image"))
            caption = known.of(image)
            row = sources.read_row(raw, name, chosen.kinds.get(name, ""))
            if row is None:
                continue
            if row.get("only") == "rl":
                vlaa.normal_answer(row["verifier_type"], row["gt"], row["question"])
            if caption is not None:
                row.setdefault("caption", caption)
            found = _place(image, name, file.parent.resolve(), album)
            found.row = {"id": id, "source": name, **found.row, **row}
            yield found
        except BadRow as why:
            yield _Found(_drop(id, name, why))


def _place(image: Any, name: str, folder: Path, album: Album) -> _Found:
    """An image, with its name as the only field of the row. A file is linked below the album's
    folder; one that is held by the row itself becomes a file there."""
    if isinstance(image, str) and ".." in Path(image).parts:
        raise BadRow("image outside the folder", f"`image` is {fields.shown(image)}")
    if isinstance(image, str) and (len(image) <= 64 or "." in image[-6:]):  # no base64 text
        image = image.removeprefix(f"{folder}/").lstrip("/")  # with which published rows begin
    found = pictures.find(image, [folder, folder / "images"], folder)
    if len(found) != 1:
        raise BadRow("not one image", f"{len(found)} pictures; the pipeline takes one a question")
    content = album.content(found[0])
    if isinstance(found[0], str):
        own = f"{name}/{Path(found[0]).relative_to(folder)}"
        file: Path | None = Path(found[0])
    else:
        own = f"{name}/{content[:32]}.{_SUFFIX.get(found[0][:2], 'img')}"
        file = album.images / own if album.images else None
    album.add(found[0], own)
    return _Found({"image": own}, content, file)


def _drop(id: str, source: str, why: BadRow) -> CuratedRow:
    return {"id": id, "source": source, "reason": why.reason, "found": str(why)}
