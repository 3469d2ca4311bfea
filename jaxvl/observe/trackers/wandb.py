# SPDX-License-Identifier: Apache-2.0
"""Weights & Biases. WANDB_PROJECT, WANDB_MODE and the key are read by its own package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from jaxvl.observe.trackers import Table, TrackedRun


def start(place: TrackedRun) -> tuple[Wandb, str]:
    """See `trackers.start`."""
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "jaxvl"),
        name=place.name,
        id=place.known or None,
        resume="allow" if place.known else None,
        dir=str(place.run_dir),
        config=dict(place.settings),
        settings=wandb.Settings(console="off", login_timeout=30, silent=True),
    )
    return Wandb(run), run.id


class Wandb:
    """See `trackers.Tracker`."""

    def __init__(self, run: Any):
        self.run = run

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.run.log(dict(metrics), step=step)

    def show(self, step: int, table: Table) -> None:
        import wandb

        columns, rows = table.with_images(wandb.Image)
        self.run.log({"completions": wandb.Table(columns=columns, data=rows)}, step=step)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))
