# SPDX-License-Identifier: Apache-2.0
"""What is asked of a model and what it replies, whoever it is."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

from jaxvl.data.prompts import Size
from jaxvl.errors import UserError
from jaxvl.eval.benchmark import Item

ReplyKey = tuple[str, int]  # (id, sample)


@dataclasses.dataclass(frozen=True)
class ReplySampling:
    """How replies are drawn; temperature 0 is greedy, and then there is but one."""

    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    max_new_tokens: int = 1024

    def __post_init__(self):
        if self.n > 1 and self.temperature == 0:
            n = self.n
            raise UserError(f"--n {n} at temperature 0 is one reply {n} times; give --temperature")


@dataclasses.dataclass(frozen=True)
class Reply:
    """One sampled reply to an item. `tokens` and `thinking` count them, None where unknown."""

    item: Item
    sample: int
    text: str  # without special tokens
    raw: str  # with them
    finish_reason: str  # "stop" or "length", or why else an endpoint has ended it
    tokens: int | None
    thinking: int | None  # up to the end of </think>
    prompt: str  # as the model read it
    image_sizes: tuple[Size, ...] = ()  # as the files have them
    processed_sizes: tuple[Size, ...] = ()  # as the model sees them
    image_tokens: int | None = None
    seconds: float = 0.0  # of its batch


def pairs(items: Sequence[Item], missing: Collection[ReplyKey]) -> list[tuple[Item, int]]:
    """Those of the replies to `items` that are missing, the samples of an item in order."""
    samples: dict[str, list[int]] = {}
    for id, sample in sorted(missing):
        samples.setdefault(id, []).append(sample)
    return [(item, sample) for item in items for sample in samples.get(item.id, [])]


def number_of(id: str) -> int:
    """What an item's draws are folded from, whatever else is asked: 31 bits of its id's digest."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:4]) >> 1


def fingerprint(folder: Path, blocks: int = 16, size: int = 1 << 16) -> str:
    """Tells checkpoints of one path apart: names and sizes of the files and parts of what they
    hold. A checkpoint of gigabytes takes milliseconds."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        length = path.stat().st_size
        digest.update(f"{path.relative_to(folder)} {length}\n".encode())
        with open(path, "rb") as file:
            for place in range(blocks):
                file.seek(max(0, length - size) * place // max(1, blocks - 1))
                digest.update(file.read(size))
    return digest.hexdigest()[:32]


def shard(items: Sequence[Item], index: int, count: int) -> list[Item]:
    """Every `count`-th item from number `index` (from 1) on."""
    return list(items)[index - 1 :: count]
