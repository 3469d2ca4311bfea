# SPDX-License-Identifier: Apache-2.0
"""What every training loop turns on: the stream of prompts, its steps, the clock."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from einops import rearrange

from jaxvl.config import SFT, BatchShape, Config, Data, Reward, Run, SFTConfig
from jaxvl.data import buckets, hub, pipeline, templates, test_sets
from jaxvl.data import prompts as data_prompts
from jaxvl.data.example import BadRow, Dropped, Example, FilteredRow, summary
from jaxvl.data.intake import DropLog, ExampleFilter
from jaxvl.data.prompts import Encoded, PromptTooLong
from jaxvl.distributed import multihost
from jaxvl.distributed.mesh import data_shard, row_shards
from jaxvl.errors import UserError
from jaxvl.observe.metrics import MetricsWriter, read_metrics
from jaxvl.rewards.golds import credit_check
from jaxvl.rl import shapes
from jaxvl.train.targets import Targets, told
from jaxvl.vlm import VLM

DROPPED = "dropped.jsonl"  # in the run's directory
TRIES = 100  # stand-ins for a prompt: where none of so many fits, the limits are wrong


@dataclasses.dataclass(frozen=True)
class StreamItem:
    """One prompt of a step."""

    position: int  # in the run's endless stream of prompts: its id in the sampling keys
    example: Example
    prompt: Any  # what the template made: a string or chat messages
    encoded: Encoded
    target: tuple[int, ...] = ()  # of fine-tuning: the tokens to learn, the end token among them
    dropped: tuple[Dropped, ...] = ()  # what could not be used at this position


def drops(run_dir: Path) -> MetricsWriter:
    """The list of the rows that could not be used, which process 0 writes; makes the directory."""
    return MetricsWriter(run_dir, DROPPED)


class PromptStream:
    """The prompts of this process, `prompts` a step over all processes, in reading threads.

    What could not be used is told to all processes, so that all of them stop when it is too much.
    """

    def __init__(
        self,
        vlm: VLM,
        template: Callable[[Example], Any],
        data: Data,
        run: Run,
        batch: BatchShape,
        prompts: int,
        *,
        rewards: Sequence[Reward] = (),
        sft: SFT | None = None,
    ):
        self.data, self.run, self.prompts = data, run, prompts
        self.template = template
        self.share = data_shard(vlm.mesh)
        self.mini_batches = batch.mini_batches
        shards = row_shards(vlm.mesh) // self.share.count
        self.parts = shards * batch.micro_batches  # that work side by side or in turn
        self.processor = vlm.processor.with_pixels(data.min_pixels, data.max_pixels).as_bytes()
        credit = credit_check(rewards) if rewards else None
        self.trial: list[str] = []  # test sets that this process has met: see `use`
        self.gate = ExampleFilter(data.check, run.trial, data.digests, self.trial.append, credit)
        self.gate.admit(data.source)
        self.examples = examples = data.source.load()
        self.identity = {"the data's number of rows": len(examples)} | _some_ids(examples)
        multihost.assert_equal_across_processes(self.identity)
        most = [
            None if isinstance(of, str) else max(of)
            for of in (data.prompt_buckets, data.patch_buckets)
        ]
        length = sft.target_length if sft else None
        self.limits = buckets.Limits(most[0], most[1], length)
        self.shown: set[str] = set()  # reasons of which a person has seen one row
        self.targets = Targets(self.processor, sft)
        self._look(examples)
        self.batches = pipeline.batches(
            examples,
            self._item,
            prompts=prompts // self.share.count,
            seed=run.seed,
            shuffle=data.shuffle,
            workers=data.workers,
            process_index=self.share.index,
            process_count=self.share.count,
            blocks=self.mini_batches,
        )

    @classmethod
    def of(cls, cfg: Config | SFTConfig, vlm: VLM, prompts: int) -> PromptStream:
        """The stream of a run."""
        template = templates.for_checkpoint(cfg.data.template, cfg.model.path)
        own: dict[str, Any] = {"sft": cfg.sft} if cfg.sft else {"rewards": cfg.rewards}
        return cls(vlm, template, cfg.data, cfg.run, cfg.batch, prompts, **own)

    def _look(self, examples: Sequence[Example]) -> None:
        """Looks at the first examples: what does not fit shows before anything is compiled, and
        buckets that are "auto" are chosen. The same in every process, and whenever the run is taken
        up again."""
        data = self.data
        seen = pipeline.first(
            examples, self.run.seed, data.shuffle, min(len(examples), buckets.LOOK)
        )
        with ThreadPoolExecutor(max(data.workers, 1)) as threads:
            looked = list(threads.map(self._need, seen))
        needs = [need for need in looked if isinstance(need, buckets.Need)]
        if not needs:
            raise UserError(
                f"none of the first {len(seen)} examples can be used: "
                + summary([one for one in looked if isinstance(one, Dropped)])
            )
        over = [need for need in needs if self.limits.over(need)]
        if over and (data.too_long == "error" or len(over) == len(needs)):
            raise PromptTooLong(
                f"{len(over)} of the first {len(seen)} examples do not fit; example {over[0].id} "
                f"has {self.limits.found(over[0])}: {self.limits.advice(needs)} would hold these "
                "(buckets may be auto); or lower data.max_pixels"
                + (
                    ", or leave such examples out with data.too_long=drop"
                    if len(over) < len(needs)
                    else ""
                )
            )
        for name, sizes in (("prompt_buckets", "tokens"), ("patch_buckets", "patches")):
            if getattr(data, name) == "auto":
                fitting = [getattr(need, sizes) for need in needs if need not in over]
                chosen = buckets.read_off(fitting, self.prompts)
                read: dict[str, Any] = {name: chosen}
                self.data = dataclasses.replace(self.data, **read)
                if jax.process_index() == 0:
                    print(f"data: {name}={chosen}, read off {len(fitting)} examples", flush=True)

    def _need(self, place: tuple[Sequence[Example], int]) -> buckets.Need | Dropped:
        """What an example needs, or why it cannot be used."""
        examples, row = place
        example = examples[row]
        try:
            return self._made(0, example)[1]
        except BadRow as why:
            return Dropped.of(example.id, why)

    @functools.cached_property
    def account(self) -> DropLog:
        """The rows that cannot be used, of which a run that goes on knows some already: it is asked
        for once the list has lost the steps that are done again."""
        writer = drops(Path(self.run.dir))
        lines = read_metrics(writer.path.parent, writer.path.name) if writer.path.exists() else []
        write = writer.write if jax.process_index() == 0 else lambda step, line: None
        return DropLog(self.examples, self.data.max_bad, write, lines)

    def tell(self) -> None:
        """What a person should know of the data before the first step. UserError where too much of
        it cannot be used."""
        notes = [*self.account.notes(), *self._costs()]
        if jax.process_index() == 0:
            notes += hub.pinned(self.data.source, Path(self.run.dir))
            print("\n".join(f"data: {note}" for note in notes), flush=True)

    def _costs(self) -> list[str]:
        """What sizes cost where there is no accelerator."""
        tokens, patches = (max(of) for of in shapes.sizes(self.data))
        if jax.default_backend() != "cpu" or (tokens < 1024 and patches < 2048):
            return []
        return [
            f"on a CPU rows of {tokens} tokens and {patches} patches are slow: buckets that fit "
            "(data.prompt_buckets=auto data.patch_buckets=auto) and a smaller data.max_pixels "
            "cost less"
        ]

    def _item(self, position: int, candidates: Iterator[Example]) -> StreamItem:
        """The first candidate that can be used, and why those before it cannot.

        Called in reading threads: images are opened and prompts tokenized here.
        """
        dropped: list[Dropped] = []
        for candidate in itertools.islice(candidates, TRIES + 1):
            try:
                item, need = self._made(position, candidate)
                self._check_fits(need)
                return dataclasses.replace(item, dropped=tuple(dropped))
            except BadRow as why:
                dropped.append(Dropped.of(candidate.id, why))
        raise UserError(
            f"prompt {position}: the example and the {TRIES} drawn in its place cannot be used: "
            f"{summary(dropped)}"
        )

    def _made(self, position: int, candidate: Example) -> tuple[StreamItem, buckets.Need]:
        """An example as an item, and what that needs."""
        with told("data.check", candidate):
            example = self.gate.open(candidate)
        with told("data.template", example):
            prompt = self.template(example)
        if not isinstance(prompt, (str, list, tuple)):
            raise UserError(
                f"data.template gave a {type(prompt).__name__} for example {example.id}; expected "
                "text or a list of messages"
            )
        encoded = self.processor.encode(prompt, list(example.images))
        target = self.targets(example, prompt)
        item = StreamItem(position, example, prompt, encoded, target)
        sizes = len(encoded.tokens), len(encoded.segments), len(target)
        return item, buckets.Need(example.id, *sizes)

    def _check_fits(self, need: buckets.Need) -> None:
        """PromptTooLong, or where the policy is to drop such examples, LeftOut."""
        if not self.limits.over(need):
            return
        found = self.limits.found(need)
        if self.data.too_long == "drop":
            prompt = self.limits._replace(target=None).over(need)
            raise FilteredRow("prompt too long" if prompt else "target too long", found)
        raise PromptTooLong(
            f"example {need.id} has {found}: set {self.limits.advice([need])} (buckets may be "
            "auto), or lower data.max_pixels, or leave such examples out with data.too_long=drop"
        )

    def draw(self) -> list[StreamItem]:
        """The next prompts, in an order such that no device and no micro-batch has all the large
        ones. Which prompts make a mini-batch depends on their positions alone."""
        items = next(self.batches)
        ordered, runs = [], self.mini_batches if len(items) % self.mini_batches == 0 else 1
        for run in np.array_split(np.arange(len(items)), runs):
            costs = [len(items[i].encoded.tokens) + len(items[i].encoded.segments) for i in run]
            ordered += [items[run[i]] for i in data_prompts.balanced(costs, self.parts)]
        return ordered

    def use(self, step: int, items: list[StreamItem]) -> None:
        """`items` are part of `step`: what was dropped on the way to them is listed, and where any
        process has met a row of a test set the run is marked as a trial on it."""
        own = [(i.position, dataclasses.asdict(row)) for i in items for row in i.dropped]
        found = self.share.all_gather_object([own, list(self.trial)])
        every = [dropped for part, _ in found for dropped in part]
        if jax.process_index() == 0 and any(names for _, names in found):
            test_sets.mark(Path(self.run.dir), {name for _, names in found for name in names})
        for position, row in sorted(every, key=lambda dropped: dropped[0]):
            self._show_first(Dropped(**row))
            self.account.add(step, Dropped(**row), position)
        self.account.check()

    def _show_first(self, row: Dropped) -> None:
        """Says of the first row with a reason that it is left out."""
        if row.reason in self.shown or jax.process_index() > 0:
            return
        self.shown.add(row.reason)
        print(f"data: left out: {row.id}: {row.found}; all are in {DROPPED}", flush=True)

    def __next__(self) -> list[StreamItem]:
        """The prompts of the next step, of a run whose every step draws once."""
        items = self.draw()
        self.use(items[0].position // self.prompts + 1, items)
        return items

    def metrics(self, items: list[StreamItem]) -> dict[str, int]:
        """How many rows could not be used on the way to `items`, over all processes."""
        count = sum(len(item.dropped) for item in items)
        return {"data/dropped": sum(self.share.all_gather_object(count))}

    def get_state(self) -> dict[str, Any]:
        return self.batches.get_state() | {"examples": self.identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """UserError where the data is not that of which `state` is a position, unless
        `data.source` is in `run.allow`."""
        before = state.get("examples", self.identity)  # a run of a time without goes on
        if before != self.identity and "data.source" not in self.run.allow:
            name = next(n for n in self.identity if before.get(n) != self.identity[n])
            raise UserError(
                f"{name}: {before.get(name)!r:.80} when the run was saved, now "
                f"{self.identity[name]!r:.80}: its place among the examples would be another. "
                "Bring the data back, choose another run.dir, or go on all the same with "
                "run.allow=data.source"
            )
        self.batches.set_state(state)

    def collate(
        self, items: list[StreamItem], rows_per_prompt: int = 1, per_row: int = 1
    ) -> dict[str, np.ndarray]:
        """A batch of rows."""
        T, patches = self.sizes(items)
        return data_prompts.collate(
            [item.encoded for item in items],
            [item.position for item in items],
            pad_id=self.processor.pad_id,
            prompt_bucket=T,
            patch_bucket=patches,
            rows_per_prompt=rows_per_prompt,
            completions_per_row=per_row,
        )

    def sizes(self, items: Sequence[StreamItem], largest: bool = False) -> tuple[int, int]:
        """The buckets, of tokens and of patches, of a batch: the smallest that hold it (or the
        `largest`); with several processes all take those that the largest item needs."""
        own = [
            max(len(item.encoded.tokens) for item in items),
            max(len(item.encoded.segments) for item in items),
        ]
        sizes = [max(of) for of in zip(*self.share.all_gather_object(own), strict=True)]
        known = shapes.sizes(self.data)
        fits = [  # a larger one is made where there is no limit; else none is needed
            (max if largest else min)(
                (b for b in of if b >= size), default=data_prompts.step_up(size)
            )
            for of, size in zip(known, sizes, strict=True)
        ]
        return fits[0], fits[1]


def _some_ids(examples: Sequence[Example]) -> dict[str, str]:
    """The ids of a few rows, by what a message calls them."""
    found = {}
    for row in range(0, len(examples), max(len(examples) // 8, 1)):
        try:
            found[f"the data's row {row}"] = examples[row].id
        except BadRow as why:
            found[f"the data's row {row}"] = why.reason
    return found


class Prefetcher:
    """A stream whose next prompts are made ready while the device is busy: drawn and collated."""

    def __init__(self, stream: PromptStream, rows_per_prompt: int, per_row: int):
        self.stream, self.form = stream, (rows_per_prompt, per_row)
        self._ready: tuple[dict[str, Any], list[StreamItem], dict[str, np.ndarray]] | None = None

    def prepare(self) -> None:
        """Make the next prompts ready, if they are not."""
        if self._ready is None:
            self._ready = self._make()

    def _make(self) -> tuple[Any, list[StreamItem], dict[str, np.ndarray]]:
        before = self.stream.get_state()
        items = self.stream.draw()
        return before, items, self.collate(items)

    def collate(self, items: list[StreamItem]) -> dict[str, np.ndarray]:
        """Their batch."""
        return self.stream.collate(items, *self.form)

    def take(self, step: int) -> tuple[list[StreamItem], dict[str, np.ndarray]]:
        """The next prompts, used in `step`, and their batch."""
        (_, items, arrays), self._ready = self._ready or self._make(), None
        self.stream.use(step, items)
        return items, arrays

    def get_state(self) -> dict[str, Any]:
        """The position of the next prompts that nobody has taken."""
        return self._ready[0] if self._ready else self.stream.get_state()


def micro(batch: Any, count: int) -> Any:
    """[R, ..] -> [count, R/count, ..] on the host, for every leaf."""
    return jax.tree.map(lambda x: rearrange(x, "(M R) ... -> M R ...", M=count), batch)
