# SPDX-License-Identifier: Apache-2.0
"""Benchmarks inside of a training run: figures of the step, and the best model so far."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from jaxvl.config import Benchmarks
from jaxvl.data import test_sets
from jaxvl.data.example import summary
from jaxvl.distributed import multihost
from jaxvl.errors import UserError
from jaxvl.eval.benchmark import Item, Scored
from jaxvl.eval.engines.local import Local
from jaxvl.eval.engines.replies import Reply, ReplySampling
from jaxvl.eval.tasks import Task, open_task, subset
from jaxvl.rewards import extract, pool
from jaxvl.vlm import VLM

BEST = "best"  # the folder of the best model, in the run directory


class During:
    """The benchmarks of a run, on its own mesh and with its own sampler."""

    def __init__(self, cfg: Benchmarks, run_dir: Path):
        self.cfg, self.run_dir = cfg, run_dir
        self.tasks: list[tuple[Task, list[Item]]] = []
        for one in cfg.tasks:
            task = open_task(one.name, one.source, one.protocol)
            print(f"{one.name}: {task.gold_note}", flush=True)
            self.tasks.append((task, subset(task.items, one.limit)))

    def due(self, step: int, last: int) -> bool:
        """Whether the benchmarks are answered after this step."""
        return step % self.cfg.every == 0 or step == last

    def evaluate(self, step: int, vlm: VLM, metrics: Mapping[str, float]) -> dict[str, float]:
        """The figures of `vlm`; it is kept where the chosen one of them, or of the step's other
        `metrics`, is the highest so far."""
        found: dict[str, float] = {}
        for task, items in self.tasks:
            print(f"answering {len(items)} items of {task.benchmark.name}", flush=True)
            replies = self._replies(task, items, vlm)
            of_task = figures(task, replies)
            if replies:
                print(headline(task.benchmark.name, of_task), flush=True)
            found |= of_task
        if self.cfg.best:
            self._keep(step, vlm, {**metrics, **found})
        return found

    def _replies(self, task: Task, items: Sequence[Item], vlm: VLM) -> list[Reply]:
        tokens = self.cfg.max_new_tokens or task.benchmark.max_new_tokens
        engine = Local(vlm, ReplySampling(max_new_tokens=tokens), self.cfg.batch)
        batches = list(engine.replies(items, {(item.id, 0) for item in items}))
        if engine.dropped:
            print(f"{task.benchmark.name}: without a reply: {summary(engine.dropped)}", flush=True)
        return [reply for batch in batches for reply in batch]

    def _keep(self, step: int, vlm: VLM, metrics: Mapping[str, float]) -> None:
        """Exports the model if it is the best so far; the mark of test data goes with it."""
        name, sign = self.cfg.best.removeprefix("-"), -1 if self.cfg.best[0] == "-" else 1
        if name not in metrics:
            raise UserError(
                f"benchmarks.best = {self.cfg.best!r} is no metric of step {step}; expected one of "
                f"{', '.join(sorted(metrics))}"
            )
        value, folder = metrics[name], self.run_dir / BEST
        note = folder / "best.json"
        before = json.loads(note.read_bytes())["value"] if note.is_file() else -sign * math.inf
        better = multihost.all_gather_object(sign * value > sign * before)
        if not better[0]:  # a clock may have made figures differ
            return
        part = self.run_dir / f"{BEST}.part"
        if jax.process_index() == 0:
            shutil.rmtree(part, ignore_errors=True)
        vlm.save(part)
        if jax.process_index() == 0:
            test_sets.mark(part, test_sets.marks(self.run_dir))
            line = {"step": step, "metric": name, "value": value}
            (part / note.name).write_text(json.dumps(line) + "\n", encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)


def headline(name: str, found: Mapping[str, float]) -> str:
    """The accuracy of a benchmark in words, with the mode in which it was read."""
    lenient, strict = (found[f"eval/{name}/accuracy_{mode}"] for mode in ("lenient", "strict"))
    return f"{name}: accuracy {lenient:.3f} (lenient mode), {strict:.3f} (strict mode)"


def figures(task: Task, replies: Sequence[Reply]) -> dict[str, float]:
    """Metrics of a step from replies to a task: the accuracy and the benchmark's own figures, whose
    names say in which mode replies were read (a benchmark may have one of its own, as CV-Bench's
    "official"), the shares with a valid answer block and cut off, and the mean length. A figure of
    nothing is absent."""
    name, mark = task.benchmark.name, task.benchmark.mark
    items, texts = [reply.item for reply in replies], [reply.text for reply in replies]
    values = {}
    for mode in task.benchmark.modes:
        marks = pool.map_threads(mark, items, texts, [mode] * len(items))
        values[mode] = [
            Scored(item, reply.sample, one)
            for item, reply, one in zip(items, replies, marks, strict=True)
        ]

    columns: dict[str, list[float]] = {
        **{
            f"accuracy_{mode}": [one.mark.value or 0.0 for one in scored]
            for mode, scored in values.items()
        },
        "format": [extract.blocks(extract.reply(text)) is not None for text in texts],
        "truncated": [reply.finish_reason == "length" for reply in replies],
        "length": [reply.tokens or 0 for reply in replies],
    }
    found = {metric: sum(of) / len(of) for metric, of in columns.items() if of}
    for metric, of in task.benchmark.metrics.items():
        try:
            value = of(values["lenient"])
        except UserError:  # it refuses part of its items
            value = None
        if value is not None and not math.isnan(value) and f"{metric}_lenient" not in found:
            found[f"{metric}_lenient"] = value
    return {f"eval/{name}/{metric}": value for metric, value in found.items()}
