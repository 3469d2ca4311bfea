# SPDX-License-Identifier: Apache-2.0
"""What a benchmark is: items made of published files, a rule for replies, and its own metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data.example import Dropped
from jaxvl.rewards import extract
from jaxvl.rewards.endpoint import Endpoint
from jaxvl.rewards.judge import ChatJudge


@dataclasses.dataclass(frozen=True)
class Item:
    """One question of a benchmark, as it is put to the model.

    `prompt` is chat messages or plain text, as `VLM.generate` takes them; `images` holds PIL
    images, paths or bytes of image files, in order. `kind` is one of `jaxvl.rewards.verify`.
    Items of one `cluster` are resampled together ("": the item alone). `groups` is what a report
    breaks down by ({"task": "Count"}); `extra` is what the rule and the metrics need besides. Both
    are JSON.
    """

    id: str
    prompt: Any
    images: tuple[Any, ...]
    gold: str
    choices: tuple[str, ...] = ()
    kind: str = "mcq"
    cluster: str = ""
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Grade:
    """What a reply is worth, in [0, 1]: None where nobody can say (no usable gold). `extracted` is
    the text that was judged, `canonical` equal for answers that say the same, `reason` a few words
    that are the same for every mark of their kind."""

    value: float | None
    extracted: str = ""
    canonical: str = ""
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Scored:
    """An item with the mark of one sampled reply (number `sample`)."""

    item: Item
    sample: int
    mark: Grade


Metric = Callable[[Sequence[Scored]], float | None]
# (endpoint, model, items, replies) -> a value in [0, 1] for each reply, None where there is none
Judge = Callable[[Endpoint, str, Sequence[Item], Sequence[str]], list[float | None]]


def prompt_text(item: Item) -> str:
    """The words of an item's prompt; of a conversation those of its last turn."""
    content = item.prompt if isinstance(item.prompt, str) else item.prompt[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def question(item: Item) -> str:
    """What a judge is told of an item: its prompt's words, and the reference where it has one."""
    reference = f"\nReference: {item.gold}" if item.gold else ""
    return f"Question: {prompt_text(item)}{reference}"


def answer(reply: str) -> str:
    """What a judge sees of a reply: its answer block, else all that follows the thinking."""
    return extract.single(reply) or extract.reply(reply)


def by_reference(
    endpoint: Endpoint, model: str, items: Sequence[Item], replies: Sequence[str]
) -> list[float | None]:
    """What a chat model says of replies that it is shown beside images, questions and golds."""
    images = [list(item.images) for item in items]
    judge = ChatJudge(endpoint, model)
    return judge(images, [question(item) for item in items], [answer(text) for text in replies])


@dataclasses.dataclass(frozen=True)
class BenchmarkSpec:
    """A benchmark: one of these a file under `benchmarks/`.

    `read(source, protocol)` finds the files under the directory (or file) `source` by their layout
    and gives the items and what was left out; UserError where there is nothing of this benchmark.
    `protocol` is one of `protocols` (name to what it is, the first is the default): it decides the
    prompts. `mark(item, reply, mode)` is pure and total; `mode` is one of `modes`.
    `metrics` are named shares of the scored replies, from 0 to 1, the headline first. They are
    computed with whole clusters left out, too, and may look at values of marks (at reasons where
    `reads_reasons` is set), at groups and `extra` of items, and at which have one cluster or one
    sample; numbers of samples are but names. `judge` has a model judge replies, beside the rules. A
    benchmark that draws its own items needs no source. A mark without a value counts as 0 in rates,
    or where `none_is_wrong` is not set it is left out of them.
    """

    name: str
    title: str
    protocols: Mapping[str, str]
    read: Callable[[Path, str], tuple[list[Item], list[Dropped]]]
    mark: Callable[[Item, str, str], Grade]
    metrics: Mapping[str, Metric]
    max_new_tokens: int = 1024
    modes: tuple[str, ...] = ("strict", "lenient")
    judge: Judge = by_reference
    needs_source: bool = True
    none_is_wrong: bool = True
    reads_reasons: bool = False
