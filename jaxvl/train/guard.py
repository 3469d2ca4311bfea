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
    above `norm_warn` times the running median is told (None: none is), and so is a loss above
    `loss_warn` times its own."""

    def __init__(self, max_skipped: int, norm_warn: float | None, loss_warn: float | None = None):
        self.max_skipped = max_skipped
        self.warn = {"gradient norm": norm_warn, "loss": loss_warn}
        self.skipped = 0  # in the whole run
        self.row = 0  # up to now, one after the other
        self.seen: dict[str, deque[float]] = {name: deque(maxlen=WINDOW) for name in self.warn}
        self.made = self.learnt = 0  # updates, and those among them that had something to learn

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
            self.made += 1
            self.learnt += norm > 0
            for name, value in (("gradient norm", norm), ("loss", float(of["loss"]))):
                seen, limit = self.seen[name], self.warn[name]
                usual = statistics.median(seen) if len(seen) >= FEWEST else None
                if limit and usual and value > limit * usual:
                    text = f"{name} {value:.4g} is {value / usual:.3g} times its running median"
                    events.append(Event(number, f"{text} {usual:.4g}"))
                if value > 0:  # 0: there was nothing to learn
                    seen.append(value)
        return events

    def verdict(self) -> str:
        """What a person has to know of the whole run when it ends; "" if nothing."""
        if not self.made or self.learnt:
            return ""
        return (
            f"warning: none of the run's {self.made} updates had anything to learn from (each "
            "gradient was 0), so the model is what it was: all completions were masked (cut off "
            "ones are, by grpo.mask_truncated_completions: raise sampling.max_new_tokens), or the "
            "rewards of every group were equal"
        )

    def get_state(self) -> dict[str, Any]:
        counts = {"skipped": self.skipped, "row": self.row}
        return counts | {
            "made": self.made,
            "learnt": self.learnt,
            "norms": list(self.seen["gradient norm"]),
            "losses": list(self.seen["loss"]),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.skipped, self.row = state.get("skipped", 0), state.get("row", 0)
        self.made, self.learnt = state.get("made", 0), state.get("learnt", 0)
        for name, kept in (("gradient norm", "norms"), ("loss", "losses")):
            self.seen[name] = deque(state.get(kept, ()), maxlen=WINDOW)


def _nth(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
