# SPDX-License-Identifier: Apache-2.0
"""Seconds of a step by part, and traces of the steps that are asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import jax

from jaxvl.config import Profile


def traced(steps: Iterable[int], profile: Profile, run_dir: Path) -> Generator[int, None, None]:
    """`steps`; what is done in those that `profile` names is traced, on process 0."""
    wanted = profile.span() if jax.process_index() == 0 else range(0)
    tracing = False
    for step in steps:
        if step in wanted and not tracing:
            jax.profiler.start_trace(run_dir / "profile")
            tracing = True
        try:
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                yield step
        finally:  # also where a run is asked to stop
            if tracing and (step == wanted[-1] or sys.exc_info()[0]):
                jax.profiler.stop_trace()
                tracing = False


class Clock:
    """Seconds of a step by part: of the host, so that what the device does while the host does
    something else is no part's."""

    def __init__(self):
        self.start = self.last = time.perf_counter()
        self.parts: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """What has passed since the last lap was `part`."""
        now = time.perf_counter()
        name = f"time/{part}"
        self.parts[name] = self.parts.get(name, 0.0) + now - self.last
        self.last = now

    def metrics(self, tokens: int, *compiled: Any) -> dict[str, float]:
        """Times, speed in `tokens`, and how many programs the jitted functions have been called
        as, each of which was compiled for that or taken from jax's cache."""
        total = time.perf_counter() - self.start
        return self.parts | {
            "time/total": total,
            "step_time": total,
            "perf/tokens_per_s": tokens / total,
            "perf/compiles": sum(function._cache_size() for function in compiled),
        }
