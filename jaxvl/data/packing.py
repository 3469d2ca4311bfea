# SPDX-License-Identifier: Apache-2.0
"""Whole rows for fine-tuning: prompts and targets as one text, several of them in a row.

An example's tokens see their own example alone and have their own positions, so that nothing that
is computed depends on what shares its row. R rows, S tokens of a row, P patches, C tokens that
count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxvl.data.prompts import Encoded, Processor, repeated_pixels
from jaxvl.errors import UserError

HEADER = 16  # tokens that may open an assistant's turn
LossOn = Literal["answer", "turn", "all"]


class Room(NamedTuple):
    """What a row holds at most, or an example takes of it."""

    tokens: int  # S
    patches: int  # P
    counted: int  # C


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A prompt with its target behind it, and which of their tokens count in the loss."""

    prompt: Encoded
    target: tuple[int, ...]
    counts_S: np.ndarray  # bool
    position: int  # the example's number in the stream

    @property
    def tokens_S(self) -> np.ndarray:
        """The token ids, int32."""
        return np.concatenate([self.prompt.tokens, np.asarray(self.target, np.int32)])

    @property
    def size(self) -> Room:
        """What the text takes of a row."""
        return Room(len(self.counts_S), len(self.prompt.segments), int(self.counts_S.sum()))


def text(
    prompt: Encoded,
    target: Sequence[int],
    position: int,
    loss: LossOn,
    header: int,
    uncounted: Collection[int],
) -> Text:
    """An example as a row holds it.

    What counts: the target ("answer"); the `header` tokens that open the assistant's turn too
    ("turn"); or every token ("all") but `uncounted`, see `placeholders`. Nothing predicts the first
    token of an example.
    """
    joined = np.concatenate([prompt.tokens, np.asarray(target, np.int32)])
    count = len(prompt.tokens)
    if loss == "all":
        counts_S = ~np.isin(joined, list(uncounted))
    else:
        opens = count - (header if loss == "turn" else 0)
        counts_S = np.arange(len(joined)) >= opens
    counts_S[0] = False
    return Text(prompt, tuple(target), counts_S, position)


def placeholders(processor: Processor) -> set[int]:
    """The tokens that VisualThinker's code leaves out of the loss on all text: those that stand for
    images and around them, and padding's own."""
    known = processor.tokenizer.added_tokens_encoder
    around = {known.get(name) for name in ("<|vision_start|>", "<|vision_end|>")} - {None}
    return around | {processor.image_token_id, processor.pad_id}


def room(loss: LossOn, prompt_tokens: int, patches: int, target_length: int) -> Room:
    """Of a row whose examples have prompts and targets of at most so many tokens."""
    S = prompt_tokens + target_length
    counted = {"answer": target_length, "turn": target_length + HEADER, "all": S}[loss]
    return Room(S, patches, min(counted, S))


def pack(sizes: Sequence[Room], room: Room) -> list[list[int]]:
    """The numbers of the examples of each row, the largest examples first: each goes into the first
    row that has room for it. UserError for one that no row holds."""
    rows: list[list[int]] = []
    left: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i].tokens, i)):
        if any(size > limit for size, limit in zip(sizes[i], room, strict=True)):
            raise UserError(f"an example takes {sizes[i]}, a row holds {room}")
        fits = (
            r
            for r, free in enumerate(left)
            if all(s <= f for s, f in zip(sizes[i], free, strict=True))
        )
        row = next(fits, len(rows))
        if row == len(rows):
            rows.append([])
            left.append(list(room))
        rows[row].append(i)
        left[row] = [free - size for free, size in zip(left[row], sizes[i], strict=True)]
    return rows


def lay_rows(rows: Sequence[Sequence[Text]], room: Room, pad_id: int) -> dict[str, np.ndarray]:
    """The arrays of rows, of which some may be empty: those of `collate`, where each whole row is a
    prompt, and

        examples [R, S]  1, 2, .. the example of a token, 0 on padding           int32
        at [R, C]        where in its row the token stands that predicts this    int32
        counted [R, C]   a token that counts                                     int32
        mask [R, C]      whether there is one                                    bool
    """
    R, (S, P, C) = len(rows), room
    first = next(t for row in rows for t in row)
    patches_PE = first.prompt.patches_PE
    batch = {
        "tokens": np.full((R, S), pad_id, np.int32),
        "length": np.zeros(R, np.int32),
        "positions": np.zeros((R, 3, S), np.int32),
        "next_position": np.zeros(R, np.int32),
        "slots": np.full((R, S), -1, np.int32),
        "prompt_id": np.array(
            [row[0].position if row else first.position for row in rows], np.int32
        ),
        "completion": np.zeros(R, np.int32),
        "patches": np.zeros((R, P, patches_PE.shape[1]), patches_PE.dtype),
        "coords": np.zeros((R, P, 2), np.int32),
        "segments": np.zeros((R, P), np.int32),
        "windows": np.zeros((R, P), np.int32),
        "examples": np.zeros((R, S), np.int32),
        "at": np.zeros((R, C), np.int32),
        "counted": np.full((R, C), pad_id, np.int32),
        "mask": np.zeros((R, C), bool),
    }
    for r, row in enumerate(rows):
        _lay_row({name: x[r] for name, x in batch.items()}, row)
        batch["length"][r] = (batch["examples"][r] > 0).sum()
    return batch | repeated_pixels(first.prompt, R)


def _lay_row(into: dict[str, np.ndarray], row: Sequence[Text]) -> None:
    """Examples one after the other into the views of one row."""
    s = p = c = images = windows = 0
    for number, example in enumerate(row, 1):
        prompt, size = example.prompt, example.size
        tokens, patches = slice(s, s + size.tokens), slice(p, p + size.patches)
        into["tokens"][tokens] = example.tokens_S
        into["examples"][tokens] = number
        asked = len(prompt.tokens)
        into["positions"][:, s : s + asked] = prompt.positions_3T
        into["positions"][:, s + asked : tokens.stop] = prompt.next_position + np.arange(
            len(example.target)
        )
        merged = size.patches // max((prompt.slots >= 0).sum(), 1)  # patches of an image token
        shift = p // merged if merged else 0
        into["slots"][s : s + asked] = np.where(prompt.slots >= 0, prompt.slots + shift, -1)
        into["patches"][patches] = prompt.patches_PE
        into["coords"][patches] = prompt.coords_P2
        into["segments"][patches] = prompt.segments + images
        into["windows"][patches] = prompt.windows + windows
        counted = slice(c, c + size.counted)
        places = np.flatnonzero(example.counts_S)
        into["at"][counted] = s + places - 1
        into["counted"][counted] = example.tokens_S[places]
        into["mask"][counted] = True
        images += int(prompt.segments.max(initial=0))
        windows += int(prompt.windows.max(initial=0))
        s, p, c = tokens.stop, patches.stop, counted.stop
