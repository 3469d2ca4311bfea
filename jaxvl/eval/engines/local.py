# SPDX-License-Identifier: Apache-2.0
"""Replies of a model on this machine's devices, in batches of few shapes.

A reply depends on its prompt, the seed and the sample's number. Not on its neighbours, on the order
or on where a stopped run goes on: a batch always has the same number of rows, lengths are padded to
sizes that the prompts of a row alone decide, and draws are folded from the item's id. What is left
is the rounding of products of more or fewer rows, and of rows with other prompts in them.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvl.checkpoints.start import load, locate
from jaxvl.data.example import BadRow, Dropped
from jaxvl.data.image import see
from jaxvl.data.prompts import round_up
from jaxvl.distributed.mesh import fetch, put_rows, row_shards
from jaxvl.eval.benchmark import Item
from jaxvl.eval.engines import rows
from jaxvl.eval.engines.replies import Reply, ReplyKey, ReplySampling, fingerprint
from jaxvl.eval.engines.rows import Asked, AskedRow
from jaxvl.models.inputs import Prompt
from jaxvl.rl.batch import Rollout
from jaxvl.rl.completions import check_drawn, read_completions
from jaxvl.rl.sampler import Sampler, cached_sampler
from jaxvl.vlm import VLM

READERS = 4  # threads that open images and tokenize
QUEUE = 4  # times as many rows as are decoded at a time are handed to the devices


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

    rows: list[AskedRow | None]  # None: it fills a shard up
    started: float
    read: np.ndarray  # bool [R, g]


class Local:
    """A model that replies to items, `batch` sequences at a time (or one prompt's samples).

    A reply that has ended makes room for the next prompt: `QUEUE` times as many are handed over
    together, and take turns in the sampler's slots. Prompts about the same pictures share a row
    where it has no more sequences than `batch`: what they begin with is prefilled once.
    """

    def __init__(self, vlm: VLM, how: ReplySampling, batch: int = 32):
        self.vlm, self.how, self.batch = vlm, how, batch
        self.per_prompt = max(g for g in range(1, min(how.n, batch) + 1) if how.n % g == 0)
        self.shards = row_shards(vlm.mesh)
        at_most = max(1, batch // (self.per_prompt * self.shards))
        self.most = min(rows.MOST, 1 << (at_most.bit_length() - 1))
        self.key = jax.random.key(how.seed)
        self.dropped: list[Dropped] = []  # items whose images or prompts cannot be used

    def rows_together(self, prompts: int) -> int:
        """How many rows of so many prompts are handed over together."""
        return QUEUE * self._at_a_time(prompts)

    def _at_a_time(self, prompts: int) -> int:
        return round_up(max(1, self.batch // (self.per_prompt * prompts)), self.shards)

    def sampler(self, prompts: int) -> Sampler:
        """What makes the replies of rows of so many prompts."""
        how, per_row = self.how, self.per_prompt * prompts
        slots = self._at_a_time(prompts) * per_row
        decoding = self.vlm.decoding(
            per_row, how.max_new_tokens, how.temperature, how.top_p, how.top_k, slots
        )
        return cached_sampler(self.vlm.graphdef, decoding, self.vlm.dtype)

    def replies(
        self, items: Sequence[Item], missing: Collection[ReplyKey]
    ) -> Iterator[list[Reply]]:
        """Those of the replies to `items` that are missing, as they end, those of a while together,
        while the devices go on.

        All samples of a row are made together: those that are not missing are left out.
        """
        waiting: tuple[_Batch, Rollout] | None = None
        for rows_of_a_shape in self._batches(items, missing):
            for under_way in self._sampled(rows_of_a_shape):
                if waiting and (replies := self._ended(*waiting, missing)):
                    yield replies
                waiting = under_way
        if waiting and (replies := self._ended(*waiting, missing)):
            yield replies

    def _batches(
        self, items: Sequence[Item], missing: Collection[ReplyKey]
    ) -> Iterator[list[AskedRow]]:
        """Rows of one shape, as many as are handed over together; fewer where others wait for
        long, and at the end."""
        by_shape: dict[tuple[int, ...], list[AskedRow]] = {}
        waiting = 0
        for row in self._encoded(items, missing):
            same = by_shape.setdefault(row.shape, [])
            same.append(row)
            waiting += len(row.asked)
            is_full = len(same) == self.rows_together(len(row.asked))
            if is_full or waiting >= 2 * self.rows_together(1):
                # What is full goes, however many prompts others have: none grows past its size.
                most = max(by_shape, key=lambda shape: len(by_shape[shape]) * shape[0])
                goes = row.shape if is_full else most
                waiting -= len(by_shape[goes]) * goes[0]
                yield by_shape.pop(goes)
        yield from (by_shape[shape] for shape in sorted(by_shape))

    def _encoded(self, items: Sequence[Item], missing: Collection[ReplyKey]) -> Iterator[AskedRow]:
        """The rows in order, a few batches ahead of the device, images opened in threads."""
        ids = {id for id, _ in missing}
        with ThreadPoolExecutor(READERS) as threads:
            ahead: deque[Future] = deque()
            for same in rows.same_pictures(items):
                if not any(item.id in ids for item in same):
                    continue
                for first in range(0, self.how.n, self.per_prompt):
                    ahead.append(threads.submit(self._encode, same, first, missing))
                    if len(ahead) > self.rows_together(1):
                        yield from self._usable(ahead.popleft().result())
            for future in ahead:
                yield from self._usable(future.result())

    def _encode(
        self, same: list[Item], first: int, missing: Collection[ReplyKey]
    ) -> list[AskedRow | Dropped]:
        """The rows of items about the same pictures, and what is dropped.

        A row has the prompts that it would have if all replies were missing: where a run goes on,
        they are what they were.
        """
        processor = self.vlm.processor.as_bytes()
        asked: list[Asked] = []
        dropped: list[AskedRow | Dropped] = []
        images: list[Any] = []
        for item in same:
            wanted = any((item.id, first + i) in missing for i in range(self.per_prompt))
            try:
                images = images or [see(image, processor.image) for image in item.images]
                encoded = processor.encode(item.prompt, images)
            except BadRow as why:
                dropped += [Dropped.of(item.id, why)] * wanted
            else:
                asked.append(Asked(item, first if wanted else rows.NOBODYS, encoded))
        return [*dropped, *rows.rows_of(asked, self.most)]

    def _usable(self, found: list[AskedRow | Dropped]) -> list[AskedRow]:
        for one in found:  # an item with many samples is in several rows, and dropped once
            if isinstance(one, Dropped) and one not in self.dropped:
                self.dropped.append(one)
        return [one for one in found if isinstance(one, AskedRow)]

    def _sampled(self, some: list[AskedRow]) -> Iterator[tuple[_Batch, Rollout]]:
        """What there is of the replies to rows of one shape, again and again until all have ended:
        copies that the devices make when they come to it."""
        sampler, lying = self.sampler(len(some[0].asked)), self._spread(some)
        read = np.array([[row is None] * sampler.sampling.completions for row in lying])
        batch = _Batch(lying, time.monotonic(), read)
        arrays = rows.collate(lying, self.vlm.processor.pad_id, self.per_prompt)
        prompt = put_rows(Prompt.from_arrays(arrays), self.vlm.mesh, whole=True)
        states = sampler.states(self.vlm.params, prompt, self.key)
        while True:
            with jax.set_mesh(self.vlm.mesh):  # not around the yield
                state = next(states, None)
                if state is None:
                    return
                rollout = sampler.read(prompt, state)
            yield batch, rollout

    def _spread(self, some: list[AskedRow]) -> list[AskedRow | None]:
        """The rows as they lie on the devices: each shard has as many as the others, or one more,
        and behind them what fills it up."""
        spare = self.rows_together(len(some[0].asked)) - len(some)
        assert spare >= 0, "more rows than a batch has"
        full = [*some, *[None] * spare]
        return [row for shard in range(self.shards) for row in full[shard :: self.shards]]

    def _ended(self, batch: _Batch, rollout: Rollout, missing: Collection[ReplyKey]) -> list[Reply]:
        """The missing replies that have ended since the last time."""
        rollout = jax.tree.map(fetch, rollout)
        check_drawn(rollout, [row.ids if row else "" for row in batch.rows])
        ended = rollout.finished | (rollout.mask.sum(-1) == self.how.max_new_tokens)
        new = ended & ~batch.read
        batch.read |= new
        places = np.argwhere(new)
        got = read_completions(jax.tree.map(lambda x: x[new][:, None], rollout), self.vlm.processor)
        seconds = time.monotonic() - batch.started
        replies = []
        for n, (place, i) in enumerate(places.tolist()):
            if (row := batch.rows[place]) is None:
                continue
            asked = row.asked[i // self.per_prompt]
            sample = asked.first + i % self.per_prompt
            if asked.first != rows.NOBODYS and (asked.item.id, sample) in missing:
                text, ids, stopped = got.texts[n], got.ids[n], bool(got.finished_N[n])
                replies.append(self._reply(asked, sample, text, ids, stopped, seconds))
        return replies

    def _reply(
        self, asked: Asked, sample: int, text: str, ids: list[int], ended: bool, seconds: float
    ) -> Reply:
        processor, encoded = self.vlm.processor, asked.encoded
        thought = text[: text.rfind("</think>") + len("</think>")] if "</think>" in text else ""
        return Reply(
            item=asked.item,
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
