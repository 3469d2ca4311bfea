# SPDX-License-Identifier: Apache-2.0
"""GQA (arXiv 1902.09506), balanced test-dev: 12,578 questions about scenes, answered in a word.

As published: testdev_balanced_questions.json, with `images/` beside it or above; and
lmms-lab/GQA's parquet, whose questions and images are files of their own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jaxvl.data import files
from jaxvl.data.example import BadRow, Dropped
from jaxvl.eval.benchmark import BenchmarkSpec, Item
from jaxvl.eval.scoring import figures, formats, marks, protocols
from jaxvl.eval.scoring.formats import Row

_OWN = "gqa"
_FILES = ("testdev_balanced_questions.json", "testdev_balanced_instructions/testdev*.parquet")
_IMAGES = "**/testdev_balanced_images/testdev*.parquet"


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    apart = _images(source)
    return formats.collect(source, _FILES, lambda row: [_item(row, protocol, apart)])


def _images(source: Path) -> dict[str, Any]:
    """The images that are in files of their own, by id."""
    found = sorted(source.glob(_IMAGES)) if source.is_dir() else []
    rows = (row for _, _, row in files.read(found))
    return {str(row["id"]): row["image"] for row in rows if not isinstance(row, BadRow)}


def _item(row: Row, protocol: str, apart: dict[str, Any]) -> Item:
    image = row.text("imageId")
    values = {**row.values, "image": apart.get(image, f"{image}.jpg")}
    types = row.get("types")
    kinds = types if isinstance(types, dict) else {}
    asked = f"{row.text('question')}\nAnswer the question using a single word or phrase."
    return Item(
        id=row.text("id"),
        gold=row.text("answer"),
        kind="text",
        groups={name: str(kinds[name]) for name in ("structural", "semantic") if kinds.get(name)},
        cluster=image,
        **protocols.asked(
            protocol, {_OWN: asked}, dataclasses.replace(row, values=values).picture("image")
        ),
    )


BENCHMARK = BenchmarkSpec(
    name="gqa",
    title="GQA, balanced test-dev",
    protocols=protocols.offered(gqa="the question, then the request for a single word or phrase"),
    read=read,
    mark=marks.by_kind,
    metrics={"accuracy": figures.accuracy},
)
