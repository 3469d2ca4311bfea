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
from jaxvl.eval.engines.replies import ReplyKey

SCHEMA = 1
SETTINGS = "settings.json"
Line = dict[str, Any]
# What scoring and reports read.
_SETTINGS = ("decides", "source", "dropped", "about")
_DECIDES = ("task", "protocol", "system_prompt", "model")
# Of these settings a digest is kept, which says nothing to anybody.
_DIGESTS = {
    "replies": "the file of replies is another one, or was changed since",
    "weights": "the model's weights are others",
    "dataset": "the benchmark's files are others",
}
_LINE = {
    **{name: str for name in ("id", "text", "row", "prompt_digest", "prompt", "finish_reason")},
    **{"sample": int, "tokens": int | None, "thinking": int | None},
}


def digest_of(settings: dict[str, Any]) -> str:
    """The digest of what replies depend on: `settings["decides"]`."""
    text = json.dumps(settings["decides"], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_folder(folder: Path, settings: dict[str, Any], force: bool = False) -> None:
    """Make `folder` one for replies with these settings.

    UserError where it holds replies made with others, unless `force`: then those no longer count.
    """
    file = folder / SETTINGS
    if file.is_file():
        found = read_settings(folder)["decides"]
        differing = [
            _DIGESTS.get(name) or f"{name} is {found.get(name)!r} there and {value!r} here"
            for name, value in settings["decides"].items()
            if found.get(name) != value
        ]
        if differing and not force and any(path.stat().st_size for path in _files(folder)):
            raise UserError(
                f"{folder} holds replies made with other settings: {'; '.join(differing)}. "
                "Choose another --out, or --force to begin again there"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error}; choose another --out") from None
    whole = folder / f"{SETTINGS}.{os.getpid()}"
    whole.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(whole, file)


def read_settings(folder: Path) -> dict[str, Any]:
    """settings.json of a folder of replies."""
    try:
        settings = json.loads((folder / SETTINGS).read_bytes())
        lacking = [name for name in _SETTINGS if name not in settings]
        lacking += [name for name in _DECIDES if name not in settings.get("decides", {})]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is not a folder of replies: {error}") from None
    if lacking:
        raise UserError(
            f"{folder / SETTINGS} has no {', '.join(lacking)}: it is not as `jaxvl eval run` wrote "
            "it. Put it back, or ask again with another --out"
        )
    return settings


def folders(results: Path) -> list[Path]:
    """The folders of replies in a directory of results, one a benchmark."""
    found = sorted(file.parent for file in results.glob(f"*/{SETTINGS}"))
    if not found and (results / SETTINGS).is_file():
        raise UserError(f"{results} is the folder of one benchmark; give {results.parent}")
    if not found:
        raise UserError(f"{results} holds no replies; `jaxvl eval run --out {results}` makes some")
    return found


def lines(path: Path, mend: str) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines that a command wrote. UserError names the line that is
    none, and says what to do: `mend`."""
    found = []
    for number, text in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            found += [json.loads(text)] if text else []
        except ValueError:
            raise UserError(f"{path}, line {number}: broken JSON; {mend}") from None
    return found


class Writer:
    """Appends replies to one file of a folder, which no one else may be writing. A context."""

    def __init__(self, folder: Path, name: str = "predictions.jsonl"):
        path = folder / name
        self.file = open(path, "a+b")  # noqa: SIM115 (held until the context ends)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
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


def read(folder: Path) -> tuple[dict[ReplyKey, Line], list[str]]:
    """The replies that count, by key, and notes on those that do not. Of two the last counts."""
    wanted = digest_of(read_settings(folder))
    found: dict[ReplyKey, Line] = {}
    twice = others = torn = 0
    for path in _files(folder):
        data = path.read_bytes().split(b"\n")
        torn += bool(data[-1])
        for number, text in enumerate(data[:-1], start=1):
            line = _reply(text)
            if isinstance(line, str):
                raise UserError(
                    f"{path}, line {number}: not a reply, {line}; take the line out, and the same "
                    "`jaxvl eval run` asks again"
                )
            key = line["id"], line["sample"]
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


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("predictions*.jsonl"))


def _reply(text: bytes) -> Line | str:
    """A line of predictions, or what is wrong with it."""
    try:
        line = json.loads(text)
    except ValueError:
        return "broken JSON"
    if not isinstance(line, dict):
        return "expected an object"
    wrong = [name for name, kind in _LINE.items() if not isinstance(line.get(name, ...), kind)]
    return f"{', '.join(wrong)} missing or of another kind" if wrong else line


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
