# SPDX-License-Identifier: Apache-2.0
"""We-Math (arXiv 2407.01284), testmini: 525 problems of two or three steps, asked as a whole and
step by step, 1,740 questions with options.

As published: We-Math/We-Math (parquet, or testmini.json with its images) and VLMEvalKit's
WeMath.tsv. A problem of which a question is missing is left out as a whole: the published scripts
would count it as neither right nor wrong.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxvl.data.example import BadRow, Dropped
from jaxvl.eval.benchmark import BenchmarkSpec, Item, Metric, Scored
from jaxvl.eval.scoring import figures, formats, marks, protocols
from jaxvl.eval.scoring.formats import LETTERS, Row
from jaxvl.eval.scoring.protocols import KIT, QWEN, REASONING

_FILES = ("testmini*.parquet", "WeMath.tsv", "testmini.json")
# Insufficient knowledge, inadequate generalisation, complete mastery, rote memorisation.
KINDS = ("IK", "IG", "CM", "RM")
_KEY = re.compile(r"([23])steps_([123]|multi)")


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    items, dropped = formats.collect(source, _FILES, lambda row: [_item(row, protocol)])
    parts = defaultdict(set)
    for item in items:
        parts[item.cluster].add(item.groups["part"])
    whole = [item for item in items if not _missing(parts[item.cluster])]
    for item in items:
        missing = _missing(parts[item.cluster])
        if missing:
            why = f"the problem {item.cluster} has no {', '.join(sorted(missing))}"
            dropped.append(Dropped(item.id, "incomplete problem", why))
    return formats.checked(source, whole, dropped)


def _missing(parts: set[str]) -> set[str]:
    """The questions that a problem of these questions lacks."""
    steps = next(iter(parts))[0]
    wanted = {f"{steps}steps_{n}" for n in range(1, int(steps) + 1)} | {f"{steps}steps_multi"}
    return wanted - parts


def _item(row: Row, protocol: str) -> Item:
    key, problem = row.text("key"), row.text("ID")
    known = _KEY.fullmatch(key)
    if not known:
        raise BadRow("unknown key", f"`key` is {key}, expected one like 2steps_1 or 3steps_multi")
    question, option = row.text("question"), row.word("option")
    choices = _options(option) if option else row.choices()
    one_step = known[2] != "multi"
    return Item(
        id=f"{problem}/{known[2]}",
        gold=formats.letter(row.text("answer"), choices),
        choices=choices,
        cluster=problem,
        groups={"part": key, "steps": "1" if one_step else known[1]},
        **protocols.asked(
            protocol,
            {
                KIT: protocols.kit_choice(question, choices, row.word("hint"), ask=False),
                QWEN: protocols.qwen_choice(question, choices, row.word("hint")),
                REASONING: f"{question}\n{option or protocols.lettered(choices)}".strip(),
            },
            row.picture("image", "image_path"),
        ),
    )


def _options(text: str) -> tuple[str, ...]:
    """The options in "A. 8;B. 6; C. No correct answer"; BadRow where they are not such."""
    text = text.replace("\uff0e", ".")
    starts: list[re.Match[str]] = []
    for letter in LETTERS:
        # Some options run on with only a space between. "; C.;" ends a sentence about a point C.
        head = rf"\s*{letter}\s*\.(?!\s*;)"
        end = starts[-1].end() if starts else 0
        found = re.compile(f";{head}" if starts else head).search(text, end)
        found = found or re.compile(rf"\s{letter}\.\s").search(text, end)
        if not found:
            break
        starts.append(found)
    if len(starts) < 2:
        raise BadRow("no choices", f"`option` is {text!r:.60}, expected A. ..; B. ..")
    ends = [found.start() for found in starts[1:]] + [len(text)]
    return tuple(text[a.end() : b].strip() for a, b in zip(starts, ends, strict=True))


def _kind(group: Sequence[Scored], strict: bool) -> str:
    """What the replies to one problem show, one of KINDS; "" where one is missing.

    A problem that is right is mastered where all its steps are right (strict), or any (loose).
    """
    steps = [one.mark.value == 1 for one in group if one.item.groups["steps"] == "1"]
    whole = [one for one in group if one.item.groups["steps"] != "1"]
    # The groups of the question as a whole say how many steps there are.
    if not whole or len(steps) != int(whole[0].item.groups["steps"]):
        return ""
    if whole[0].mark.value == 1:
        return "CM" if (all if strict else any)(steps) else "RM"
    return "IG" if all(steps) else "IK"


def _problems(strict: bool, value: Callable[..., float | None]) -> figures.Sums:
    """A metric of how many problems are of each of KINDS, in their order."""

    def of(group: Sequence[Scored]) -> tuple[float, ...]:
        found = _kind(group, strict)
        return tuple(int(found == kind) for kind in KINDS)

    return figures.Sums(of, value)


def score(strict: bool) -> Metric:
    """(CM + IG / 2) / problems: the benchmark's score."""
    return _problems(strict, lambda ik, ig, cm, rm: figures.ratio(cm + ig / 2, ik + ig + cm + rm))


def share(kind: str, strict: bool = True) -> Metric:
    """The share of the problems that are of a kind; RM is a share of the problems that are right,
    as it is published, and None where none is."""

    def value(*counts: int) -> float | None:
        of = dict(zip(KINDS, counts, strict=True))
        return figures.ratio(of[kind], of["CM"] + of["RM"] if kind == "RM" else sum(counts))

    return _problems(strict, value)


BENCHMARK = BenchmarkSpec(
    name="wemath",
    title="We-Math (testmini)",
    protocols=protocols.offered(KIT, QWEN, REASONING),
    read=read,
    mark=marks.by_kind,
    metrics={
        "score (strict)": score(strict=True),
        "score (loose)": score(strict=False),
        "accuracy": figures.accuracy,
        "IK": share("IK"),
        "IG": share("IG"),
        "CM (strict)": share("CM"),
        "CM (loose)": share("CM", strict=False),
        "RM (strict)": share("RM"),
        "RM (loose)": share("RM", strict=False),
        **{f"S{steps}": figures.among("steps", steps) for steps in "123"},
    },
)
