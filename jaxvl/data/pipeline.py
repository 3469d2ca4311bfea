# SPDX-License-Identifier: Apache-2.0
"""The endless stream of prompts: shuffled anew each epoch, split by process, read ahead in threads.

The stream is one sequence of positions 0, 1, 2, .. over all processes: position i is example
order(epoch)[i mod n] of epoch i // n, whatever the number of processes and threads. Step s of a run
with P processes of B prompts takes positions s*P*B .. (s+1)*P*B - 1, process p those that are p
modulo P.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from jaxvl.data.example import Example
from jaxvl.errors import UserError


class Batches(Protocol):
    """An iterator over lists of made items, whose exact position is a small JSON-able dict."""

    def __iter__(self) -> Batches: ...
    def __next__(self) -> list[Any]: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


def batches(
    examples: Sequence[Example],
    make: Callable[[int, Example], Any],
    *,
    prompts: int,
    seed: int,
    shuffle: bool,
    workers: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Lists of `prompts` items `make(position, example)` for this process, without end.

    `position` is the place in the whole stream: it differs between epochs and is the same for any
    number of processes, so it serves as the prompt id of sampling keys. `make` and the access to
    `examples` run in `workers` threads, up to two lists ahead (0: in the caller's thread). What
    `make` raises is raised by `next`.
    """
    import grain

    if not len(examples):
        raise UserError("the source has no examples; look at what its load() warned about")
    stream = grain.MapDataset.range(len(examples)).seed(seed)
    if shuffle:
        stream = stream.shuffle()
    stream = stream.repeat().map_with_index(lambda position, row: (position, row))
    stream = stream[process_index::process_count]
    stream = stream.map(lambda place: make(place[0], examples[place[1]]))
    ahead = grain.ReadOptions(
        num_threads=workers, prefetch_buffer_size=2 * prompts if workers else 0
    )
    return iter(stream.to_iter_dataset(ahead).batch(prompts, batch_fn=list))
