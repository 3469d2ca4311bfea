# SPDX-License-Identifier: Apache-2.0
"""Event files for TensorBoard, in the folder `tensorboard` of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxvl.observe.trackers import Table, TrackedRun

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


def start(place: TrackedRun) -> tuple[TensorBoard, str]:
    """See `trackers.start`."""
    from tensorboardX import SummaryWriter

    # TensorBoard takes later steps of the files that are there off its curves.
    purge = place.start + 1 if place.start else None
    writer = SummaryWriter(
        str(place.run_dir / "tensorboard"),
        purge_step=purge,
        flush_secs=10,
        filename_suffix=f".{place.start}",  # another file, however soon a run goes on
    )
    return TensorBoard(writer), ""


class TensorBoard:
    """See `trackers.Tracker`."""

    def __init__(self, writer: SummaryWriter):
        self.writer = writer

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def show(self, step: int, table: Table) -> None:
        from PIL import Image

        head, *rows = [
            "| " + " | ".join(_cell(x) for x in row) + " |" for row in (table.columns, *table.rows)
        ]
        rule = "|---" * len(table.columns) + "|"
        self.writer.add_text("completions", "\n".join([head, rule, *rows]), step)
        files = dict.fromkeys(file for row in table.images for file in row)
        for number, file in enumerate(files):
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB"))
            self.writer.add_image(f"images/{number}", pixels, step, dataformats="HWC")

    def close(self, failed: bool) -> None:
        self.writer.close()


def _cell(value: Any) -> str:
    """A value in a table of Markdown, in which nothing of it is markup."""
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace("\n", "<br>")
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-.!|~" else c for c in text)
