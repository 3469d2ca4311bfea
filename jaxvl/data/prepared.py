# SPDX-License-Identifier: Apache-2.0
"""A prepared set as a source."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from jaxvl.data.example import Dropped, Examples
from jaxvl.data.prepare import KEYS, read_manifest
from jaxvl.errors import UserError


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What `jaxvl data prepare` wrote into the folder `path`, read example by example.

    The rows that could not be used then count as rows of the set now.
    """

    path: str

    def load(self) -> PreparedExamples:
        manifest = read_manifest(self.path)
        for shard in manifest["shards"]:
            file = Path(self.path, Path(shard["file"]).name)  # of this folder, whatever it says
            size = file.stat().st_size if file.is_file() else 0
            if size != shard["bytes"]:
                raise UserError(
                    f"{file} has {size} bytes, expected {shard['bytes']} by the manifest; copy it "
                    "again, or prepare the set anew"
                )
        return PreparedExamples(Path(self.path), manifest)


class PreparedExamples(Examples):
    """The examples of a prepared set, with images as the bytes of their files."""

    def __init__(self, folder: Path, manifest: dict):
        from jaxvl.data.builder.examples import PreparedRecords

        self.folder = folder
        dropped = [
            Dropped(row["id"], reason, row["found"], found["setting"])
            for reason, found in manifest["dropped"].items()
            for row in found["rows"]
        ]
        super().__init__(PreparedRecords(folder), dropped)

    def keys(self) -> list[tuple[str, str]]:
        """(task, id) of every example."""
        return [tuple(key) for key in json.loads((self.folder / KEYS).read_text(encoding="utf-8"))]
