# SPDX-License-Identifier: Apache-2.0
"""`jaxvl report --paper`: a paper's figures and tables from runs and results, ours beside theirs.

One file that opens offline. What is missing stands by name where it would be, and no chart is
empty. What models wrote is escaped, and the page's own policy forbids other scripts and the net.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data.files import replace
from jaxvl.errors import UserError
from jaxvl.eval.papers import curves, given, mossbench, tables, visualthinker, vlaa
from jaxvl.eval.papers.given import PaperInput
from jaxvl.observe import browse
from jaxvl.observe import charts as charts_of_bars
from jaxvl.observe.report import BROKEN, NOT_AS_WRITTEN, render

_HERE = Path(__file__).parent
_OBSERVE = _HERE.parents[1] / "observe/page"
_TEMPLATES = (_HERE / "page.html", _HERE.parent / "reporting/bars.html")
_SCRIPTS = (
    *(_OBSERVE / name for name in ("vendor/uplot/uPlot.iife.min.js", "base.js", "curves.js")),
    _HERE / "page.js",
)
_STYLES = (
    *(_OBSERVE / name for name in ("vendor/uplot/uPlot.min.css", "page.css")),
    _HERE / "page.css",
)
_LONGEST = 4000  # characters of an example
_NOTHING: dict[str, Any] = {"charts": [], "bars": [], "tables": [], "examples": [], "missing": []}


@dataclasses.dataclass(frozen=True)
class Paper:
    """What the page of a paper has: figures, tables, examples, and sections of its own making.
    Where any name is a model's, `unused` says what was given and stands nowhere."""

    title: str
    names: tuple[str, ...]
    own: Callable[[Mapping[str, PaperInput]], list[dict[str, Any]]]
    figures: tuple[curves.Figure, ...] = ()
    tables: tuple[tables.Beside, ...] = ()
    examples: tuple[tuple[str, tuple[str, ...], str], ...] = ()
    unused: Callable[[Mapping[str, PaperInput]], list[str]] | None = None


PAPERS = {
    "visualthinker": Paper(
        "VisualThinker-R1-Zero (arXiv 2503.05132)",
        visualthinker.NAMES,
        visualthinker.sections,
        visualthinker.FIGURES,
        visualthinker.TABLES,
        visualthinker.EXAMPLES,
    ),
    "vlaa": Paper(
        "VLAA-Thinking (arXiv 2504.11468)", vlaa.NAMES, vlaa.sections, vlaa.FIGURES, vlaa.TABLES
    ),
    "mossbench": Paper(
        "MOSSBench (arXiv 2406.17806)", mossbench.NAMES, mossbench.sections, unused=mossbench.unused
    ),
}


def write(paper: str, words: Sequence[str | Path], out: Path | None = None) -> tuple[Path, list]:
    """Write the page of a paper from `DIR` and `NAME=DIR` words (see `given.read`) to `out`, by
    default PAPER.html here. Returns its path and what there is to say of what was given."""
    if paper not in PAPERS:
        raise UserError(f"--paper {paper}: expected one of {', '.join(PAPERS)}")
    found, path = given.read(words), out or Path(f"{paper}.html")
    notes = [note for one in found.values() for note in one.notes]
    if unused := PAPERS[paper].unused:
        notes += unused(found)
    else:
        notes = given.check_names(found, PAPERS[paper].names) + notes
    try:
        notes += [f"{one.name}: {note}" for one in found.values() for note in one.curves["notes"]]
        text = _page(PAPERS[paper], found, notes)
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{', '.join(map(str, words))}: {NOT_AS_WRITTEN} ({error})") from error
    try:
        replace(path, text.encode(errors="replace"))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error})") from None
    return path, notes


def _page(paper: Paper, found: Mapping[str, PaperInput], notes: Sequence[str]) -> str:
    sections = [curves.draw(one, found, paper.names) for one in paper.figures]
    sections += [_example(title, names, kind, found) for title, names, kind in paper.examples]
    sections += [tables.section(one, found, paper.names) for one in paper.tables]
    sections = [_NOTHING | one for one in [*sections, *paper.own(found)]]
    for one in sections:
        one["tables"] = [{"ours": [], **table} for table in one["tables"]]
    charts: list[dict[str, Any]] = []
    for one in sections:
        one["at"] = range(len(charts), len(charts) + len(one["charts"]))
        charts += one["charts"]
    pieces = render(
        _TEMPLATES,
        _SCRIPTS,
        _STYLES,
        {"charts": charts},
        title=paper.title,
        box=charts_of_bars,
        about="Figures and tables of the paper as they are printed, with ours beside them.",
        notes=notes,
        given=[_row(one) for one in found.values()],
        sections=sections,
    )
    return "".join(pieces)


def _row(one: PaperInput) -> list[str]:
    """What was given under a name."""
    steps = str(one.curves["last"]) if one.run else "-"
    results = ", ".join(f"{task} ({protocol})" for task, protocol in one.results)
    return [one.name, str(one.run or "-"), steps, results or "-"]


def _example(
    title: str, names: Sequence[str], kind: str, found: Mapping[str, PaperInput]
) -> dict[str, Any]:
    """The shortest or the longest completion of the last step with rollouts."""
    run = next((found[name] for name in names if name in found and found[name].run), None)
    section = {"title": title, "text": f"The {kind}est completion of the run's last rollouts."}
    if run is None or run.run is None:
        return section | {"missing": [f"{names[0]}: {curves.why_no_run(names, found)}"]}
    rollouts = browse.Rollouts(run.run)
    files = rollouts.files()
    lines = browse.read(files[max(files)])[0] if files else []
    texts = [
        (browse.text_of(line.get("prompt")), browse.text_of(one.get("text")))
        for line in lines
        for one in line.get("completions") or []
    ]
    if not texts:
        return section | {"missing": [f"{run.run} has no rollouts"]}
    pick = min if kind == "short" else max
    prompt, text = pick(texts, key=lambda pair: len(pair[1]))
    return section | {"examples": [f"{prompt[-_LONGEST:]}\n---\n{text[:_LONGEST]}"]}
