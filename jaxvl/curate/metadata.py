# SPDX-License-Identifier: Apache-2.0
"""Step 1: rows of the pipeline from datasets as they are published, one question an image."""

from __future__ import annotations

import dataclasses
import filecmp
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.curate import manifest, sources
from jaxvl.curate.manifest import Manifest, ManifestPlace
from jaxvl.curate.rows import CuratedRow, link
from jaxvl.data import files, hub
from jaxvl.data.example import BadRow
from jaxvl.data.tasks import fields, vlaa
from jaxvl.errors import UserError

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
        done = manifest.finished(place, identity)
        if done is None:
            kept, dropped = collect(paths, out.parent / "images", chosen)
            count = len(kept) + len(dropped)
            done = manifest.finish(place, identity, count, {"rows": (out, kept)}, dropped)
        return done


def collect(
    paths: Mapping[str, str], images: Path, chosen: Chosen
) -> tuple[list[CuratedRow], list[CuratedRow]]:
    """(rows that are taken, rows that are not) of all sources."""
    _check(paths, chosen)
    kept, dropped = [], []
    for name, path in paths.items():
        known = _captions(chosen.captions.get(name))
        found = list(_read(name, path, images, chosen, known))
        dropped += [row for row in found if "reason" in row]
        if not found:
            raise UserError(f"--source {name}={path}: the file has no row of {name}")
        found = [row for row in found if "reason" not in row]
        for reason, over in _not_drawn(found, chosen, chosen.first.get(name)):
            ids = {row["id"] for row in over}
            dropped += [_drop(row["id"], name, BadRow(reason, row["image"])) for row in over]
            found = [row for row in found if row["id"] not in ids]
        kept += found
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
    found: list[CuratedRow], chosen: Chosen, first: int | None
) -> Iterator[tuple[str, list[CuratedRow]]]:
    drawn = sorted(found, key=lambda row: rank(chosen.seed, row))
    if not chosen.all_questions:
        seen: set[str] = set()
        more = []
        for row in drawn:
            if row["image"] in seen:
                more.append(row)
            seen.add(row["image"])
        yield "another question of its picture is taken", more
        ids = {row["id"] for row in more}
        drawn = [row for row in drawn if row["id"] not in ids]
    if first is not None:
        yield "over the number that is taken", drawn[first:]


def _read(
    name: str, path: str, images: Path, chosen: Chosen, captions: Mapping[str, str]
) -> Iterator[CuratedRow]:
    """Every row of a source, sound or (with a `reason`) not; ids are the source and the number."""
    if not name.replace("_", "").replace("-", "").isalnum():
        raise UserError(f"--source {name}={path}: a name has letters, digits, - and _ alone")
    for number, file, raw in files.read(hub.find(path, "train")):
        id = f"{name}-{number - 1}"
        try:
            if isinstance(raw, BadRow):
                raise raw
            row = sources.read_row(raw, name, chosen.kinds.get(name, ""))
            if row is None:
                continue
            image = raw.get("image", raw.get("decoded_image"))
            if row.get("only") == "rl":
                vlaa.normal_answer(row["verifier_type"], row["gt"], row["question"])
            if isinstance(image, str) and image in captions:
                row.setdefault("caption", captions[image])
            place = _place(image, name, file.parent.resolve(), images)
            yield {"id": id, "source": name, "image": place, **row}
        except BadRow as why:
            yield _drop(id, name, why)


def _place(image: Any, name: str, folder: Path, images: Path) -> str:
    """An image as the rows name it. A file is linked below `images`; one that is held by the row
    itself becomes a file there."""
    if isinstance(image, str) and ".." in Path(image).parts:
        raise BadRow("image outside the folder", f"`image` is {fields.shown(image)}")
    if isinstance(image, str) and (len(image) <= 64 or "." in image[-6:]):  # no base64 text
        image = image.removeprefix(f"{folder}/").lstrip("/")  # with which published rows begin
    found = fields.pictures(image, [folder, folder / "images"], folder)
    if len(found) != 1:
        raise BadRow("not one image", f"{len(found)} pictures; the pipeline takes one a question")
    home = images / name
    if isinstance(found[0], str):
        own = Path(found[0]).relative_to(folder)
        _link(Path(found[0]), home / own)
        return f"{name}/{own}"
    home.mkdir(parents=True, exist_ok=True)
    suffix = _SUFFIX.get(found[0][:2], "img")
    file = home / f"{hashlib.sha256(found[0]).hexdigest()[:32]}.{suffix}"
    if not file.exists():
        half = file.with_suffix(".half")
        half.write_bytes(found[0])
        half.replace(file)
    return f"{name}/{file.name}"


def _link(file: Path, target: Path) -> None:
    """Have `file` at `target` too, which may be there since the last time."""
    if target.exists():
        if not (target.samefile(file) or filecmp.cmp(target, file, shallow=False)):
            raise UserError(f"{target} is there and is not {file}; give another --out")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(target.name + ".half")
    half.unlink(missing_ok=True)
    link(file, half)
    half.replace(target)


def _captions(path: str | None) -> dict[str, str]:
    """Captions by image, from rows with `image` and `caption` or a conversation whose reply is
    one."""
    known = {}
    for _, _, raw in files.read([Path(path)]) if path else ():
        if isinstance(raw, Mapping) and isinstance(raw.get("image"), str):
            talk = isinstance(raw.get("conversations"), Sequence)
            caption = sources.said_in(raw, "gpt") if talk else raw.get("caption")
            if isinstance(caption, str) and caption.strip():
                known[raw["image"]] = caption.strip()
    return known


def _drop(id: str, source: str, why: BadRow) -> CuratedRow:
    return {"id": id, "source": source, "reason": why.reason, "found": str(why)}
