# SPDX-License-Identifier: Apache-2.0
"""What surrounds the steps of a run, whatever a step is: their order, their trace, what people are
told of them, what is saved, and where they end."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax

from jaxvl.checkpoints.store import Checkpoints, Whole
from jaxvl.config import Config, Run, SFTConfig
from jaxvl.distributed.preemption import PreemptionHandler, Stopped
from jaxvl.observe.journal import Journal
from jaxvl.observe.metrics import Progress
from jaxvl.observe.timing import traced
from jaxvl.train import failed
from jaxvl.train.callbacks import Callbacks
from jaxvl.train.guard import Guard
from jaxvl.train.setup import journal

TRIM_EVERY = 20  # steps


@contextlib.contextmanager
def steps_after(
    whole: Whole,
    cfg: Config | SFTConfig,
    guard: Guard,
    checkpoints: Checkpoints,
    stop: PreemptionHandler,
    callbacks: Callbacks,
) -> Iterator[Steps]:
    """The steps after that of `whole` to the last. At the end all is saved, and what `guard` has
    to say of the whole run is said."""
    run, start = cfg.run, whole.step
    numbers = traced(range(start + 1, run.steps + 1), cfg.profile, Path(run.dir))
    with (
        journal(cfg, start) as notes,
        Progress(run.steps, start) as progress,
        contextlib.closing(callbacks),
        contextlib.closing(numbers),
    ):
        if start < run.steps:
            progress.console.print("the first step compiles, which may take minutes")
        yield Steps(numbers, whole, run, checkpoints, stop, notes, progress, callbacks)
        if jax.process_index() == 0 and (verdict := guard.verdict()):
            progress.console.print(verdict, style="yellow")
    checkpoints.close()
    stop.release()  # what follows is made again, whenever it is cut short
    if number := stop.asked():  # in the last step
        stopped(number, whole)


@dataclasses.dataclass(frozen=True)
class Steps:
    """The numbers of the steps that are to be done, in order.

    For each, `saved` is around all of it and `done` its end. Iterating raises `Stopped` where a
    signal asked for that, once what there is is saved.
    """

    numbers: Iterator[int]
    whole: Whole
    run: Run
    checkpoints: Checkpoints
    stop: PreemptionHandler
    journal: Journal
    progress: Progress
    callbacks: Callbacks

    def __iter__(self) -> Iterator[int]:
        for step in self.numbers:
            self.checkpoints.check()
            if number := self.stop.asked():
                self.checkpoints.finish(self.whole)
                stopped(number, self.whole)
            yield step

    def saved(self, step: int) -> contextlib.AbstractContextManager[None]:
        """What ends the step leaves the last whole state in a checkpoint: see `failed.saved`."""
        return failed.saved(step, self.whole, self.checkpoints, Path(self.run.dir))

    def done(self, step: int, metrics: Mapping[str, Any], warnings: Sequence[str]) -> None:
        """Its line is written, shown and handed on; where it is time its state is saved."""
        if jax.process_index() == 0:
            told = self.journal.write(step, metrics)
            self.progress.update(step, metrics)
            for warning in [*told, *warnings]:
                self.progress.console.print(warning, style="yellow")
            self.callbacks(step, metrics)
        if step % self.run.save_every == 0 or step == self.run.steps:
            self.checkpoints.keep(self.whole)
        if step % TRIM_EVERY == 0:
            trim()


def stopped(number: int, whole: Whole) -> NoReturn:
    """End a run that a signal asked to stop, whose state is saved."""
    if jax.process_index() == 0:
        print(f"step {whole.step} is saved; the same command goes on from there", file=sys.stderr)
    raise Stopped(number)


def trim() -> None:
    """What malloc holds and nobody uses goes back to the system, where it is glibc's.

    Threads that allocate in turns leave holes in malloc's arenas, and a long run's resident memory
    grows by them though what it uses does not.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library's
        ctypes.CDLL(None).malloc_trim(0)
