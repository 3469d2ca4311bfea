# SPDX-License-Identifier: Apache-2.0
"""Replies of a model on this machine's devices, in batches of few shapes.

A reply depends on its prompt, the seed and the sample's number. Not on its neighbours, on the order
or on where a stopped run goes on: a batch always has the same number of rows, lengths are padded to
sizes that the prompt alone decides, and draws are folded from the item's id. What is left is the
rounding of products of more or fewer rows.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvl.checkpoints.start import load, locate
from jaxvl.data import prompts as data_prompts
from jaxvl.data.example import BadRow, Dropped
from jaxvl.data.prompts import Encoded
from jaxvl.distributed.mesh import fetch, put_rows, row_shards
from jaxvl.eval.benchmark import Item
from jaxvl.eval.engines.replies import Reply, ReplySampling, fingerprint, number_of
from jaxvl.models.inputs import Prompt
from jaxvl.rl.batch import Rollout
from jaxvl.rl.completions import check_drawn, read_completions
from jaxvl.rl.sampler import cached_sampler
from jaxvl.vlm import VLM

READERS = 4  # threads that open images and tokenize
QUEUE = 4  # times as many rows as are decoded at a time are handed to the devices


@dataclasses.dataclass(frozen=True)
class _Row:
    """A prompt with some of its samples: `first`, `first` + 1, .."""

    item: Item
    first: int
    encoded: Encoded

    @property
    def shape(self) -> tuple[int, int]:
        step_up, encoded = data_prompts.step_up, self.encoded
        return step_up(len(encoded.tokens)), step_up(len(encoded.segments))


def open_model(
    path: str,
    dtype: str,
    mesh: Mesh,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> tuple[VLM, str]:
    """The model at `path`, as `jaxvl.load` has it, with what tells its weights from others at the
    same path."""
    place = locate(path)
    weights = place.run / "checkpoints" / str(place.step) if place.run else place.files
    vlm = load(path, dtype, mesh, min_pixels=min_pixels, max_pixels=max_pixels)
    return vlm, fingerprint(weights)


@dataclasses.dataclass
class _Batch:
    """Rows of one shape on the devices, and which of their completions have been read."""

    rows: list[_Row | None]  # None: it fills a shard up
    started: float
    read: np.ndarray  # bool [R, g]


class Local:
    """A model that replies to items, `batch` sequences at a time (or one prompt's samples).

    A reply that has ended makes room for the next prompt: `QUEUE` times as many are handed over
    together, and take turns in the sampler's slots.
    """

    def __init__(self, vlm: VLM, how: ReplySampling, batch: int = 32):
        self.vlm, self.how = vlm, how
        self.per_row = max(g for g in range(1, min(how.n, batch) + 1) if how.n % g == 0)
        self.shards = row_shards(vlm.mesh)
        at_a_time = data_prompts.round_up(max(1, batch // self.per_row), self.shards)
        self.rows, self.slots = QUEUE * at_a_time, at_a_time * self.per_row
        decoding = vlm.decoding(
            self.per_row, how.max_new_tokens, how.temperature, how.top_p, how.top_k, self.slots
        )
        self.sample = cached_sampler(vlm.graphdef, decoding, vlm.dtype)
        self.key = jax.random.key(how.seed)
        self.dropped: list[Dropped] = []  # items whose images or prompts cannot be used

    def replies(self, wanted: Sequence[tuple[Item, int]]) -> Iterator[list[Reply]]:
        """The replies to (item, sample) pairs as they end, those of a while together, while the
        devices go on.

        All samples of a row are made together: those that are not wanted are left out.
        """
        keys = {(item.id, sample) for item, sample in wanted}
        firsts = {(item.id, sample // self.per_row * self.per_row): item for item, sample in wanted}
        rows = [(item, first) for (_, first), item in firsts.items()]
        waiting: tuple[_Batch, Rollout] | None = None
        for rows_of_a_shape in self._batches(rows):
            for under_way in self._sampled(rows_of_a_shape):
                if waiting and (replies := self._ended(*waiting, keys)):
                    yield replies
                waiting = under_way
        if waiting and (replies := self._ended(*waiting, keys)):
            yield replies

    def _batches(self, rows: Sequence[tuple[Item, int]]) -> Iterator[list[_Row]]:
        """Rows of one shape, as many as are handed over together; fewer where others wait for
        long, and at the end."""
        by_shape: dict[tuple[int, int], list[_Row]] = {}
        waiting = 0
        for row in self._encoded(rows):
            same = by_shape.setdefault(row.shape, [])
            same.append(row)
            waiting += 1
            if len(same) == self.rows or waiting == 2 * self.rows:
                most = max(by_shape, key=lambda shape: len(by_shape[shape]))
                waiting -= len(by_shape[most])
                yield by_shape.pop(most)
        yield from (by_shape[shape] for shape in sorted(by_shape))

    def _encoded(self, rows: Iterable[tuple[Item, int]]) -> Iterator[_Row]:
        """The rows in order, a few batches ahead of the device, images opened in threads."""
        processor = self.vlm.processor.as_bytes()

        def encode(item: Item, first: int) -> _Row | Dropped:
            try:
                return _Row(item, first, processor.encode(item.prompt, item.images))
            except BadRow as why:
                return Dropped.of(item.id, why)

        with ThreadPoolExecutor(READERS) as threads:
            ahead: deque[Future] = deque()
            for item, first in rows:
                ahead.append(threads.submit(encode, item, first))
                if len(ahead) > self.rows:
                    yield from self._usable(ahead.popleft().result())
            for future in ahead:
                yield from self._usable(future.result())

    def _usable(self, row: _Row | Dropped) -> list[_Row]:
        if isinstance(row, Dropped):
            self.dropped.append(row)
            return []
        return [row]

    def _sampled(self, rows: list[_Row]) -> Iterator[tuple[_Batch, Rollout]]:
        """What there is of the replies to rows of one shape, again and again until all have ended:
        copies that the devices make when they come to it."""
        lying = self._spread(rows)
        read = np.array([[row is None] * self.per_row for row in lying])
        batch, full = _Batch(lying, time.monotonic(), read), [row or rows[0] for row in lying]
        tokens, patches = rows[0].shape
        arrays = data_prompts.collate(
            [row.encoded for row in full],
            [number_of(row.item.id) for row in full],
            pad_id=self.vlm.processor.pad_id,
            prompt_bucket=tokens,
            patch_bucket=patches,
            completions_per_row=self.per_row,
        )
        arrays["completion"] = np.array([row.first if row else -1 for row in lying], np.int32)
        prompt = put_rows(Prompt.from_arrays(arrays), self.vlm.mesh, whole=True)
        states = self.sample.states(self.vlm.params, prompt, self.key)
        while True:
            with jax.set_mesh(self.vlm.mesh):  # not around the yield
                state = next(states, None)
                if state is None:
                    return
                rollout = self.sample.read(prompt, state)
            yield batch, rollout

    def _spread(self, rows: list[_Row]) -> list[_Row | None]:
        """The rows as they lie on the devices: each shard has as many as the others, or one more,
        and behind them what fills it up."""
        full = [*rows, *[None] * (self.rows - len(rows))]
        return [row for shard in range(self.shards) for row in full[shard :: self.shards]]

    def _ended(self, batch: _Batch, rollout: Rollout, keys: set[tuple[str, int]]) -> list[Reply]:
        """The replies that have ended since the last time, those in `keys`."""
        rollout = jax.tree.map(fetch, rollout)
        check_drawn(rollout, [row.item.id if row else "" for row in batch.rows])
        ended = rollout.finished | (rollout.mask.sum(-1) == self.how.max_new_tokens)
        new = ended & ~batch.read
        batch.read |= new
        places = np.argwhere(new)
        got = read_completions(jax.tree.map(lambda x: x[new][:, None], rollout), self.vlm.processor)
        seconds = time.monotonic() - batch.started
        replies = []
        for n, (place, i) in enumerate(places.tolist()):
            row = batch.rows[place]
            if row and (row.item.id, row.first + i) in keys:
                text, ids, stopped = got.texts[n], got.ids[n], bool(got.finished_N[n])
                replies.append(self._reply(row, row.first + i, text, ids, stopped, seconds))
        return replies

    def _reply(
        self, row: _Row, sample: int, text: str, ids: list[int], ended: bool, seconds: float
    ) -> Reply:
        processor, encoded = self.vlm.processor, row.encoded
        thought = text[: text.rfind("</think>") + len("</think>")] if "</think>" in text else ""
        return Reply(
            item=row.item,
            sample=sample,
            text=text,
            raw=processor.tokenizer.decode(ids, skip_special_tokens=False),
            finish_reason="stop" if ended else "length",
            tokens=len(ids),
            thinking=len(processor.tokenize(thought)) if thought else 0,
            prompt=encoded.text,
            image_sizes=encoded.image_sizes,
            processed_sizes=encoded.processed_sizes,
            image_tokens=int((encoded.slots >= 0).sum()),
            seconds=round(seconds, 3),
        )
