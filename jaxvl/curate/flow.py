# SPDX-License-Identifier: Apache-2.0
"""All six steps, one after the other, in one folder."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from jaxvl.curate import metadata, split, work
from jaxvl.curate.manifest import Manifest
from jaxvl.curate.sources import PAPER, check_names
from jaxvl.curate.steps import MAX_TOKENS, PLACES, Step, prompt
from jaxvl.curate.teachers import Teacher, TeacherSettings, check
from jaxvl.data.engine import LOCAL, MapEngine

ASKING = tuple(PLACES)
FILES = {
    "metadata": "1-metadata.jsonl",
    "caption": "2-captioned.jsonl",
    "distil": "3-distilled.jsonl",
    "rewrite": "4-rewritten.jsonl",
    "verify": "5-verified.jsonl",
}
CACHE = "answers.sqlite"
Open = Callable[[Step, Path], Teacher]


@dataclasses.dataclass(frozen=True)
class Flow:
    """Whom each step asks."""

    caption: TeacherSettings = TeacherSettings(max_tokens=MAX_TOKENS["caption"])
    distil: TeacherSettings = TeacherSettings(max_tokens=MAX_TOKENS["distil"])
    rewrite: TeacherSettings = TeacherSettings(max_tokens=MAX_TOKENS["rewrite"])
    verify: TeacherSettings = TeacherSettings(max_tokens=MAX_TOKENS["verify"])

    def steps(self, images: Path, prompts: Path | None) -> list[Step]:
        """The steps that ask, in their order; for prompts of one's own see `steps.prompt`."""
        return [Step(name, getattr(self, name), prompt(name, prompts), images) for name in ASKING]


def run(
    paths: Mapping[str, str],
    out: Path,
    steps: list[Step],
    teacher: Open,
    chosen: metadata.Chosen,
    sizes: split.SplitSizes,
    failed: work.Failed = "stop",
    on_rows: Callable[[str, int], None] = lambda step, count: None,
    engine: MapEngine = LOCAL,
    on_counts: Callable[[str, Counter], None] = lambda step, counts: None,
) -> Iterator[Manifest]:
    """The manifest of each step as it is done. What is wrong with a later step's settings is said
    before the first one begins."""
    check_names(sizes.sft, paths, "--sft")
    check_names(sizes.rl, paths, "--rl")
    for step in steps:
        check(step.asked, step.name)
    source = out / FILES["metadata"]
    yield metadata.run(paths, source, chosen)
    for step in steps:
        target = out / FILES[step.name]

        yield work.run(
            step,
            source,
            target,
            functools.partial(teacher, step, out / CACHE),
            failed,
            functools.partial(on_rows, step.name),
            engine,
            functools.partial(on_counts, step.name),
        )
        source = target
    yield split.run(source, out, sizes)


def table(manifests: Mapping[str, Manifest]) -> list[tuple[str, ...]]:
    """As the paper's Table 1: for each source the rows at the start, after the pipeline, for SFT
    and for RL, with the paper's own in brackets."""
    counts: dict[str, list[int]] = {}
    columns = (("metadata", "rows"), ("verify", "rows"), ("split", "sft"), ("split", "grpo"))
    for place, (step, name) in enumerate(columns):
        for source, found in manifests[step]["sources"].items():
            counts.setdefault(source, [0] * 4)[place] = found.get(name, 0)
    lines: list[tuple[str, ...]] = [("source", "rows", "verified", "SFT", "RL")]
    for source, ours in sorted(counts.items()):
        facts = PAPER.get(source)
        theirs = (facts.original, facts.pipeline, facts.sft, facts.rl) if facts else None
        beside = [f" ({n:,})" if n else " (-)" for n in theirs] if theirs else [""] * 4
        cells = [f"{n:,}{paper}" for n, paper in zip(ours, beside, strict=True)]
        lines.append((source, *cells))
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    lines.append(("all", *(f"{total:,}" for total in totals)))
    return lines
