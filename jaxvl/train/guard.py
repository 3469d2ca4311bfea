# SPDX-License-Identifier: Apache-2.0
"""What a run's updates come to: those that were skipped, and gradients much larger than usual."""

from __future__ import annotations

import dataclasses
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

WINDOW = 50  # updates of whose gradient norms the median is taken
FEWEST = 3  # below which there is no median


@dataclasses.dataclass(frozen=True)
class Event:
    """What a person has to know of an update."""

    update: int  # its number in the step, from 0
    text: str
    last: bool = False  # the run ends here


class Guard:
    """Sees every update of a run, in order. `max_skipped` in a row are the last; a gradient norm
    above `norm_warn` times the running median is told (None: none is)."""

    def __init__(self, max_skipped: int, norm_warn: float | None):
        self.max_skipped, self.norm_warn = max_skipped, norm_warn
        self.skipped = 0  # in the whole run
        self.row = 0  # up to now, one after the other
        self.norms: deque[float] = deque(maxlen=WINDOW)

    def see(self, stats: Sequence[Mapping[str, Any]]) -> list[Event]:
        """What there is to tell of a step's updates, from their stats."""
        events = []
        for number, of in enumerate(stats):
            norm = float(of["grad_norm"])
            if of["skipped"]:
                self.skipped += 1
                self.row += 1
                found = f"loss {float(of['loss']):.4g}, gradient norm {norm:.4g}"
                text = f"an update was skipped, the {_nth(self.row)} in a row ({found})"
                events.append(Event(number, text, self.row == self.max_skipped))
                continue
            self.row = 0
            usual = statistics.median(self.norms) if len(self.norms) >= FEWEST else None
            if self.norm_warn and usual and norm > self.norm_warn * usual:
                text = f"gradient norm {norm:.4g} is {norm / usual:.3g} times its running median"
                events.append(Event(number, f"{text} {usual:.4g}"))
            if norm > 0:  # 0: there was nothing to learn
                self.norms.append(norm)
        return events

    def get_state(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "row": self.row, "norms": list(self.norms)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.skipped, self.row = state.get("skipped", 0), state.get("row", 0)
        self.norms = deque(state.get("norms", ()), maxlen=WINDOW)


def _nth(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
