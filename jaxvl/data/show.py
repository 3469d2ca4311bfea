# SPDX-License-Identifier: Apache-2.0
"""`jaxvl data show`: a prepared set as a table on the console and as a page of samples.

The page is one file that opens offline. What a dataset says is escaped, and the page's own policy
forbids scripts and the net.
"""

from __future__ import annotations

import base64
import io
import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data.example import BadRow, Example
from jaxvl.data.files import sha256
from jaxvl.data.image import load_image
from jaxvl.data.prepare import read_manifest
from jaxvl.data.prepared import Prepared

_TEMPLATE = Path(__file__).with_suffix(".html")
_MEASURED = 500  # examples, evenly spaced, whose images and texts are measured
_SIDE = 384  # pixels, of an image on the page
_LISTED = 20  # rows a reason on the page

StatsTable = tuple[str, list[tuple[str, str]]]  # a title and its rows


def tables(folder: str | Path) -> list[StatsTable]:
    """What a prepared set holds, what was left out and whether its files are whole."""
    manifest = read_manifest(folder)
    examples = Prepared(str(folder)).load()
    shards = manifest["shards"]
    damaged = [s["file"] for s in shards if sha256(Path(folder, s["file"])) != s["sha256"]]
    size = sum(shard["bytes"] for shard in shards)
    account = [
        ("name", manifest["name"]),
        ("made from", manifest["source"].get("path", "")),
        ("rows in", f"{manifest['rows_in']:,}"),
        ("rows out", f"{manifest['rows_out']:,}"),
        ("shards", f"{len(shards)}, {size / 2**20:,.1f} MiB"),
        ("checksums", f"wrong in {', '.join(damaged)}" if damaged else "as in the manifest"),
    ]
    if manifest["test_data"]:
        account.append(("test data", f"{', '.join(manifest['test_data'])}: for trials only"))
    left_out = [
        (reason, f"{found['count']:,}" + (" (by setting)" if found["setting"] else ""))
        for reason, found in manifest["dropped"].items()
    ]
    by_task = [(task, f"{count:,}") for task, count in manifest["tasks"].items()]
    found = [("Prepared set", account), ("Rows left out", left_out), ("Examples by task", by_task)]
    found.append(_measured(examples))
    return [table for table in found if table[1]]


def _measured(examples: Sequence[Example]) -> StatsTable:
    """Spread of images and texts over some of the examples."""
    some = [examples[i] for i in spaced(len(examples), _MEASURED)]
    pictures = [load_image(image).size for example in some for image in example.images]
    counts = Counter(len(example.images) for example in some)
    answers = Counter(example.answer for example in some)
    rows = [
        ("images an example", ", ".join(f"{n}: {c}" for n, c in sorted(counts.items()))),
        ("image width", _spread([width for width, _ in pictures])),
        ("image height", _spread([height for _, height in pictures])),
        ("question, words", _spread([len(example.question.split()) for example in some])),
        ("choices", _spread([len(example.choices) for example in some])),
        ("commonest answers", ", ".join(f"{a!r:.30} {c}" for a, c in answers.most_common(5))),
    ]
    return f"Measured on {len(some):,} examples", [row for row in rows if row[1]]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{min(values)} to {max(values)}, median {statistics.median(values):g}"


def spaced(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of `count` places, evenly spaced."""
    taken = min(count, wanted)
    return [place * count // taken for place in range(taken)]


def write_page(
    folder: str | Path, file: str | Path, render: Callable[[Example], str], samples: int = 24
) -> Path:
    """The page of a prepared set: its tables, some examples with their images and the prompt that
    `render` makes of each, and the rows that were left out."""
    import jinja2

    manifest = read_manifest(folder)
    examples = Prepared(str(folder)).load()
    page = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(_TEMPLATE.read_text(encoding="utf-8"))
    dropped = [
        {"reason": reason, **found, "rows": found["rows"][:_LISTED]}
        for reason, found in manifest["dropped"].items()
    ]
    html = page.render(
        name=manifest["name"],
        tables=tables(folder),
        samples=[_sample(examples[i], render) for i in spaced(len(examples), samples)],
        total=len(examples),
        dropped=dropped,
    )
    file = Path(file)
    file.write_text(html, encoding="utf-8", errors="replace")
    return file


def _sample(example: Example, render: Callable[[Example], str]) -> dict[str, Any]:
    letters = [chr(ord("A") + place) for place in range(len(example.choices))]
    gold = example.answer.strip("()").upper()
    return {
        "id": example.id,
        "task": example.task,
        "images": [picture(image) for image in example.images],
        "question": example.question,
        "choices": [
            (choice, example.answer == choice.strip() or gold == letter)
            for choice, letter in zip(example.choices, letters, strict=True)
        ],
        "answer": example.answer,
        "columns": json.dumps(dict(example.columns), indent=1, ensure_ascii=False),
        "prompt": render(example),
    }


def picture(data: Any) -> dict[str, str]:
    """An image as a small data URI with its true size, or what is wrong with it."""
    try:
        image = load_image(data)
    except BadRow as why:
        return {"size": str(why), "uri": ""}
    size = f"{image.width} x {image.height}"
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=88)
    uri = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return {"size": size, "uri": uri}
