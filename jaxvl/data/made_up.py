# SPDX-License-Identifier: Apache-2.0
"""Made-up data to measure with: images as hard to decode as photographs, in a prepared set."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxvl.data.prepare import prepare
from jaxvl.data.prepared import Prepared
from jaxvl.data.tasks.records import Records


def photo(rng: np.random.Generator, side: int) -> bytes:
    """A square JPEG with detail at all scales, quality 90."""
    pixels = np.zeros((side, side, 3))
    for step in (1, 2, 4, 8, 16, 32, 64):
        count = -(-side // step)
        cells = rng.normal(size=(count, count, 3)) * step**0.7
        pixels += cells.repeat(step, 0).repeat(step, 1)[:side, :side]
    pixels = (pixels - pixels.min()) / np.ptp(pixels) * 255
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def prepared(folder: Path, rows: Sequence[Mapping[str, Any]], side: int, photos: int) -> Prepared:
    """A prepared set in the empty `folder`: rows in `Records`' fields, each with one of so many
    photos of `side` x `side` pixels."""
    rng = np.random.default_rng(0)
    for number in range(photos):
        (folder / f"{number}.jpg").write_bytes(photo(rng, side))
    lines = [
        json.dumps({**row, "image": f"{number % photos}.jpg"}) for number, row in enumerate(rows)
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    with contextlib.redirect_stdout(io.StringIO()):
        prepare("made-up", Records(str(folder / "rows.jsonl")), folder / "set")
    return Prepared(str(folder / "set"))
