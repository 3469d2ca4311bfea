# SPDX-License-Identifier: Apache-2.0
"""Captions that a source has already, in a file of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jaxvl.curate import sources
from jaxvl.data import files
from jaxvl.data.example import BadRow
from jaxvl.data.tasks import fields
from jaxvl.errors import UserError


@dataclasses.dataclass
class Captions:
    """Captions by image, and the rows of which none can be read: (number, why)."""

    known: dict[str, str] = dataclasses.field(default_factory=dict)
    bad: list[tuple[int, BadRow]] = dataclasses.field(default_factory=list)
    asked: str = ""  # the first image that was asked for
    used: bool = False

    def of(self, image: Any) -> str | None:
        """The caption of an image as a row names it."""
        if not isinstance(image, str):
            return None
        self.asked = self.asked or image
        self.used = self.used or image in self.known
        return self.known.get(image)

    def check(self, name: str, path: str | None) -> None:
        """UserError where no row of the source `name` had its caption in this file."""
        if path is None or self.used:
            return
        why = f"; row {self.bad[0][0]}: {self.bad[0][1]}" if self.bad else ""
        if self.known:
            ours = f"{self.asked!r:.60}" if self.asked else "none by a path"
            why = f"; it names {next(iter(self.known))!r:.60} and the source {ours}"
        raise UserError(
            f"--captions {name}={path}: none of its {len(self.known):,} captions is of an image of "
            f"{name}, {len(self.bad):,} rows cannot be read{why}; expected rows with `image`, as "
            "the source's rows have it, and `caption` or a conversation whose reply is one"
        )


def read(path: str | None) -> Captions:
    """From rows with `image` and `caption` or a conversation whose reply is one."""
    found = Captions()
    for number, _, raw in files.read([Path(path)]) if path else ():
        try:
            if isinstance(raw, BadRow):
                raise raw
            image = fields.text(raw, "image")
            talk = isinstance(raw.get("conversations"), list)
            caption = sources.said_in(raw, "gpt") if talk else fields.text(raw, "caption")
            found.known[image] = caption.strip()
        except BadRow as why:
            found.bad.append((number, why))
    return found
