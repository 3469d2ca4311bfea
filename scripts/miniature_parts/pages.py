# SPDX-License-Identifier: Apache-2.0
"""A page that links the page of every run, by arm and seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from miniature_parts.arms import PARTS, TITLES, Arm, Sizes
from miniature_parts.runs import Place

FILE = "index.html"
STYLE = "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
STYLE += "td,th{text-align:left;padding:.2em .8em;vertical-align:top;border-top:1px solid #ccc}"


def write(out: Path, sizes: Sizes) -> None:
    """`out`/index.html of all seeds that are in `out`; left alone where nothing has changed."""
    seeds = sorted(
        int(folder.name[4:]) for folder in out.glob("seed*") if folder.name[4:].isdigit()
    )
    text = "\n".join(_lines([Place(out, seed, sizes) for seed in seeds]))
    file = out / FILE
    if not file.exists() or file.read_text() != text:
        file.write_text(text)


def _lines(places: Sequence[Place]) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield f"<title>Runs of the miniature</title><style>{STYLE}</style></head><body>"
    yield "<h1>Runs of the miniature</h1>"
    yield "<p>The page of every run that has one, by arm and seed. A model that goes through"
    yield "several stages has a run for each.</p>"
    for part, arms_of in PARTS.items():
        rows = [_row(places, arm) for arm in arms_of(places[0].sizes)] if places else []
        if any("<a " in row for row in rows):
            yield f"<h2>{escape(f'{part}. {TITLES[part]}')}</h2>"
            seeds = "".join(f'<th scope="col">seed {place.seed}</th>' for place in places)
            yield f'<table><tr><th scope="col">arm</th>{seeds}</tr>'
            yield from rows
            yield "</table>"
    yield "</body></html>"


def _row(places: Sequence[Place], arm: Arm) -> str:
    cells = "".join(f"<td>{_links(place, arm)}</td>" for place in places)
    return f'<tr><th scope="row">{escape(arm.name)}</th>{cells}</tr>'


def _links(place: Place, arm: Arm) -> str:
    found = []
    for n, stage in enumerate(arm.stages, 1):
        page = place.run(arm.stages[:n]) / "report.html"
        if page.exists():
            where = quote(page.relative_to(place.out).as_posix())
            found.append(f'<a href="{where}">{escape(f"{stage.kind} {stage.how}")}</a>')
    return "<br>".join(found)
