# SPDX-License-Identifier: Apache-2.0
"""What a caller in Python is told after every step."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl import arguments
from jaxvl.errors import UserError
from jaxvl.observe.browse import Rollouts, read
from jaxvl.observe.live import LiveChart

OnStep = Callable[[int, Mapping[str, Any], Sequence[Mapping[str, Any]]], Any]


class Callbacks:
    """Functions `on_step(step, metrics, rollouts)`, or objects with a method of that name.

    `metrics` is the step's line of metrics.jsonl, `rollouts` the lines of rollouts/step_N.jsonl (no
    line in a supervised run). They are called by process 0, when both are written. What one raises
    ends the run, whose last step is saved. An object may have a method `on_end()` too, which is
    called when the steps are over, whatever ended them. None is a live chart in a notebook, and
    else nothing.
    """

    def __init__(self, given: Sequence[Any] | None, run_dir: Path):
        if given is None:
            given = [LiveChart()] if "ipykernel" in sys.modules and LiveChart.possible() else []
        if callable(given) or not isinstance(given, (list, tuple)):
            raise UserError(f"callbacks: expected a list, found {arguments.found(given)}")
        self.run_dir, self.calls = run_dir, [_on_step(one) for one in given]
        self.ends = [one.on_end for one in given if hasattr(one, "on_end")]

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        if not self.calls:
            return
        rows, _ = read(Rollouts(self.run_dir).files().get(step, []))
        for call in self.calls:
            _call(call, step, metrics, rows)

    def close(self) -> None:
        """No step follows."""
        for end in self.ends:
            _call(end)


def _call(function: Callable[..., Any], *given: Any) -> None:
    try:
        function(*given)
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        raise UserError(
            f"the callback {getattr(function, '__qualname__', function)} raised "
            f"{type(error).__name__}: {error} ({where})"
        ) from error


def _on_step(given: Any) -> OnStep:
    call = getattr(given, "on_step", given)
    if not callable(call):
        raise UserError(
            "callbacks: expected functions on_step(step, metrics, rollouts), or objects with a "
            f"method of that name; found {arguments.found(given)}"
        )
    return call


def expect(cfg: Any, kind: type, called: str) -> None:
    """UserError where a run is called with something else than its config."""
    if not isinstance(cfg, kind):
        raise UserError(
            f"{called}: expected a jaxvl.{kind.__name__}, found {arguments.found(cfg)} "
            "(jaxvl.train takes a Config, jaxvl.sft an SFTConfig; jaxvl.config.load reads a file)"
        )
