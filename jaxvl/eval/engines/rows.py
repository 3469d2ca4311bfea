# SPDX-License-Identifier: Apache-2.0
"""Rows of an evaluation on this machine: a prompt, or several about the same pictures."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxvl.data import prompts, suffixes
from jaxvl.data.prompts import Encoded
from jaxvl.eval.benchmark import Item
from jaxvl.eval.engines.replies import number_of

MOST = 8  # prompts of a row
LEAST = 32  # tokens that a suffix has room for
NOBODYS = -1  # the first completion of what is not wanted


@dataclasses.dataclass(frozen=True)
class Asked:
    """A prompt with some of its samples: `first`, `first` + 1, ..; NOBODYS where none is wanted."""

    item: Item
    first: int
    encoded: Encoded


@dataclasses.dataclass(frozen=True)
class AskedRow:
    """Prompts that begin alike, a power of two of them, pictures and all, which the devices read
    once; or one alone. The last may stand several times, for nobody, to fill the row up."""

    asked: tuple[Asked, ...]

    @property
    def ids(self) -> str:
        """Those of its items."""
        return ", ".join(dict.fromkeys(one.item.id for one in self.asked))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """How many prompts, and the sizes of arrays: tokens that they share, patches, tokens of a
        suffix."""
        encoded = [one.encoded for one in self.asked]
        patches = prompts.step_up(len(encoded[0].segments))
        if len(encoded) == 1:
            return 1, prompts.step_up(len(encoded[0].tokens)), patches, 0
        shared = prompts.step_up(suffixes.shared_length(encoded))
        own = prompts.step_up(suffixes.suffix_length(encoded), LEAST)
        return len(encoded), shared, patches, own


def rows_of(asked: Sequence[Asked], most: int) -> Iterator[AskedRow]:
    """Rows of prompts about the same pictures, at most `most` in each, a power of two, and no more
    than have as many tokens of their own as they share: a token looks at all that a row holds.
    Rows that nobody wants are left out."""
    alike: dict[Any, list[Asked]] = {}
    for number, one in enumerate(asked):
        beginning = suffixes.beginning(one.encoded)
        ends_so = len(beginning) == one.encoded.tokens.nbytes  # with a picture: nothing is its own
        alike.setdefault(number if ends_so else beginning, []).append(one)
    for same in alike.values():
        encoded = [one.encoded for one in same]
        own = prompts.step_up(suffixes.suffix_length(encoded), LEAST)
        fit = min(most, max(1, suffixes.shared_length(encoded) // own))
        size = 1 << (fit.bit_length() - 1)
        for start in range(0, len(same), size):
            part = [_with_pictures(one, encoded[0]) for one in same[start : start + size]]
            spare = dataclasses.replace(part[-1], first=NOBODYS)
            part += [spare] * ((1 << (len(part) - 1).bit_length()) - len(part))
            if any(one.first != NOBODYS for one in part):
                yield AskedRow(tuple(part))


def _with_pictures(one: Asked, other: Encoded) -> Asked:
    """It, with the pictures of another prompt about the same, so that memory holds them once."""
    names = ("patches_PE", "coords_P2", "segments", "windows")
    same = {name: getattr(other, name) for name in names}
    return dataclasses.replace(one, encoded=dataclasses.replace(one.encoded, **same))


def same_pictures(items: Iterable[Item]) -> list[list[Item]]:
    """The items, those about the same pictures together, where the first of them stands. What has
    no picture stands alone."""
    groups: dict[Any, list[Item]] = {}
    for number, item in enumerate(items):
        key = tuple(_known_by(image) for image in item.images) or number
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def _known_by(image: Any) -> Any:
    """What a picture is told from others by: a file by its path, bytes by what they hold; of what
    is open already only the same object is the same, since to look at it might load it."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    return os.fspath(image) if isinstance(image, str | os.PathLike) else id(image)


def collate(rows: Sequence[AskedRow | None], pad_id: int, per_prompt: int) -> dict[str, Any]:
    """The batch of rows of one shape, with `per_prompt` completions of each prompt; None is
    nobody's, and fills a shard up."""
    filler = next(row for row in rows if row is not None)
    q, tokens, patches, own = filler.shape
    asked = [(row or filler).asked for row in rows]
    encoded = [[one.encoded for one in row] for row in asked]
    ids = [[number_of(one.item.id) for one in row] for row in asked]
    firsts = [[one.first if row else NOBODYS for one in (row or filler).asked] for row in rows]
    sizes = {"pad_id": pad_id, "prompt_bucket": tokens, "patch_bucket": patches}
    if q > 1:
        return suffixes.collate(encoded, ids, firsts, suffix_bucket=own, **sizes)
    alone, numbers = [one for (one,) in encoded], [id for (id,) in ids]
    batch: dict[str, Any] = prompts.collate(alone, numbers, completions_per_row=per_prompt, **sizes)
    batch["completion"] = np.array([first for (first,) in firsts], np.int32)
    return batch
