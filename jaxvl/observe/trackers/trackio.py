# SPDX-License-Identifier: Apache-2.0
"""Trackio, in its own database on this machine (TRACKIO_DIR says where)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from jaxvl.observe.trackers import Table, TrackedRun


def start(place: TrackedRun) -> tuple[Trackio, str]:
    """See `trackers.start`."""
    import trackio

    name = place.known or place.name
    run = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", "jaxvl"),
        name=name,
        config=dict(place.settings),
        resume="allow" if place.known else "never",
        embed=False,
    )
    return Trackio(run), run.name


class Trackio:
    """See `trackers.Tracker`."""

    def __init__(self, run: Any):
        self.run = run

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.run.log(dict(metrics), step=step)

    def show(self, step: int, table: Table) -> None:
        import pandas
        import trackio

        columns, rows = table.with_images(trackio.Image)
        frame = pandas.DataFrame(rows, columns=columns)
        self.run.log({"completions": trackio.Table(dataframe=frame)}, step=step)

    def close(self, failed: bool) -> None:
        self.run.finish()
