# SPDX-License-Identifier: Apache-2.0
"""Programs elsewhere that are told of a run's steps (`run.track`)."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jaxvl.errors import UserError

PACKAGES = {  # what each is a file here for, and the module that it needs
    "tensorboard": "tensorboardX",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
}


class Tracker(Protocol):
    """What is told of a run's steps. `observe.metrics.MetricsWriter`, which writes metrics.jsonl,
    is one of them, and the only one whose failure is the run's."""

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """The metrics of a step under their own names."""

    def show(self, step: int, table: Table) -> None:
        """Some of the step's completions."""

    def close(self, failed: bool) -> None:
        """The last word; `failed` where the run has not come to its end."""


class Table(NamedTuple):
    """Completions: rows of text and numbers under `columns`, and for each its prompt's images."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    images: Sequence[Sequence[Path]]

    def with_images(self, image: Callable[[str], Any]) -> tuple[list[str], list[list[Any]]]:
        """Columns and rows, with a last column of lists of what `image` makes of each file."""
        rows = [
            [*row, [image(str(file)) for file in files]]
            for row, files in zip(self.rows, self.images, strict=True)
        ]
        return [*self.columns, "images"], rows


class TrackedRun(NamedTuple):
    """A run as a tracker sees it. `start` is the step that it goes on after, 0 where it begins;
    `known` is what the tracker called it then ("": it has no name yet)."""

    run_dir: Path
    start: int
    settings: Mapping[str, Any]
    known: str

    @property
    def name(self) -> str:
        return self.run_dir.resolve().name


def check(names: Sequence[str]) -> None:
    """UserError where a tracker's package is missing, or one is named twice."""
    for name in names:
        if list(names).count(name) > 1:
            raise UserError(f"run.track names {name} more than once")
        if not importlib.util.find_spec(PACKAGES[name]):
            raise UserError(
                f"run.track has {name}, which needs the package {PACKAGES[name]}: "
                f"pip install {PACKAGES[name]}, or jaxvl[track] for all trackers"
            )


def start(name: str, place: TrackedRun) -> tuple[Tracker, str]:
    """A tracker that goes on with the run it knows, and what to call it by when it goes on again.
    No key is read or written: each package finds its own."""
    return importlib.import_module(f"jaxvl.observe.trackers.{name}").start(place)
