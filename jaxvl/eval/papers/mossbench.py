# SPDX-License-Identifier: Apache-2.0
"""MOSSBench (arXiv 2406.17806): refusals by type, by system prompt and by stage, of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxvl.eval.mossbench import tradeoff
from jaxvl.eval.papers.given import PaperInput, ResultsJson
from jaxvl.eval.papers.tables import NOT_RUN, Entry, Value, bars, marked, shown, table
from jaxvl.eval.reporting import published
from jaxvl.eval.reporting.beside import figure_of
from jaxvl.eval.reporting.published import MOSSBENCH_MODELS as MODELS

NAMES = tuple(row[0] for row in MODELS[2])
_TYPES = MODELS[1][:3]
_NONE: dict[str, Any] = {"value": None}
_CAPTIONS = ("caption refused", "caption misperceived")
_RUN = "jaxvl eval run --tasks mossbench --source mossbench=DIR --protocol {} .."


def _by(one: ResultsJson, figures: Sequence[str]) -> list[tuple[str, list[Value]]]:
    """Figures by the rule, and by each judge."""
    modes = {"by the rule": one["modes"]["strict"]}
    modes |= {f"by {name}": judge for name, judge in one["judge"].items()}
    found: list[tuple[str, list[Value]]] = []
    for whose, mode in modes.items():
        values = [marked(figure_of(mode, figure), one, one["protocol"]) for figure in figures]
        found += [(whose, values)] if any(values) else []
    return found


def _ours(
    given: Mapping[str, PaperInput], protocol: str, figures: Sequence[str]
) -> dict[str, list[tuple[str, list[Value]]]]:
    found = {name: one.of_task("mossbench", protocol) for name, one in given.items()}
    return {name: _by(one, figures) for name, one in found.items() if one}


def sections(given: Mapping[str, PaperInput]) -> list[dict[str, Any]]:
    """All that the page has of this paper."""
    return [
        _models(given, "Main results, judged by GPT-4", MODELS),
        _models(given, "Main results, judged by people", published.MOSSBENCH_PEOPLE),
        _prompts(given),
        _stages(given),
        _captions(given),
        _tradeoff(given),
    ]


def unused(given: Mapping[str, PaperInput]) -> list[str]:
    """What was given and is in no table of this paper, which asks models and trains none."""
    shown = {(tradeoff.HARMFUL, "paper")}
    shown |= {(tradeoff.BENIGN, of) for of in (*published.PROMPTS.values(), "stages")}
    found = []
    for name, one in given.items():
        left = [f"{task} by {protocol}" for task, protocol in one.results.keys() - shown]
        if left:
            found.append(f"{name}: {', '.join(sorted(left))} is in no table of this paper")
        if one.run and not one.results.keys() & shown:
            found.append(
                f"{name}: nothing of the run {one.run} is on this page, which has results alone "
                f"({_RUN.format('paper')})"
            )
    return found


def _models(
    given: Mapping[str, PaperInput], title: str, theirs: published.Published
) -> dict[str, Any]:
    """Refusals by type, of the paper's models and of others."""
    ours = _ours(given, "paper", (*_TYPES, "refusals"))
    entries = [Entry(row[0], row[1:], ours.get(row[0], [])) for row in theirs[2]]
    entries += [Entry(name, None, of) for name, of in ours.items() if name not in NAMES]
    return {
        "title": title,
        "text": f"{theirs[0]}. Refusals in per cent.",
        "tables": [table(theirs[1], entries)],
        "bars": bars(theirs[1], entries),
        "missing": [] if ours else [f"ours: {NOT_RUN} ({_RUN.format('paper')})"],
    }


def _prompts(given: Mapping[str, PaperInput]) -> dict[str, Any]:
    """Refusals by type under each system prompt."""
    theirs, entries, missing = published.MOSSBENCH_PROMPTS, [], []
    for label, *figures in theirs[2]:
        ours = _ours(given, published.PROMPTS[label], (*_TYPES, "refusals"))
        # One model has one line, by the rule: judges are in the main results.
        entries.append(
            Entry(label, tuple(figures), [(name, of[0][1]) for name, of in ours.items()])
        )
        if not ours:
            missing.append(f"{label}: {NOT_RUN} ({_RUN.format(published.PROMPTS[label])})")
    return {
        "title": "Refusals by system prompt",
        "text": f"{theirs[0]}. The prompts' words are ours where none were put in their place.",
        "tables": [table(theirs[1], entries)],
        "bars": bars(theirs[1], entries),
        "missing": missing,
    }


def _stages(given: Mapping[str, PaperInput]) -> dict[str, Any]:
    """What of the plainly refused is refused with a description, and with the intent too."""
    theirs = published.MOSSBENCH_STAGES
    entries = [Entry(row[0], row[1:], []) for row in theirs[2]]
    for label, figure in published.STAGES.items():
        names = [*(f"{figure}, {kind}" for kind in _TYPES), figure]
        for name, of in _ours(given, "stages", names).items():
            entries.append(Entry(f"{name}, {label}", None, of))
    return {
        "title": "Stages: intent and judgement",
        "text": f"{theirs[0]}. Ours: of what was refused plainly, in per cent.",
        "tables": [table(theirs[1], entries)],
        "missing": _no_stages(given),
    }


def _captions(given: Mapping[str, PaperInput]) -> dict[str, Any]:
    """Captions of what was refused plainly: right, misperceived, refused."""
    columns = [f"{figure}, {kind}" for figure in _CAPTIONS for kind in _TYPES]
    entries = [
        Entry("Claude 3 Opus (read off)", ("0", "~10", "0", "20", "~30", "0"), []),
        Entry("Gemini-Pro 1.5 (read off)", ("0", "~10", "0", "40", "~30", "0"), []),
    ]
    for name, of in _ours(given, "stages", columns).items():
        entries.append(Entry(name, None, of))
    return {
        "title": "Stages: perception",
        "text": "Captions of 10 refused requests of each type, in per cent. Misperceptions are "
        "told by a judge or by people, never by the rule.",
        "tables": [table(columns, entries)],
        "missing": _no_stages(given),
    }


def _no_stages(given: Mapping[str, PaperInput]) -> list[str]:
    there = any(one.of_task("mossbench", "stages") for one in given.values())
    return [] if there else [f"ours: {NOT_RUN} ({_RUN.format('stages')})"]


def _tradeoff(given: Mapping[str, PaperInput]) -> dict[str, Any]:
    """Refusals of benign requests against those of harmful ones, over models."""
    pairs: dict[str, tuple[ResultsJson, ResultsJson]] = {}
    missing = []
    for name, one in given.items():
        benign, harmful = (one.of_task(of, "paper") for of in (tradeoff.BENIGN, tradeoff.HARMFUL))
        if benign and harmful:
            pairs[name] = benign, harmful
        else:
            missing.append(f"{name}: no results of mossbench and mossbench_contrast by `paper`")
    rows = []
    for kind, theirs in (("all", "-"), *zip(_TYPES, ("0.19", "0.40", "0.47"), strict=True)):
        figure = "refusals" if kind == "all" else kind
        values = {
            name: [
                marked(figure_of(one["modes"]["strict"], figure) or _NONE, one, one["protocol"])
                for one in found
            ]
            for name, found in pairs.items()
        }
        known = [
            (x["value"], y["value"])
            for x, y in values.values()
            if x and y and None not in (x["value"], y["value"])
        ]
        rho = tradeoff.spearman([x for x, _ in known], [y for _, y in known])
        told = NOT_RUN if not known else "-" if rho is None else f"{rho:.2f}"
        for name, cells in values.items():
            rows.append([kind, theirs, told, name, *map(shown, cells)])
        if not values:
            rows.append([kind, theirs, told, "-", "-", "-"])
    columns = ["type", "the paper's rho", "rho, ours", "model"]
    return {
        "title": "Oversensitivity against safety",
        "text": "Spearman's rho over models between refusals of benign and of harmful requests; "
        'the paper\'s is read off. "-": fewer than three models, or all equal.',
        "tables": [{"columns": [*columns, "refused, benign", "refused, harmful"], "rows": rows}],
        "missing": missing,
    }
