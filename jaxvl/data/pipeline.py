# SPDX-License-Identifier: Apache-2.0
"""The endless stream of prompts: shuffled anew each epoch, split by process, read ahead in threads.

The stream is one sequence of positions 0, 1, 2, .. over all processes: position i is example
order(epoch)[i mod n] of epoch i // n, whatever the number of processes and threads. Step s of a run
with P processes of B prompts takes positions s*P*B .. (s+1)*P*B - 1, process p those that are p
modulo P. In a mixture every part has epochs of its own, and positions are dealt out to the parts in
turn, as often as their weights say. What stands in for a row that cannot be used is drawn from the
same part by (seed, position) alone, so that no other position is touched by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from jaxvl.data.example import Example
from jaxvl.data.mixture import Mixed
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
) -> Batches:
    """Lists of `prompts` items `make(position, candidates)` for this process, without end.

    `position` is the place in the whole stream: it differs between epochs and is the same for any
    number of processes, so it serves as the prompt id of sampling keys. `candidates` gives its
    example, and then, without end, others to take where that one cannot be used. `make` and the
    access to `examples` run in `workers` threads, up to two lists ahead (0: in the caller's
    thread); what they raise is raised by `next`. The state of an iterator is a position of the
    whole stream: it fits any number of processes.
    """
    if not len(examples):
        raise UserError("the source has no examples; look at what its load() warned about")
    parts = examples.parts if isinstance(examples, Mixed) else (examples,)

    def draw(place: tuple[int, tuple[int, int]]) -> Any:
        position, (part, row) = place
        return make(position, _candidates(parts[part], row, [seed, position]))

    order = _order(examples, parts, seed, shuffle)
    return _Iterator(order, draw, prompts, workers, process_index, process_count)


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
    if len(streams) == 1:
        return streams[0]
    return grain.MapDataset.mix(streams, examples.weights)


class _Iterator:
    """grain's iterator over this process's positions, counted in positions of the whole stream."""

    def __init__(
        self, order: Any, draw: Callable, prompts: int, workers: int, index: int, count: int
    ):
        self.order = order.map_with_index(lambda position, place: (position, place))
        self.draw, self.prompts, self.workers = draw, prompts, workers
        self.index, self.count = index, count
        self.set_state({"position": 0})

    def __iter__(self) -> _Iterator:
        return self

    def __next__(self) -> list[Any]:
        items = next(self.ahead)
        self.position += self.prompts * self.count
        return items

    def get_state(self) -> dict[str, Any]:
        return {"position": self.position}

    def set_state(self, state: dict[str, Any]) -> None:
        import grain

        self.position = state["position"]
        mine = self.order[self.position + self.index :: self.count].map(self.draw)
        ahead = grain.ReadOptions(
            num_threads=self.workers,
            prefetch_buffer_size=2 * self.prompts if self.workers else 0,
        )
        self.ahead = iter(mine.to_iter_dataset(ahead).batch(self.prompts, batch_fn=list))
