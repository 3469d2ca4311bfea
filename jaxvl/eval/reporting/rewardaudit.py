# SPDX-License-Identifier: Apache-2.0
"""An audit of a run's reward by a person: completions drawn by stratum, a page to mark them on, and
what the marks say of the reward.

Strata are (credited or refused, kind of answer, short or long). They are drawn alike, so that the
rare ones are seen, and count by what they hold. Needs no device.
"""

from __future__ import annotations

import base64
import json
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.errors import UserError
from jaxvl.eval.reporting.stats import Estimate, wilson
from jaxvl.rewards.audit import kind_of

_TEMPLATE = Path(__file__).with_suffix(".html")
AGREE, DISAGREE = "agree", "disagree"


def completions(run: Path, reward: str = "") -> list[dict[str, Any]]:
    """Every completion in a run's rollouts that has the reward ("": the first one)."""
    files = sorted((run / "rollouts").glob("step_*.jsonl"))
    if not files:
        raise UserError(f"{run} has no rollouts/step_*.jsonl; expected the directory of a GRPO run")
    found = []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
            if line.strip():
                found += _of_prompt(
                    _parsed(line, file, number), run, reward, f"{file.stem}:{number}"
                )
    if not found:
        raise UserError(f"{run}: no completion has a reward of its own; all are masked or None")
    half = sorted(len(one["text"]) for one in found)[len(found) // 2]
    for one in found:
        length = "long" if len(one["text"]) > half else "short"
        one["stratum"] = f"{'credited' if one['credited'] else 'refused'}, {one['kind']}, {length}"
    return found


def _parsed(line: str, file: Path, number: int) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{file}, line {number}: broken JSON ({error})") from None


def _of_prompt(row: Mapping[str, Any], run: Path, reward: str, where: str) -> list[dict[str, Any]]:
    found = []
    for number, one in enumerate(row["completions"]):
        rewards = one["rewards"]
        name = reward or next(iter(rewards))
        if name not in rewards:
            raise UserError(f"--reward {name}: the run has {', '.join(rewards)}")
        if rewards[name] is None:
            continue
        found.append(
            {
                "id": f"{where}:{number}",
                "prompt": row["prompt"],
                "answer": str(row["answer"]),
                "pictures": [str(run / file) for file in row["image_files"]],
                "kind": kind_of(row) or "other",
                "text": one["text"],
                "reward": rewards[name],
                "name": name,
                "credited": rewards[name] >= 0.5,
            }
        )
    return found


def draw(found: Sequence[dict[str, Any]], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` completions, as many of each stratum as it has and the others leave; each with the
    number of completions that it stands for, its `weight`."""
    strata: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in found:
        strata[one["stratum"]].append(one)
    draws, left = [], min(count, len(found))
    by_size = sorted(strata.items(), key=lambda pair: (len(pair[1]), pair[0]))
    for at, (name, of) in enumerate(by_size):
        size = min(len(of), round(left / (len(by_size) - at)))
        chosen = random.Random(f"{seed} {name}").sample(of, size)
        draws += [one | {"weight": len(of) / size} for one in chosen]
        left -= size
    random.Random(seed).shuffle(draws)  # a person should not see what comes next
    return draws


def page(run: Path, drawn: Sequence[Mapping[str, Any]]) -> str:
    """The page on which a person marks: one file that needs no net and keeps what was marked."""
    import jinja2

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        _TEMPLATE.read_text(encoding="utf-8")
    )
    items = [{**one, "pictures": [_data(Path(file)) for file in one["pictures"]]} for one in drawn]
    known = {one["id"]: [one["credited"], one["weight"], one["stratum"]] for one in drawn}
    name = str(run.resolve().name)
    return template.render(name=name, reward=drawn[0]["name"], items=items, known=known)


def _data(file: Path) -> str:
    """An image as a URL that holds it, "" where it is gone."""
    if not file.is_file():
        return ""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def read_marks(file: Path) -> list[dict[str, Any]]:
    """The marks that a page has exported: credited, weight, stratum and mark of each completion."""
    try:
        marks = json.loads(file.read_bytes())["marks"]
        good = all(
            isinstance(one["credited"], bool)
            and float(one["weight"]) > 0
            and one["mark"] in (AGREE, DISAGREE)
            for one in marks
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: these are no marks ({type(error).__name__}: {error}); expected the file that "
            "the page's button saves"
        ) from None
    if not marks or not good:
        raise UserError(f"{file}: expected marks `{AGREE}` or `{DISAGREE}`, at least one")
    return marks


def quality(marks: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """Precision (of what is credited, how much is right) and recall (of what is right, how much is
    credited) of the reward's verdict, by the person's, with 95% intervals.

    Completions count by their weights; the intervals are Wilson's for the number of equally
    weighted ones that would say as much (Kish's).
    """
    credited = [one for one in marks if one["credited"]]
    right = [one for one in marks if one["credited"] == (one["mark"] == AGREE)]
    return {
        "precision": _share(credited, [one["mark"] == AGREE for one in credited]),
        "recall": _share(right, [one["credited"] for one in right]),
        "agreement": _share(marks, [one["mark"] == AGREE for one in marks]),
    }


def _share(marks: Sequence[Mapping[str, Any]], hits: Sequence[bool]) -> Estimate:
    weights = [float(one["weight"]) for one in marks]
    if not weights:
        return Estimate(None, -math.inf, math.inf, 0)
    p = sum(w for w, hit in zip(weights, hits, strict=True) if hit) / sum(weights)
    as_many = sum(weights) ** 2 / sum(weight**2 for weight in weights)
    return Estimate(p, *wilson(p, as_many), len(weights))
