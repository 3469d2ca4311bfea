# SPDX-License-Identifier: Apache-2.0
"""`jaxvl eval run`: replies of a model to benchmarks, written down as they come."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxvl.data.example import Dropped, summary
from jaxvl.errors import UserError
from jaxvl.eval.benchmark import Item
from jaxvl.eval.engines import predictions
from jaxvl.eval.engines.predictions import Line
from jaxvl.eval.engines.replies import Reply, ReplyKey, ReplySampling, shard
from jaxvl.eval.tasks import Task, prompt_digest, subset
from jaxvl.observe.metrics import Progress


class Engine(Protocol):
    """`Local` or `Remote`."""

    dropped: list[Dropped]

    def replies(
        self, items: Sequence[Item], missing: Collection[ReplyKey]
    ) -> Iterator[list[Reply]]:
        """Those of the replies to `items` that are missing, a batch at a time."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of one evaluation: they go through the same batches, and the first writes."""

    index: int = 0
    count: int = 1

    def agreed(self, missing: Sequence[bool]) -> list[bool]:
        """What the first process says, in all of them."""
        if self.count == 1 or not len(missing):
            return list(missing)
        from jax.experimental import multihost_utils

        return multihost_utils.broadcast_one_to_all(np.array(missing, bool)).tolist()


@dataclasses.dataclass(frozen=True)
class EngineSpec:
    """Who is asked: `make(how, batch)` is the model, `decides` says what its replies depend on
    besides, `about` what is good to know."""

    make: Callable[[ReplySampling, int], Engine]
    decides: Mapping[str, Any]
    about: Mapping[str, Any]
    processes: Processes = Processes()


def run_all(
    tasks: Sequence[Task],
    asked: EngineSpec,
    how: ReplySampling,
    out: Path,
    batch: int,
    max_new_tokens: int = 0,
    *,
    limit: int = 0,
    part: tuple[int, int] = (1, 1),
    force: bool = False,
) -> int:
    """`run` for several benchmarks, each with its own longest reply where `max_new_tokens` is 0.
    Returns how many replies are missing at the end."""
    missing = 0
    for task in tasks:
        tokens = max_new_tokens or task.benchmark.max_new_tokens
        how = dataclasses.replace(how, max_new_tokens=tokens)
        missing += run(
            task,
            asked.make(how, batch),
            how,
            out,
            decides=asked.decides,
            about={**asked.about, "versions": versions(), "limit": limit},
            limit=limit,
            part=part,
            force=force,
            processes=asked.processes,
        )
    return missing


def run(
    task: Task,
    model: Engine,
    how: ReplySampling,
    out: Path,
    *,
    decides: Mapping[str, Any],
    about: Mapping[str, Any],
    limit: int = 0,
    part: tuple[int, int] = (1, 1),
    force: bool = False,
    processes: Processes = Processes(),
) -> int:
    """The replies of `model` to `task` in the folder out/<name>; those that are there are not asked
    for again. Returns how many are missing at the end.

    `decides` says what else the replies depend on, `about` what is good to know. `part` (i, n) is
    the i-th of n shares, each with a file of its own.
    """
    name = task.benchmark.name
    folder, settings = out / name, _settings(task, how, decides, about)
    items = shard(subset(task.items, limit), *part)
    wanted = [(item.id, sample) for item in items for sample in range(how.n)]
    with contextlib.ExitStack() as files:
        done: dict[ReplyKey, Line] = {}
        writer = None
        if processes.index == 0:
            predictions.open_folder(folder, settings, force)
            share = "" if part[1] == 1 else f"-{part[0]}-of-{part[1]}"
            writer = predictions.Writer(folder, f"predictions{share}.jsonl")
            files.enter_context(writer)
            done, notes = predictions.read(folder)
            if limit or share:
                notes.append(f"PARTIAL: {len(items)} of {len(task.items)} items")
            notes.append(task.gold_note)
            there = sum(key in done for key in wanted)
            notes.append(f"{len(wanted)} replies, {there} are there")
            print("".join(f"{name}: {note}\n" for note in notes), end="", flush=True)
        new = processes.agreed([key not in done for key in wanted])
        total, digest = len(wanted), predictions.digest_of(settings)
        missing = {key for key, is_new in zip(wanted, new, strict=True) if is_new}
        count = total - len(missing)
        with Progress(total, count, unit="reply") as progress:
            for batch in model.replies(items, missing):
                count += len(batch)
                if writer:
                    writer.append([_line(reply, task, digest) for reply in batch])
                    progress.update(count, {})
    if model.dropped:
        print(f"{name}: without a reply: {summary(model.dropped)}", flush=True)
        model.dropped.clear()
    return total - count


def _settings(
    task: Task, how: ReplySampling, decides: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Any]:
    """What settings.json holds. The number of samples decides nothing: more may follow."""
    sampling = dataclasses.asdict(how)
    del sampling["n"]
    return {
        "schema": predictions.SCHEMA,
        "decides": {
            "task": task.benchmark.name,
            "protocol": task.protocol,
            "system_prompt": task.system_prompt,
            "dataset": task.dataset_digest,
            **sampling,
            **decides,
        },
        "source": task.source,
        "items": len(task.items),
        "dropped": [dataclasses.asdict(row) for row in task.dropped],
        "about": dict(about),
    }


def _line(reply: Reply, task: Task, settings: str) -> Line:
    item = reply.item
    return {
        "schema": predictions.SCHEMA,
        "task": task.benchmark.name,
        "id": item.id,
        "sample": reply.sample,
        "settings": settings,
        "dataset": task.dataset_digest,
        "row": task.row_digests[item.id],
        "prompt_digest": prompt_digest(item),
        "prompt": reply.prompt,
        "image_sizes": reply.image_sizes,
        "processed_sizes": reply.processed_sizes,
        "image_tokens": reply.image_tokens,
        "text": reply.text,
        "raw": reply.raw,
        "tokens": reply.tokens,
        "thinking": reply.thinking,
        "finish_reason": reply.finish_reason,
        "seconds": reply.seconds,
    }


def versions() -> dict[str, str]:
    """Of what an evaluation is made with: Python, jaxvl and its commit, jax, transformers."""
    found = {"python": platform.python_version()}
    for name in ("jaxvl", "jax", "flax", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # an installed package has none
        found["commit"] = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    return found


def parse_part(text: str) -> tuple[int, int]:
    """`--shard i/n`."""
    try:
        index, count = (int(number) for number in text.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 1 <= index <= count:
        raise UserError(f"--shard {text!r}: expected I/N with I from 1 to N, such as 2/4")
    return index, count


def parse_sources(
    given: Sequence[str], tasks: Sequence[str], option: str = "--source"
) -> dict[str, str]:
    """`--source NAME=PATH`, repeated; a PATH alone is that of the one task."""
    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals and len(tasks) == 1:
            name, path = tasks[0], text
        if name not in tasks or not path:
            raise UserError(
                f"{option} {text!r}: expected NAME=PATH, NAME one of {', '.join(tasks)}"
            )
        found[name] = path
    return found
