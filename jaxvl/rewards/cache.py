# SPDX-License-Identifier: Apache-2.0
"""Answers that were paid for, by a key of what was asked, in an SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from jaxvl.data.locks import held
from jaxvl.errors import UserError


class Cache:
    """A file of answers; with no name it holds none and keeps none."""

    def __init__(self, path: str):
        self.path = path

    def lookup(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The answers that are there, by key."""
        if not self.path or not Path(self.path).is_file():
            return {}
        found = {}
        with self._opened() as file:
            for key in keys:
                row = file.execute("select reply from replies where key = ?", (key,)).fetchone()
                if row:
                    found[key] = json.loads(row[0])
        return found

    def store(self, replies: dict[str, dict[str, Any]]) -> None:
        """On the disk when it returns: a process that is killed then has not lost them."""
        if not self.path or not replies:
            return
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        with self._opened() as file, file:
            found = [(key, json.dumps(reply)) for key, reply in replies.items()]
            file.executemany("insert or replace into replies values (?, ?)", found)

    @contextmanager
    def missing(self, keys: Sequence[str]) -> Iterator[tuple[dict[str, dict[str, Any]], list[str]]]:
        """(answers that are there, keys without one) of keys in hexadecimal. The latter are held
        against other processes meanwhile: one that wants the same answer waits, and then finds it.
        A process that dies lets go of its own."""
        known = self.lookup(keys)
        wanted = [key for key in dict.fromkeys(keys) if key not in known]
        if not wanted or not self.path:
            yield known, wanted
            return
        with held(Path(f"{self.path}.lock"), (int(key[:12], 16) for key in wanted)):
            known |= self.lookup(wanted)
            yield known, [key for key in wanted if key not in known]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The file with its table; UserError where it is none."""
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as file:
                file.execute(
                    "create table if not exists replies (key text primary key, reply text)"
                )
                yield file
        except (sqlite3.Error, ValueError) as error:
            raise UserError(
                f"{self.path}: the cache of answers cannot be used ({error}); expected an SQLite "
                "file that an endpoint wrote; move it away, or name another"
            ) from error
