# SPDX-License-Identifier: Apache-2.0
"""Step 6: verified rows become two sets without a row or an image in common, SFT's without words
of reflection and RL's with them; and the rows with them once more as an SFT set of its own."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.curate import manifest, pictures, rows
from jaxvl.curate.manifest import Manifest, ManifestPlace
from jaxvl.curate.metadata import rank
from jaxvl.curate.rows import CuratedRow
from jaxvl.curate.sources import check_names
from jaxvl.curate.steps import thought_and_answer
from jaxvl.data.example import BadRow
from jaxvl.data.reflection import WORDS
from jaxvl.data.tasks import fields, vlaa

REFLECTION = WORDS["VLAA-Thinking"]  # appendix A.2: looked for anywhere


@dataclasses.dataclass(frozen=True)
class SplitSizes:
    """How many rows of a source go where at most (all where it has no number), and how many of all
    rows with reflection go into `aha`."""

    sft: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rl: Mapping[str, int] = dataclasses.field(default_factory=dict)
    aha: int = 55_000
    seed: int = 0


@dataclasses.dataclass
class Seen:
    """What the division has to know of a row."""

    id: str
    source: str
    image: str
    content: str  # what tells the picture from others, its name where no file is there
    reflects: bool
    rl_only: bool
    as_is: bool  # its reasoning is its set's own
    no_sft: BadRow | None  # why it can be no row of either set
    no_rl: BadRow | None


def reflects(text: str) -> bool:
    """The paper's rule: one of the eight words is anywhere in the text."""
    return any(word in text.lower() for word in REFLECTION)


def run(source: Path, out: Path, sizes: SplitSizes) -> Manifest:
    """Writes `sft.jsonl`, `grpo.jsonl` and `aha.jsonl` into the folder `out`, in the form that
    `jaxvl.data.tasks.vlaa.VLAA` reads."""
    place = ManifestPlace(out / "6-split.jsonl")
    with manifest.alone(out):
        identity = manifest.identity("split", dataclasses.asdict(sizes), {"rows": source})
        pictures.share(source, out / "sft.jsonl")
        contents = pictures.contents(rows.read(source), source.parent / "images")
        identity["in"]["pictures"] = {"sha256": rows.digest(contents)}
        done = manifest.finished(place, identity)
        if done is None:
            seen = [_seen(*each) for each in zip(rows.read(source), contents, strict=True)]
            there = {row.source for row in seen}
            check_names(sizes.sft, there, "--sft")
            check_names(sizes.rl, there, "--rl")
            where = divide(seen, sizes)
            aha = _aha(seen, sizes)
            done = manifest.finish(
                place,
                identity,
                len(seen),
                {
                    "sft": (out / "sft.jsonl", _chosen(source, where, "sft")),
                    "grpo": (out / "grpo.jsonl", _chosen(source, where, "grpo")),
                },
                _dropped(source, where),
                copies={"aha": (out / "aha.jsonl", _reflecting(source, aha))},
            )
        return done


def divide(seen: Sequence[Seen], sizes: SplitSizes) -> list[str | BadRow]:
    """Where each row goes: "sft", "grpo", or why to neither."""
    where: list[str | BadRow] = [BadRow("", "")] * len(seen)
    by_source: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(seen):
        by_source[row.source].append(number)
    for source, numbers in by_source.items():
        numbers.sort(key=lambda number: rank(sizes.seed, {"id": seen[number].id}))
        _to_rl(source, numbers, seen, sizes.rl.get(source), where)
    taken: dict[str, str] = {}
    for row, place in zip(seen, where, strict=True):
        if place == "grpo":
            taken.setdefault(row.content, row.image)
    for source, numbers in by_source.items():
        rest = [number for number in numbers if where[number] == "sft"]
        for number in rest:
            row = seen[number]
            if row.content in taken:
                other = taken[row.content]
                name = "" if other == row.image else f" as {other}"
                found = f"{row.image} is in the RL set{name}"
                where[number] = BadRow("picture is in the RL set", found)
        rest = [number for number in rest if where[number] == "sft"]
        limit = sizes.sft.get(source)
        for number in rest[limit:] if limit is not None else ():
            where[number] = BadRow("over the size of the SFT set", f"{limit} of {source}")
    return where


def _to_rl(
    source: str,
    numbers: Sequence[int],
    seen: Sequence[Seen],
    limit: int | None,
    where: list[str | BadRow],
) -> None:
    """Rows with reflection, and those for RL alone, go to RL. What then lacks of `limit` is taken
    from rows whose reasoning is their set's own, which no rule was meant for. The rest is SFT's."""
    count, rest = 0, []
    for number in numbers:
        row = seen[number]
        why = row.no_rl if row.rl_only else row.no_sft
        if not why and not (row.rl_only or row.reflects):
            rest.append(number)
            continue
        why = why or row.no_rl
        if not why and limit is not None and count >= limit:
            why = BadRow("over the size of the RL set", f"{limit} of {source}")
        where[number] = why or "grpo"
        count += not why
    for number in rest:
        row = seen[number]
        filled = limit is not None and count < limit and row.as_is and not row.no_rl
        where[number] = "grpo" if filled else "sft"
        count += filled


def _seen(row: CuratedRow, content: str) -> Seen:
    rl_only = row.get("only") == "rl"
    text = row.get("answer")
    return Seen(
        id=row["id"],
        source=row["source"],
        image=str(row.get("image")),
        content=content or str(row.get("image")),
        reflects=not rl_only and isinstance(text, str) and reflects(text),
        rl_only=rl_only,
        as_is=row.get("verified") == "given",
        no_sft=None if rl_only else _why_not(sft_row, row),
        no_rl=_why_not(rl_row, row),
    )


def _why_not(make: Any, row: CuratedRow) -> BadRow | None:
    try:
        make(row)
    except BadRow as why:
        return why
    return None


def sft_row(row: CuratedRow) -> CuratedRow:
    """As in VLAA-Thinking-SFT-126K.json."""
    if not row.get("verified"):
        raise BadRow("not verified", "the row has not been through `verify`")
    thought, answer = thought_and_answer(fields.text(row, "answer"))
    fields.text(row, "image")
    reply = f"<think>{thought}</think>\n\n<answer>\n{answer}\n</answer>"
    return {name: row[name] for name in ("id", "source", "image", "question")} | {"answer": reply}


def rl_row(row: CuratedRow) -> CuratedRow:
    """As in VLAA-Thinking-GRPO-25K.json."""
    kind = row.get("verifier_type")
    if kind not in vlaa.TYPES:
        raise BadRow("unknown verifier type", f"`verifier_type` is {fields.shown(kind)}")
    vlaa.normal_answer(kind, row.get("gt"), row["question"], row.get("meta"))
    fields.text(row, "image")
    names = ("id", "source", "image", "question", "gt", "verifier_type", "meta")
    return {name: row[name] for name in names if name in row}


_MAKE = {"sft": sft_row, "grpo": rl_row}


def _chosen(source: Path, where: Sequence[str | BadRow], name: str) -> Iterator[CuratedRow]:
    for row, place in zip(rows.read(source), where, strict=True):
        if place == name:
            yield _MAKE[name](row)


def _dropped(source: Path, where: Sequence[str | BadRow]) -> Iterator[CuratedRow]:
    for row, why in zip(rows.read(source), where, strict=True):
        if isinstance(why, BadRow):
            drop = {"id": row["id"], "source": row["source"]}
            yield drop | {"reason": why.reason, "found": str(why)}


def _aha(seen: Sequence[Seen], sizes: SplitSizes) -> set[str]:
    """The ids of rows with reflection, drawn up to the number that is wanted. They are a set for
    comparison: RL's rows are among them."""
    ids = [row.id for row in seen if row.reflects and not row.no_sft]
    return set(sorted(ids, key=lambda id: rank(sizes.seed, {"id": id}))[: sizes.aha])


def _reflecting(source: Path, ids: set[str]) -> Iterator[CuratedRow]:
    return (sft_row(row) for row in rows.read(source) if row["id"] in ids)
