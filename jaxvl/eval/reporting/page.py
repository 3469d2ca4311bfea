# SPDX-License-Identifier: Apache-2.0
"""The page of an evaluation: tables, charts, and items with their images, replies and verdicts.

One file that opens offline, without scripts. What models and datasets say is escaped, and the
page's own policy forbids scripts and the net.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data.show import picture, spaced
from jaxvl.errors import UserError
from jaxvl.eval.benchmark import Item
from jaxvl.eval.engines import predictions
from jaxvl.eval.reporting import report
from jaxvl.eval.reporting.report import ResultsJson
from jaxvl.eval.scoring.score import read_scores
from jaxvl.eval.tasks import reopen
from jaxvl.observe import charts
from jaxvl.observe.charts import BarChart, bar_chart

_TEMPLATE = Path(__file__).with_suffix(".html")
_BARS = 14  # of a breakdown; longer ones are in the table alone


def render(
    results: Path,
    found: Sequence[ResultsJson],
    sources: Mapping[str, str],
    paper: bool = False,
    items: int = 40,
) -> str:
    """The page of all benchmarks in `results`, with up to `items` items of each."""
    import jinja2

    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(_TEMPLATE.name)
    return page.render(
        name=results.resolve().name,
        model=", ".join(dict.fromkeys(one["settings"]["model"] for one in found)),
        notes=report.notes(found, paper),
        overview=report.overview(found),
        chart=_overview_chart(found),
        box=charts,
        tasks=[
            {
                "name": one["task"],
                "heading": report.heading(one),
                "partial": one["partial"],
                "tables": list(report.details(one, paper)),
                "charts": list(_charts(one)),
                "items": _items(results / one["task"], sources.get(one["task"], ""), items),
                "total": one["replies"],
            }
            for one in found
        ],
    )


def _overview_chart(found: Sequence[ResultsJson]) -> BarChart | None:
    rows = []
    for one in found:
        name, value = report.headline(one, "lenient")
        label = f"{one['task']}: {name}" if name != "accuracy" else one["task"]
        rows += _row(label, value, one["chance"])
    return bar_chart("Lenient, with 95% intervals; the mark is chance", rows, top=1.0)


def _row(label: str, value: Mapping[str, Any], mark: float | None = None) -> list[charts.BarRow]:
    if value["value"] is None:
        return []
    known = value["low"] is not None and value["high"] is not None
    return [(label, value["value"], (value["low"], value["high"]) if known else None, mark)]


def _charts(one: ResultsJson) -> Iterator[BarChart]:
    """Bars of every breakdown, of letters and of tenths by length."""
    drawn = []
    for name, groups in one["modes"]["lenient"]["groups"].items():
        if 1 < len(groups) <= _BARS:
            rows = [row for group, value in groups.items() for row in _row(group, value)]
            drawn.append(bar_chart(f"Lenient by {name}", rows, top=1.0))
    said = one["letters"]
    if said:
        rows = [(letter, of["said"], None, of["right"]) for letter, of in said.items()]
        top = max(max(of.values()) for of in said.values())
        drawn.append(bar_chart("Letters said; the mark is how often it is right", rows, top=top))
    tenths = one["length"].get("tenths", [])
    if len(tenths) > 1:
        rows = [(report.span(of), of["accuracy"], None, None) for of in tenths]
        drawn.append(
            bar_chart("Lenient by length in tokens, in tenths of the replies", rows, top=1.0)
        )
    yield from (chart for chart in drawn if chart)


def _items(folder: Path, source: str, wanted: int) -> list[dict[str, Any]]:
    """Some replies, evenly spaced, each with its item where the benchmark's files are there."""
    scores = read_scores(folder)
    lines, _ = predictions.read(folder)
    try:
        known: dict[str, Item] = {
            item.id: item for item in reopen(predictions.read_settings(folder), source).items
        }
        missing = ""
    except (UserError, OSError) as error:
        known, missing = {}, f"its picture is not here: {error}"
    return [
        _shown(scores[at], lines.get((scores[at]["id"], scores[at]["sample"])), known, missing)
        for at in spaced(len(scores), wanted)
    ]


def _shown(
    row: Mapping[str, Any], line: Mapping[str, Any] | None, known: Mapping[str, Item], missing: str
) -> dict[str, Any]:
    item, mark = known.get(row["id"]), row["lenient"]
    right = (mark["value"] or 0.0) >= 0.5
    return {
        "id": row["id"],
        "sample": row["sample"],
        "groups": row["groups"],
        "images": [picture(image) for image in item.images] if item else [],
        "missing": missing,
        "gold": item.gold if item else "",
        "choices": item.choices if item else (),
        "prompt": line["prompt"] if line else "",
        "reply": line["text"] if line else "(the reply is gone)",
        "tokens": row["tokens"],
        "finish_reason": row["finish_reason"],
        "marks": {name: of for name, of in row.items() if isinstance(of, dict) and "reason" in of},
        "kind": "right" if right else "wrong" if mark["canonical"] else "unread",
    }
