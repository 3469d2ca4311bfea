# SPDX-License-Identifier: Apache-2.0
"""`jaxvl rewards agree`: whether two rewards say the same of the same completions of a run.

Which completions they credit, how they order those of a prompt (all that GRPO sees of a reward that
is scaled by its group), and how one is calibrated against the other. Needs no device.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.config import Reward
from jaxvl.data.example import Example
from jaxvl.errors import UserError
from jaxvl.eval.reporting import stats
from jaxvl.eval.reporting.stats import Estimate
from jaxvl.eval.reporting.tables import Table
from jaxvl.observe import browse
from jaxvl.rewards.audit import kind_of
from jaxvl.rewards.columns import AskedColumns, inputs
from jaxvl.rewards.mix import score

BINS = 10


@dataclasses.dataclass
class Pair:
    """A completion of a run and what two rewards give it; NaN: one does not apply, or is masked.
    Completions of one `asked` are of one prompt in one step."""

    asked: str
    key: tuple[str, str]  # task and id of the example
    text: str
    kind: str
    answer: str
    first: float
    second: float = math.nan

    @property
    def judged(self) -> bool:
        """Whether both give it something."""
        return not (math.isnan(self.first) or math.isnan(self.second))


def completions(run: Path, first: str, count: int, seed: int) -> tuple[str, list[Pair], int]:
    """The name of the reward that was recorded (`first`, or the run's first), all completions of
    prompts drawn until there are `count`, and how many lines could not be read."""
    files = browse.Rollouts(run).files()
    lines, broken = browse.read([file for of in files.values() for file in of])
    lines = [line for line in lines if line.get("completions")]
    if not lines:
        raise UserError(f"{run} has no rollouts/step_N.jsonl; expected the directory of a GRPO run")
    name = first or next(iter(lines[0]["completions"][0].get("rewards") or {}), "")
    order = list(range(len(lines)))
    random.Random(seed).shuffle(order)
    found: list[Pair] = []
    for at in order:
        if len(found) >= count:
            break
        found += _of_prompt(lines[at], name, f"{lines[at].get('step')}:{at}")
    return name, found, broken


def _of_prompt(line: Mapping[str, Any], name: str, asked: str) -> Iterator[Pair]:
    key = browse.text_of(line.get("task")), browse.text_of(line.get("id"))
    for one in line["completions"]:
        shown = browse.completion(one)
        if name not in shown["rewards"]:
            raise UserError(f"the run has no reward `{name}`; it has {', '.join(shown['rewards'])}")
        answer = browse.text_of(line.get("answer"))
        kind = kind_of({"answer": answer}) or "other"
        value = shown["rewards"][name]
        yield Pair(asked, key, shown["text"], kind, answer, math.nan if value is None else value)


def recorded(run: Path, pairs: Sequence[Pair], name: str, first: str, seed: int) -> None:
    """Gives the pairs of `completions` the values that another reward of the same run had."""
    if name == first:
        raise UserError(f"--second {name}: it is the first too; expected another, or --with CONFIG")
    _, others, _ = completions(run, name, len(pairs), seed)
    for pair, other in zip(pairs, others, strict=True):
        pair.second = other.first


def rescore(
    pairs: Sequence[Pair],
    reward: Reward,
    examples: Sequence[Example],
    template: Any,
    processor: Any,
) -> int:
    """Gives the pairs the values of `reward`, called as in training, and their kind by the columns
    of their examples. Returns how many completions have no example here; they stay without."""
    wanted = {pair.key for pair in pairs}
    known = {key: one for one in examples if (key := (one.task, one.id)) in wanted}
    asked = {
        key: AskedColumns.of(example, template(example), processor)
        for key, example in known.items()
    }
    found = [pair for pair in pairs if pair.key in asked]
    if not found:
        task, id = pairs[0].key
        raise UserError(
            f"no completion of the run is to an example of the config's data (the run has {id} of "
            f"task {task!r}); --with wants a config of the same data"
        )
    questions = [asked[pair.key] for pair in found]
    ids = [processor.tokenize(pair.text) for pair in found]
    scores = score([reward], **inputs(questions, [pair.text for pair in found], ids))
    values = np.where(scores.masked_N, np.nan, scores.values_NK[:, 0]).tolist()
    for pair, value, question in zip(found, values, questions, strict=True):
        pair.second = value
        columns = {**question.example.columns, "answer": question.example.answer}
        declared = columns.get("verifier_type") or ""
        choices = {"choices": question.example.choices}
        pair.kind = str(declared) or kind_of(columns | choices) or "other"
    return len(pairs) - len(found)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Of completions that both judge: the share of which both credit or both do not, Cohen's
    kappa of that, Spearman's correlation, and the share of pairs of one prompt's completions, of
    those that both tell apart, that are in one order. With 95% intervals that know prompts."""

    agreement: Estimate
    kappa: Estimate
    correlation: Estimate
    order: Estimate
    first: Estimate  # means
    second: Estimate


def agreement(pairs: Sequence[Pair], credit: float) -> Agreement:
    """What `Agreement` says of pairs that both judge; credited is what has `credit` or more."""
    prompts = [pair.asked for pair in pairs]
    rows = [(pair.first, pair.second) for pair in pairs]
    clusters = [
        [row for _, row in of]
        for _, of in groupby(sorted(zip(prompts, rows, strict=True)), key=lambda one: one[0])
    ]
    hits = [(a >= credit) == (b >= credit) for a, b in rows]
    ordered: list[float] = []
    of: list[int] = []
    for number, cluster in enumerate(clusters):
        for (a, x), (b, y) in combinations(cluster, 2):
            if a != b and x != y:
                ordered.append(float((a < b) == (x < y)))
                of.append(number)
    return Agreement(
        agreement=stats.proportion([float(hit) for hit in hits], prompts),
        kappa=_estimate(lambda of: kappa(of, credit), clusters),
        correlation=_estimate(correlation, clusters),
        order=stats.proportion(ordered, of),
        first=_mean([a for a, _ in rows], prompts),
        second=_mean([b for _, b in rows], prompts),
    )


def _mean(values: Sequence[float], prompts: Sequence[str]) -> Estimate:
    share = all(0 <= value <= 1 for value in values)
    return stats.rate(values, prompts) if share else stats.mean(values, prompts)


def kappa(rows: Sequence[tuple[float, float]], credit: float) -> float | None:
    """Cohen's kappa of who is credited; None where chance alone would agree throughout."""
    a, b = (np.array(rows) >= credit).T
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return None if chance == 1 else float(((a == b).mean() - chance) / (1 - chance))


def correlation(rows: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's; None where one side does not vary."""
    from scipy.stats import spearmanr

    a, b = np.array(rows).T
    return None if len(set(a)) == 1 or len(set(b)) == 1 else float(spearmanr(a, b).statistic)


def _estimate(statistic: Any, clusters: Sequence[Sequence[Any]]) -> Estimate:
    value, influence_K = stats.influence(statistic, clusters)
    count = sum(map(len, clusters))
    if value is None or influence_K is None:
        return Estimate(value, -1.0, 1.0, count)
    found = stats.bootstrap(value, influence_K, count)
    return dataclasses.replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0))


def overview(pairs: Sequence[Pair], first: str, second: str, credit: float) -> Table:
    """A row for all, and for each kind of answer where there are several."""
    kinds = sorted({pair.kind for pair in pairs})
    rows = []
    for kind in ("all", *(kinds if len(kinds) > 1 else ())):
        of = [pair for pair in pairs if kind in ("all", pair.kind)]
        found = agreement(of, credit)
        estimates = [getattr(found, field.name) for field in dataclasses.fields(found)]
        rows.append([kind, len(of), *map(str, estimates)])
    columns = ["kind", "n", f"agree at {credit:g}", "kappa", "Spearman", "same order in a prompt"]
    title = f"{first} and {second} on the same completions"
    return {"title": title, "columns": [*columns, f"mean {first}", f"mean {second}"], "rows": rows}


def calibration(pairs: Sequence[Pair], first: str, second: str) -> Table:
    """Completions by the value of the second, up to BINS parts of one size, equal values in one
    part: what the first gives where the second gives so much."""
    ordered = sorted(pairs, key=lambda pair: pair.second)
    values = [pair.second for pair in ordered]
    cuts = np.searchsorted(values, values) * BINS // max(len(values), 1)
    rows = []
    for _, of in groupby(zip(cuts.tolist(), ordered, strict=True), key=lambda one: one[0]):
        part = [pair for _, pair in of]
        theirs = [pair.second for pair in part]
        mean = _mean([pair.first for pair in part], [pair.asked for pair in part])
        rows.append([f"{min(theirs):.3g} to {max(theirs):.3g}", len(part)])
        rows[-1] += [f"{np.mean(theirs):.3f}", str(mean)]
    title = f"What {first} gives where {second} gives so much"
    return {
        "title": title,
        "columns": [second, "n", f"mean {second}", f"mean {first}"],
        "rows": rows,
    }


def differing(pairs: Sequence[Pair], credit: float) -> list[Pair]:
    """Completions that one of them credits and the other does not, the farthest apart first."""
    found = [pair for pair in pairs if (pair.first >= credit) != (pair.second >= credit)]
    return sorted(found, key=lambda pair: -abs(pair.first - pair.second))


def lines(pairs: Sequence[Pair], first: str, second: str) -> str:
    """The pairs as JSON lines."""
    rows = []
    for pair in pairs:
        row: dict[str, Any] = {"task": pair.key[0], "id": pair.key[1], "kind": pair.kind}
        row |= {"answer": pair.answer, "text": pair.text, first: pair.first, second: pair.second}
        rows.append(row | {"asked": pair.asked})
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
