# SPDX-License-Identifier: Apache-2.0
"""Replies of a model on this machine's devices, in batches of few shapes.

A reply depends on its prompt, the seed and the sample's number. Not on its neighbours, on the order
or on where a stopped run goes on: a batch always has the same number of rows, lengths are padded to
sizes that the prompt alone decides, and draws are folded from the item's id.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvl.checkpoints.start import load, locate
from jaxvl.data import prompts as data_prompts
from jaxvl.data.example import BadRow, Dropped
from jaxvl.data.prompts import Encoded
from jaxvl.distributed.mesh import fetch, put_rows
from jaxvl.eval.benchmark import Item
from jaxvl.eval.engines.replies import Reply, ReplySampling, fingerprint, number_of
from jaxvl.models.inputs import Prompt
from jaxvl.rl.batch import Rollout
from jaxvl.rl.completions import check_drawn, read_completions
from jaxvl.rl.sampler import Sampler
from jaxvl.vlm import VLM

READERS = 4  # threads that open images and tokenize


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


class Local:
    """A model that replies to items, `batch` sequences at a time (or one prompt's samples)."""

    def __init__(self, vlm: VLM, how: ReplySampling, batch: int = 32):
        self.vlm, self.how = vlm, how
        self.per_row = max(g for g in range(1, min(how.n, batch) + 1) if how.n % g == 0)
        shards = vlm.mesh.shape["data"] * vlm.mesh.shape["fsdp"]
        self.rows = data_prompts.round_up(max(1, batch // self.per_row), shards)
        decoding = vlm.decoding(
            self.per_row, how.max_new_tokens, how.temperature, how.top_p, how.top_k
        )
        self.sample = Sampler(vlm.graphdef, decoding, vlm.dtype)
        self.key = jax.random.key(how.seed)
        self.dropped: list[Dropped] = []  # items whose images or prompts cannot be used

    def replies(self, wanted: Sequence[tuple[Item, int]]) -> Iterator[list[Reply]]:
        """The replies to (item, sample) pairs, a batch at a time, while the next is under way.

        All samples of a row are made together: those that are not wanted are left out.
        """
        keys = {(item.id, sample) for item, sample in wanted}
        firsts = {(item.id, sample // self.per_row * self.per_row): item for item, sample in wanted}
        rows = [(item, first) for (_, first), item in firsts.items()]
        waiting: tuple[list[_Row], Any, float] | None = None
        for batch in self._batches(rows):
            started = batch, self._start(batch), time.monotonic()
            if waiting:
                yield self._finish(*waiting, keys)
            waiting = started
        if waiting:
            yield self._finish(*waiting, keys)

    def _batches(self, rows: Sequence[tuple[Item, int]]) -> Iterator[list[_Row]]:
        """Rows of one shape; those left over at the end make smaller batches."""
        by_shape: dict[tuple[int, int], list[_Row]] = {}
        for row in self._encoded(rows):
            same = by_shape.setdefault(row.shape, [])
            same.append(row)
            if len(same) == self.rows:
                yield by_shape.pop(row.shape)
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
                if len(ahead) > 2 * self.rows:
                    yield from self._usable(ahead.popleft().result())
            for future in ahead:
                yield from self._usable(future.result())

    def _usable(self, row: _Row | Dropped) -> list[_Row]:
        if isinstance(row, Dropped):
            self.dropped.append(row)
            return []
        return [row]

    def _start(self, batch: list[_Row]) -> Rollout:
        """Hands a batch to the devices. Rows that fill it up repeat its first."""
        full = batch + [batch[0]] * (self.rows - len(batch))
        tokens, patches = batch[0].shape
        arrays = data_prompts.collate(
            [row.encoded for row in full],
            [number_of(row.item.id) for row in full],
            pad_id=self.vlm.processor.pad_id,
            prompt_bucket=tokens,
            patch_bucket=patches,
            completions_per_row=self.per_row,
        )
        arrays["completion"] = np.array([row.first for row in full], np.int32)
        with jax.set_mesh(self.vlm.mesh):
            prompt = put_rows(Prompt.from_arrays(arrays), self.vlm.mesh, whole=True)
            return self.sample(self.vlm.params, prompt, self.key)

    def _finish(
        self, batch: list[_Row], rollout: Rollout, start: float, keys: set[tuple[str, int]]
    ) -> list[Reply]:
        rollout = jax.tree.map(fetch, rollout)
        check_drawn(rollout, [row.item.id for row in batch])
        got = read_completions(rollout, self.vlm.processor)
        seconds = time.monotonic() - start
        replies = []
        for place, row in enumerate(batch):
            for i in range(self.per_row):
                if (row.item.id, row.first + i) in keys:
                    n = place * self.per_row + i
                    text, ids, ended = got.texts[n], got.ids[n], bool(got.finished_N[n])
                    replies.append(self._reply(row, row.first + i, text, ids, ended, seconds))
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
