# SPDX-License-Identifier: Apache-2.0
"""Several prompts about the same images in a row: what they begin with once, and what follows.

T tokens that all of a row's q prompts begin with, F of a suffix at most, R rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxvl.data import prompts
from jaxvl.data.prompts import Encoded


def beginning(encoded: Encoded) -> bytes:
    """The tokens up to the last of an image: prompts about the same images can share a row where
    they are the same."""
    places = np.flatnonzero(encoded.slots >= 0)
    return encoded.tokens[: places[-1] + 1 if len(places) else 0].tobytes()


def shared_length(row: Sequence[Encoded]) -> int:
    """How many tokens all prompts of a row begin with, of those that leave each at least one."""
    shortest = min(len(one.tokens) for one in row) - 1
    same = [one.tokens[:shortest] == row[0].tokens[:shortest] for one in row]
    return int(np.append(np.logical_and.reduce(same), False).argmin())


def suffix_length(row: Sequence[Encoded]) -> int:
    """The tokens of a row's longest suffix."""
    return max(len(one.tokens) for one in row) - shared_length(row)


def collate(
    rows: Sequence[Sequence[Encoded]],
    prompt_ids: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    pad_id: int,
    prompt_bucket: int,
    patch_bucket: int,
    suffix_bucket: int,
) -> dict[str, Any]:
    """A prompt batch of rows with q prompts each, as `prompts.collate` makes one, its prompts cut
    to what they share, and "suffixes": the arrays of `jaxvl.models.inputs.Suffixes`, all int32.

    `completions` are the numbers of prompts' first completions, below 0 where none is wanted.
    """
    lengths = [shared_length(row) for row in rows]
    batch: dict[str, Any] = prompts.collate(
        [_cut(row[0], length) for row, length in zip(rows, lengths, strict=True)],
        [ids[0] for ids in prompt_ids],
        pad_id=pad_id,
        prompt_bucket=prompt_bucket,
        patch_bucket=patch_bucket,
    )
    batch["completion"] = np.array([max(numbers) for numbers in completions], np.int32)
    q = len(rows[0])
    suffixes = {
        "tokens": np.full((len(rows), q, suffix_bucket), pad_id, np.int32),
        "length": np.zeros((len(rows), q), np.int32),
        "positions": np.zeros((len(rows), q, suffix_bucket), np.int32),
        "next_position": np.array([[one.next_position for one in row] for row in rows], np.int32),
        "prompt_id": np.array(prompt_ids, np.int32),
        "completion": np.array(completions, np.int32),
    }
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        for j, one in enumerate(row):
            assert (one.slots[length:] < 0).all(), "an image is in what prompts share"
            own = len(one.tokens) - length
            suffixes["length"][i, j] = own
            suffixes["tokens"][i, j, :own] = one.tokens[length:]
            suffixes["positions"][i, j, :own] = one.positions_3T[0, length:]
    return batch | {"suffixes": suffixes}


def _cut(encoded: Encoded, length: int) -> Encoded:
    """Its first tokens, all images among them."""
    return dataclasses.replace(
        encoded,
        tokens=encoded.tokens[:length],
        positions_3T=encoded.positions_3T[:, :length],
        next_position=int(encoded.positions_3T[0, length]),
        slots=encoded.slots[:length],
    )
