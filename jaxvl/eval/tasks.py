# SPDX-License-Identifier: Apache-2.0
"""The benchmarks there are, and their items as an evaluation asks them."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import importlib
import json
import os
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from jaxvl.data.example import Dropped
from jaxvl.data.templates import VLAA_SYSTEM
from jaxvl.errors import UserError
from jaxvl.eval import benchmarks
from jaxvl.eval.benchmark import BenchmarkSpec, Item
from jaxvl.eval.scoring.marks import unverified

SYSTEM_PROMPTS = {"vlaa": VLAA_SYSTEM, "none": ""}


@functools.cache
def known() -> dict[str, BenchmarkSpec]:
    """Every `BENCHMARK` of the modules of `jaxvl.eval.benchmarks`, by name."""
    modules = [
        importlib.import_module(f"{benchmarks.__name__}.{module.name}")
        for module in pkgutil.iter_modules(benchmarks.__path__)
    ]
    found = [module.BENCHMARK for module in modules if hasattr(module, "BENCHMARK")]
    return {benchmark.name: benchmark for benchmark in sorted(found, key=lambda b: b.name)}


def find(name: str) -> BenchmarkSpec:
    """The benchmark of a name; UserError with a suggestion where there is none."""
    if name not in known():
        near = difflib.get_close_matches(name, known(), n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"expected one of {', '.join(known())}"
        raise UserError(f"no benchmark `{name}`; {hint}")
    return known()[name]


@dataclasses.dataclass(frozen=True)
class Task:
    """A benchmark's items, read from `source` for a protocol and with a system prompt of one's own
    ("": the items' own)."""

    benchmark: BenchmarkSpec
    source: str
    protocol: str
    system_prompt: str
    items: list[Item]
    dropped: list[Dropped]

    @functools.cached_property
    def row_digests(self) -> dict[str, str]:
        """What is asked and what is right, by id: images, gold, choices and kind."""
        return {item.id: _row_digest(item) for item in self.items}

    @functools.cached_property
    def dataset_digest(self) -> str:
        """The digest of all rows, whatever their order."""
        return _digest("\n".join(sorted(self.row_digests.values())).encode())

    @functools.cached_property
    def gold_note(self) -> str:
        """How many golds of the files do not verify against themselves, and which."""
        if not any(item.gold for item in self.items):
            return "there are no golds: replies are classified"
        bad = unverified(self.items)
        named = f": {', '.join(bad[:10])}{', ..' if len(bad) > 10 else ''}" if bad else ""
        return f"{len(bad)} of {len(self.items)} golds do not verify against themselves{named}"


def open_task(name: str, source: str = "", protocol: str = "", system_prompt: str = "") -> Task:
    """The items of a benchmark. `protocol` "" is its first; `system_prompt` is a text or a name of
    SYSTEM_PROMPTS."""
    benchmark = find(name)
    protocol = protocol or next(iter(benchmark.protocols))
    if protocol not in benchmark.protocols:
        raise UserError(
            f"{name} has no protocol `{protocol}`; expected one of {', '.join(benchmark.protocols)}"
        )
    if benchmark.needs_source and not source:
        raise UserError(f"{name}: where are its files? give --source {name}=PATH")
    items, dropped = benchmark.read(Path(source), protocol)
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise UserError(f"{name}: several items of {source} have the id {twice!r}")
    if system_prompt:
        text = SYSTEM_PROMPTS.get(system_prompt, system_prompt)
        items = [dataclasses.replace(item, prompt=_with_system(item, text)) for item in items]
    return Task(benchmark, source, protocol, system_prompt, items, dropped)


def reopen(settings: dict[str, Any], source: str = "") -> Task:
    """The task that settings.json speaks of, its files read again."""
    decides = settings["decides"]
    return open_task(
        decides["task"], source or settings["source"], decides["protocol"], decides["system_prompt"]
    )


def subset(items: Sequence[Item], limit: int) -> list[Item]:
    """About `limit` items (0: all), drawn by the digests of their clusters' names.

    Clusters are taken whole or not at all; a smaller limit's items are among a larger one's.
    """
    if not limit or limit >= len(items):
        return list(items)
    clusters = sorted(
        {cluster(item) for item in items}, key=lambda name: (_digest(name.encode()), name)
    )
    chosen = set(clusters[: max(1, round(limit * len(clusters) / len(items)))])
    return [item for item in items if cluster(item) in chosen]


def cluster(item: Item) -> str:
    """The name of what an item is resampled with."""
    return item.cluster or item.id


def prompt_digest(item: Item) -> str:
    """What is put to the model in words: the messages, or the text."""
    return _digest(json.dumps(item.prompt, sort_keys=True, ensure_ascii=False).encode())


def _with_system(item: Item, text: str) -> list[dict[str, Any]]:
    if isinstance(item.prompt, str):
        raise UserError(f"item {item.id}: its protocol's prompt is plain text, without a system")
    turns = [turn for turn in item.prompt if turn["role"] != "system"]
    return [{"role": "system", "content": text}, *turns] if text else turns


def _row_digest(item: Item) -> str:
    known = [item.id, item.kind, item.gold, list(item.choices)]
    known += [_image_digest(image) for image in item.images]
    return _digest(json.dumps(known, ensure_ascii=False).encode())


def _image_digest(image: Any) -> str:
    if isinstance(image, Image.Image):
        return _digest(f"{image.mode} {image.size} ".encode() + image.tobytes())
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        return _digest(path.read_bytes()) if path.is_file() else "missing"
    return _digest(image)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
