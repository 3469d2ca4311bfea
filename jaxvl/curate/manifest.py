# SPDX-License-Identifier: Apache-2.0
"""What a step leaves beside its rows: a manifest and the rows it dropped, all or nothing.

A step that finds its manifest there, made of the same input with the same settings, has nothing to
do. Neither file says when or how often something was asked: the same input gives the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxvl.curate import rows
from jaxvl.data import files
from jaxvl.errors import UserError

Manifest = dict[str, Any]
Output = tuple[Path, Iterable[rows.CuratedRow]]


@dataclasses.dataclass(frozen=True)
class ManifestPlace:
    """Where a step writes: `OUT.jsonl`, and beside it what it says of it."""

    out: Path

    def __post_init__(self):
        if self.out.suffix != ".jsonl":
            raise UserError(f"--out {self.out}: rows are JSON lines; expected a name with .jsonl")
        if self.out.is_dir():
            raise UserError(f"--out {self.out} is a folder; expected the name of a file to write")

    def beside(self, suffix: str) -> Path:
        """OUT.suffix."""
        return self.out.with_name(f"{self.out.stem}.{suffix}")

    @property
    def manifest(self) -> Path:
        """OUT.manifest.json."""
        return self.beside("manifest.json")

    @property
    def dropped(self) -> Path:
        """OUT.dropped.jsonl."""
        return self.beside("dropped.jsonl")


def identity(step: str, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> Manifest:
    """What a step's output depends on; with it a manifest begins."""
    read = {}
    for name, path in inputs.items():
        if not path.is_file():
            raise UserError(f"there is no {path}; expected the rows that `{step}` starts from")
        read[name] = {"file": path.name, "sha256": files.sha256(path)}
    # As JSON reads it back: tuples are lists there.
    return json.loads(json.dumps({"step": step, "settings": dict(settings), "in": read}))


def finished(place: ManifestPlace, identity: Manifest) -> Manifest | None:
    """The manifest of this very step where it has been done and its files are as it left them."""
    try:
        found = json.loads(place.manifest.read_text())
        same = all(found[name] == value for name, value in identity.items())
        whole = all(
            files.sha256(place.out.parent / out["file"]) == out["sha256"]
            for out in found["out"].values()
        )
        with open(place.dropped, "rb") as file:
            whole = whole and sum(1 for _ in file) == sum(found["dropped"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if same and whole else None


def finish(
    place: ManifestPlace,
    identity: Manifest,
    rows_in: int,
    outputs: Mapping[str, Output],
    dropped: Iterable[rows.CuratedRow],
    copies: Mapping[str, Output] | None = None,
    **more: Any,
) -> Manifest:
    """Writes rows and drops, and last of all the manifest.

    Each of the `rows_in` is in one of `outputs` or dropped, once; `copies` hold some of them again.
    """
    written: dict[str, Any] = {}
    sources: dict[str, Counter] = {}
    reasons: Counter = Counter()

    def counted(name: str, found: Iterable[rows.CuratedRow], size: Counter) -> Iterator[str]:
        for row in found:
            size["rows"] += 1
            sources.setdefault(row["source"], Counter())[name] += 1
            if name == "dropped":
                reasons[row["reason"]] += 1
            yield rows.line(row)

    for name, (path, found) in {**outputs, **(copies or {})}.items():
        size: Counter = Counter()
        rows.write(path, counted(name, found, size))
        written[name] = {"file": path.name, "rows": size["rows"], "sha256": files.sha256(path)}
    rows.write(place.dropped, counted("dropped", dropped, Counter()))
    accounted = sum(written[name]["rows"] for name in outputs) + reasons.total()
    assert accounted == rows_in, f"{rows_in} rows came and {accounted} are accounted for"
    manifest = {
        **identity,
        "rows_in": rows_in,
        "out": written,
        "dropped": dict(sorted(reasons.items())),
        "sources": {name: dict(sorted(sources[name].items())) for name in sorted(sources)},
        **more,
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    rows.write(place.manifest, [text])
    return manifest


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds a folder for this process; UserError where another one works in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be made or read ({error.strerror}); choose another --out"
        ) from error
    try:
        if not os.access(folder, os.W_OK):
            raise UserError(f"the folder {folder} cannot be written; choose another --out")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another `jaxvl curate` works in this folder") from error
        yield
    finally:
        os.close(held)
