# SPDX-License-Identifier: Apache-2.0
"""The rows of an SFT set that models find hardest to predict: the mean over scorers of the answer's
perplexity, the highest kept, as VLAA-Thinking's subsets of 25K, 10K and 5K."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxvl.curate import manifest, pictures, rows
from jaxvl.curate.manifest import Manifest, ManifestPlace
from jaxvl.curate.rows import CuratedRow
from jaxvl.data import files
from jaxvl.data.engine import LOCAL, MapEngine
from jaxvl.data.example import BadRow, Example
from jaxvl.data.tasks import fields
from jaxvl.data.templates import vlaa
from jaxvl.errors import UserError

Logprobs = Callable[..., Sequence[Sequence[Any]]]  # as VLM.logprobs(prompts, images, completions)


@dataclasses.dataclass(frozen=True)
class PerplexityScorer:
    """A model that scores: `name` tells it from others (a fingerprint), `open` gives its function,
    when it is needed."""

    name: str
    open: Callable[[], Logprobs]


def select(
    source: Path,
    out: Path,
    scorers: Sequence[PerplexityScorer],
    sizes: Sequence[int],
    batch: int = 16,
    on_rows: Callable[[int], None] = lambda count: None,
    engine: MapEngine = LOCAL,
) -> Manifest:
    """Writes a file of each size into the folder `out`, `sft-5K.jsonl` for 5,000 rows; a smaller
    one is part of each larger one."""
    if not scorers or len({scorer.name for scorer in scorers}) < len(scorers):
        raise UserError("select: expected scorers, each another; give --scorer CHECKPOINT")
    place = ManifestPlace(out / "select.jsonl")
    with manifest.alone(out):
        given, unfit = _given(source)
        _check(source, sizes, given, unfit)
        ordered = sorted(set(sizes))
        settings = {
            "scorers": [scorer.name for scorer in scorers],
            "sizes": ordered,
            "batch": batch,
        }
        identity = manifest.identity("select", settings, {"rows": source})
        images = source.parent / "images"
        pictures.share(source, place.out)
        contents = pictures.contents(given, images)
        identity["in"]["pictures"] = {"sha256": rows.digest(contents)}
        done = manifest.finished(place, identity)
        if done is None:
            batches = _batches(given, contents, batch)
            scores = [
                _scores(s, batches, images, _place(out, s, batch), on_rows, engine) for s in scorers
            ]
            means = [math.fsum(of_row) / len(scorers) for of_row in zip(*scores, strict=True)]
            done = _write(place, identity, given, unfit, means, ordered)
        return done


def _check(
    source: Path,
    sizes: Sequence[int],
    given: Sequence[CuratedRow],
    unfit: Sequence[CuratedRow],
) -> None:
    """UserError for sizes that cannot be, with what keeps rows from being scored."""
    if sizes and all(1 <= size <= len(given) for size in sizes):
        return
    reasons = Counter(drop["reason"] for drop in unfit)
    left = ", ".join(f"{count:,} for {reason}" for reason, count in reasons.most_common())
    first = f"; left out: {left} (row {unfit[0]['id']}: {unfit[0]['found']})" if unfit else ""
    raise UserError(
        f"select: sizes {list(sizes)}; {source} has {len(given):,} rows that can be scored, with a "
        f"question, an answer and their picture; expected 1 to that many{first}"
    )


def _given(source: Path) -> tuple[list[CuratedRow], list[CuratedRow]]:
    """(rows that can be scored, those that cannot and why). The published set's rows, which have
    neither id nor source, get them."""
    given, unfit = [], []
    for number, _, raw in files.read([source]):
        row = {"id": f"sft-{number - 1}", "source": "", "image": None}
        try:
            if isinstance(raw, BadRow):
                raise raw
            row |= raw
            if not isinstance(row["source"], str) or not row["source"]:
                row["source"] = "".join(Path(str(row["image"]).lstrip("/")).parts[:1])
            for name in ("id", "question", "answer"):
                fields.text(row, name)
            pictures.picture(row, source.parent / "images")
            given.append(row)
        except BadRow as why:
            drop = {"id": str(row["id"]), "source": str(row["source"])}
            unfit.append(drop | {"reason": why.reason, "found": str(why)})
    return given, unfit


def _write(
    place: ManifestPlace,
    identity: Manifest,
    given: list[CuratedRow],
    unfit: list[CuratedRow],
    means: list[float],
    sizes: list[int],
) -> Manifest:
    order = sorted(range(len(given)), key=lambda i: (-means[i], given[i]["id"]))

    def first(size: int) -> list[CuratedRow]:
        return [given[i] for i in sorted(order[:size])]

    largest = sizes[-1]
    smaller = {_name(size): (place.out.with_name(_file(size)), first(size)) for size in sizes}
    drops = [
        {
            "id": given[i]["id"],
            "source": given[i]["source"],
            "reason": "perplexity is too low",
            "found": f"{means[i]:.6g}, number {number + 1} of {len(given)}",
        }
        for number, i in enumerate(order)
        if number >= largest
    ]
    main = {_name(largest): smaller.pop(_name(largest))}
    lowest = {_name(size): means[order[size - 1]] for size in sizes}
    return manifest.finish(
        place,
        identity,
        len(given) + len(unfit),
        main,
        unfit + drops,
        copies=smaller,
        lowest_perplexity=lowest,
    )


def perplexities(logprobs: Logprobs, some: Sequence[CuratedRow], images: Path) -> list[float]:
    """Of each row's answer, after the prompt that VLAA-Thinking trains with."""
    found = [str(pictures.picture(row, images)) for row in some]
    examples = [
        Example(row["id"], row["question"], "", (file,))
        for row, file in zip(some, found, strict=True)
    ]
    prompts = [vlaa(example) for example in examples]
    scored = logprobs(prompts, [[file] for file in found], [[row["answer"]] for row in some])
    values = []
    for row, (tokens,) in zip(some, scored, strict=True):
        mean = math.fsum(float(value) for value in tokens) / max(len(tokens), 1)
        if not len(tokens) or not math.isfinite(mean):
            raise UserError(f"row {row['id']}: the scorer gives its answer {mean} a token")
        values.append(math.exp(min(-mean, 700.0)))
    return values


def _batches(
    given: Sequence[CuratedRow], contents: Sequence[str], size: int
) -> list[tuple[str, Sequence[CuratedRow]]]:
    """Rows as they are scored, so many at a time, each with a key of what is scored: the rows and
    what their pictures hold.

    Batches are always the same rows, so that a score does not depend on where a run was stopped or
    on which worker had it.
    """
    digests = [rows.digest([row, held]) for row, held in zip(given, contents, strict=True)]
    starts = range(0, len(given), size)
    return [(rows.digest(digests[at : at + size]), given[at : at + size]) for at in starts]


def _place(out: Path, scorer: PerplexityScorer, batch: int) -> Path:
    return out / f"scores-{rows.digest([scorer.name, batch])[:16]}.jsonl"


def _scores(
    scorer: PerplexityScorer,
    batches: Sequence[tuple[str, Sequence[CuratedRow]]],
    images: Path,
    kept: Path,
    on_rows: Callable[[int], None],
    engine: MapEngine,
) -> list[float]:
    """A scorer's perplexity of every row; those of whole batches are kept as they come."""
    sizes = {key: len(some) for key, some in batches}
    known = {key: found for key, found in _kept(kept) if len(found) == sizes.get(key)}
    missing = {key: some for key, some in batches if key not in known}
    make = functools.partial(_scoring, scorer, images.absolute())
    found = engine.map(make, missing.values(), model=True) if missing else ()
    done = sum(len(some) for key, some in batches if key in known)
    on_rows(done)
    with open(kept, "a", encoding="utf-8") as file:
        for key, values in zip(missing, found, strict=True):
            known[key] = values
            file.write(json.dumps({"rows": key, "perplexity": values}) + "\n")
            file.flush()
            done += len(values)
            on_rows(done)
    return [value for key, _ in batches for value in known[key]]


def _scoring(scorer: PerplexityScorer, images: Path) -> Callable[[Any], list[float]]:
    """What a worker does: the scorer's perplexities of some rows."""
    logprobs = scorer.open()
    return lambda some: perplexities(logprobs, some, images)


def _kept(path: Path) -> Iterator[tuple[str, list[float]]]:
    if not path.is_file():
        return
    sound = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        entry = _entry(line)
        if entry:
            sound.append(line)
            yield entry
        elif line.endswith(b"\n"):  # else half a line, of a process that was killed
            print(
                f"warning: {path}, line {number} is damaged; its rows are scored again",
                file=sys.stderr,
            )
    if len(sound) < len(lines):
        files.replace(path, b"".join(sound))


def _entry(line: bytes) -> tuple[str, list[float]] | None:
    """The key of some rows and their scores; None where a line has not both."""
    try:
        entry = json.loads(line)
        key, values = entry["rows"], entry["perplexity"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    sound = isinstance(key, str) and isinstance(values, list) and line.endswith(b"\n")
    sound = sound and all(type(value) is float and math.isfinite(value) for value in values)
    return (key, values) if sound else None


def _name(size: int) -> str:
    return f"{size // 1000}K" if size % 1000 == 0 else str(size)


def _file(size: int) -> str:
    return f"sft-{_name(size)}.jsonl"
