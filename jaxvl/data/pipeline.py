# SPDX-License-Identifier: Apache-2.0
"""The endless stream of prompts: shuffled anew each epoch, split by process, read ahead in threads.

The stream is one sequence of positions 0, 1, 2, .. over all processes: position i is example
order(epoch)[i mod n] of epoch i // n, whatever the number of processes and threads. Step s of a run
with P processes of B prompts takes positions s*P*B .. (s+1)*P*B - 1, and `share` says which of them
a process gets. In a mixture every part has epochs of its own, and positions are dealt out to the
parts in turn, as often as their weights say. What stands in for a row that cannot be used is drawn
from the same part by (seed, position) alone, so that no other position is touched by it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from einops import rearrange

from jaxvl.data.example import Example
from jaxvl.data.mixture import MixedExamples
from jaxvl.errors import UserError


class Batches(Protocol):
    """An iterator over lists of made items, whose exact position is a small JSON-able dict."""

    def __iter__(self) -> Batches: ...
    def __next__(self) -> list[Any]: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


def batches(
    examples: Sequence[Example],
    make: Callable[[int, Iterator[Example]], Any],
    *,
    prompts: int,
    seed: int,
    shuffle: bool,
    workers: int,
    process_index: int = 0,
    process_count: int = 1,
    blocks: int = 1,
) -> Batches:
    """Lists of `prompts` items `make(position, candidates)` for this process, without end.

    Which they are of a step's prompts says `share`.

    `position` is the place in the whole stream: it differs between epochs and is the same for any
    number of processes, so it serves as the prompt id of sampling keys. `candidates` gives its
    example, and then, without end, others to take where that one cannot be used. `make` and the
    access to `examples` run in `workers` threads, up to two lists ahead (0: in the caller's
    thread); what they raise is raised by `next`. The state of an iterator is a position of the
    whole stream: it fits any number of processes.
    """
    if not len(examples):
        raise UserError("the source has no examples")
    parts = examples.parts if isinstance(examples, MixedExamples) else (examples,)

    def draw(place: tuple[int, tuple[int, int]]) -> Any:
        position, (part, row) = place
        return make(position, _candidates(parts[part], row, [seed, position]))

    order = _order(examples, parts, seed, shuffle)
    mine = share(prompts * process_count, process_index, process_count, blocks)
    return _Iterator(order, draw, mine, prompts * process_count, workers)


def first(
    examples: Sequence[Example], seed: int, shuffle: bool, count: int
) -> list[tuple[Sequence[Example], int]]:
    """Where the examples of positions 0 to `count` - 1 are: sequences and rows of them."""
    parts = examples.parts if isinstance(examples, MixedExamples) else (examples,)
    order = _order(examples, parts, seed, shuffle)
    return [(parts[part], row) for part, row in (order[i] for i in range(count))]


def share(prompts: int, index: int, count: int, blocks: int = 1) -> np.ndarray:
    """Which of a step's `prompts` prompts process `index` of `count` gets, in order.

    They are cut into `blocks` (one a mini-batch) and every block among the processes. So the
    prompts of a block are the same for any number of processes whose prompts `blocks` divides;
    where it does not divide them, fewer blocks are made.
    """
    blocks = math.gcd(blocks, prompts // count)
    shares = rearrange(np.arange(prompts), "(b n p) -> b n p", b=blocks, n=count)
    return rearrange(shares[:, index], "b p -> (b p)")


def _candidates(part: Sequence[Example], row: int, seed: list[int]) -> Iterator[Example]:
    rng = np.random.default_rng(seed)
    while True:
        yield part[row]
        row = int(rng.integers(len(part)))


def _order(examples: Sequence[Example], parts: Sequence[Sequence], seed: int, shuffle: bool) -> Any:
    """grain's endless map from positions to (part, row)."""
    import grain

    streams = []
    for number, part in enumerate(parts):
        stream = grain.MapDataset.range(len(part)).seed((seed + number) % 2**32)
        stream = (stream.shuffle() if shuffle else stream).repeat()
        streams.append(stream.map(lambda row, number=number: (number, row)))
    if isinstance(examples, MixedExamples) and len(streams) > 1:
        return grain.MapDataset.mix(streams, examples.weights)
    return streams[0]


class _Places(Sequence):
    """(position, place) of this process's prompts, without end, from position `start`."""

    def __init__(self, order: Any, mine: np.ndarray, prompts: int, start: int):
        self.order, self.mine, self.prompts, self.start = order, mine, prompts, start

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, i: int) -> tuple[int, Any]:  # type: ignore[override]  # no slices
        step, at = divmod(i, len(self.mine))
        position = self.start + step * self.prompts + int(self.mine[at])
        return position, self.order[position]


class _Iterator:
    """grain's iterator over the positions `mine` of every step, counted in the whole stream's."""

    def __init__(self, order: Any, draw: Callable, mine: np.ndarray, prompts: int, workers: int):
        self.order, self.draw = order, draw
        self.mine, self.prompts, self.workers = mine, prompts, workers
        self.set_state({"position": 0})

    def __iter__(self) -> _Iterator:
        return self

    def __next__(self) -> list[Any]:
        items = next(self.ahead)
        self.position += self.prompts
        return items

    def get_state(self) -> dict[str, Any]:
        return {"position": self.position}

    def set_state(self, state: dict[str, Any]) -> None:
        import grain

        self.position, own = state["position"], len(self.mine)
        places = _Places(self.order, self.mine, self.prompts, self.position)
        ahead = grain.ReadOptions(
            num_threads=self.workers,
            prefetch_buffer_size=2 * own if self.workers else 0,
        )
        mine = grain.MapDataset.source(places).map(self.draw)
        self.ahead = iter(mine.to_iter_dataset(ahead).batch(own, batch_fn=list))
