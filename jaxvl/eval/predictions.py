# SPDX-License-Identifier: Apache-2.0
"""The replies of a model to a benchmark: a folder of append-only JSON lines.

    settings.json            what the replies depend on, and what is good to know
    predictions*.jsonl       a line a reply, keyed by (id, sample); a file a process that writes

Files grow by whole batches. What a killed run left half written is taken off when its file is
opened again. Lines carry the digest of the settings they were made with; others do not count.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxvl.errors import UserError

SCHEMA = 1
SETTINGS = "settings.json"
Key = tuple[str, int]  # (id, sample)
Line = dict[str, Any]


def digest_of(settings: dict[str, Any]) -> str:
    """The digest of what replies depend on: `settings["decides"]`."""
    text = json.dumps(settings["decides"], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_folder(folder: Path, settings: dict[str, Any], force: bool = False) -> None:
    """Make `folder` one for replies with these settings.

    UserError where it holds replies with others, unless `force`: then those no longer count.
    """
    file = folder / SETTINGS
    if file.is_file():
        found = read_settings(folder)["decides"]
        differing = [
            f"{name} is {found.get(name)!r} there and {value!r} here"
            for name, value in settings["decides"].items()
            if found.get(name) != value
        ]
        if differing and not force:
            raise UserError(
                f"{folder} holds replies made with other settings: {'; '.join(differing)}. "
                "Choose another --out, or --force to begin again there"
            )
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / f"{SETTINGS}.{os.getpid()}"
    whole.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(whole, file)


def read_settings(folder: Path) -> dict[str, Any]:
    """settings.json of a folder of replies."""
    try:
        return json.loads((folder / SETTINGS).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not a folder of replies: {error}") from None


def folders(results: Path) -> list[Path]:
    """The folders of replies in a directory of results, one a benchmark."""
    found = sorted(file.parent for file in results.glob(f"*/{SETTINGS}"))
    if not found:
        raise UserError(f"{results} holds no replies; `jaxvl eval run --out {results}` makes some")
    return found


class Writer:
    """Appends replies to one file of a folder, which no one else may be writing. A context."""

    def __init__(self, folder: Path, name: str = "predictions.jsonl"):
        path = folder / name
        self.file = open(path, "a+b")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{path} is being written by another process") from None
        self.file.truncate(_whole(self.file))

    def append(self, lines: Sequence[Line]) -> None:
        """A batch, in one write that is on the disk when this returns."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self.file.write(text.encode(errors="surrogatepass"))
        self.file.flush()
        os.fsync(self.file.fileno())

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.file.close()


def read(folder: Path) -> tuple[dict[Key, Line], list[str]]:
    """The replies that count, by key, and notes on those that do not. Of two the last counts."""
    wanted = digest_of(read_settings(folder))
    found: dict[Key, Line] = {}
    twice = others = torn = 0
    for path in sorted(folder.glob("predictions*.jsonl")):
        data = path.read_bytes().split(b"\n")
        torn += bool(data[-1])
        for number, text in enumerate(data[:-1], start=1):
            try:
                line = json.loads(text)
                key = (line["id"], line["sample"])
            except (ValueError, TypeError, KeyError):
                raise UserError(f"{path}, line {number}: not a reply; take the line out") from None
            if line.get("settings") != wanted:
                others += 1
                continue
            twice += key in found
            found[key] = line
    notes = []
    if twice:
        notes.append(f"{twice} replies were there twice; the last of each counts")
    if others:
        notes.append(f"{others} replies were made with other settings and do not count")
    if torn:
        notes.append("a reply that was half written does not count")
    return found, notes


def _whole(file: Any) -> int:
    """The length of a file up to the end of its last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - (1 << 16))
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
