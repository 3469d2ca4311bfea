# SPDX-License-Identifier: Apache-2.0
"""How a run goes on in a directory that holds it: from where, with what left as it was.

Nothing is deleted that a resume could want: what lies beyond the checkpoint that the run goes on
from are done again, and where more is left behind than a run that was killed leaves, all of it is
moved to `set_aside/`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import jax

from jaxvl.checkpoints import record
from jaxvl.checkpoints.folders import complete, folders, steps_at
from jaxvl.checkpoints.start import FINISHED, of_run
from jaxvl.checkpoints.store import Checkpoints, Restored
from jaxvl.config import Config, SFTConfig
from jaxvl.distributed import multihost
from jaxvl.errors import UserError
from jaxvl.models.io.find import EXPORT
from jaxvl.observe.metrics import FILE, MetricsWriter, read_metrics
from jaxvl.train import settings
from jaxvl.train.benchmarks import BEST
from jaxvl.train.prompts import DROPPED, drops
from jaxvl.vlm import VLM

SET_ASIDE = "set_aside"


def check(cfg: Config | SFTConfig) -> None:
    """UserError where `run.dir` holds a run that this one must not go on with. Process 0's part."""
    run_dir = Path(cfg.run.dir)
    _check_names(run_dir)
    whole, torn = steps_at(run_dir / "checkpoints")
    if (step := cfg.run.restore_step) not in (None, *whole):
        there = (
            f"it has {', '.join(map(str, whole))}: take one of these" if whole else "it has none"
        )
        raise UserError(
            f"run.restore_step = {step}: {run_dir / 'checkpoints'} holds no whole checkpoint of "
            f"that step; {there}, or leave the field out"
        )
    links = [one for one in folders(run_dir / "checkpoints") if one.is_symlink()]
    if links:
        raise UserError(
            f"{links[0]} is a link, which a run cannot delete when its turn comes (run.keep): move "
            "the checkpoint back or the link away. `checkpoints` itself may be a link"
        )
    begun = record.newest(run_dir) or (run_dir / FILE).exists() or later_rollouts(run_dir, 0)
    if not begun and not whole and not torn:
        return
    if cfg.run.resume in ("never", False):
        raise UserError(
            f"{run_dir} holds a run already: go on with run.resume=auto, or choose another run.dir"
        )
    for line in settings.check(cfg):
        print(f"run: {line}", flush=True)
    if settings.read(run_dir) is None:
        print(f"run: no {settings.FILE} in {run_dir}: settings are not compared", flush=True)
    if not whole:
        _check_not_lost(cfg, run_dir, torn)


def _check_names(run_dir: Path) -> None:
    """UserError where the run has a folder and something else stands there, or a file."""
    exports = (EXPORT, "adapter", BEST)  # these may be links to what is not there yet
    for name in ("rollouts", SET_ASIDE, "failed", *exports):
        there = (run_dir / name).exists() if name in exports else os.path.lexists(run_dir / name)
        if there and not (run_dir / name).is_dir():
            raise UserError(f"{run_dir / name} is no folder, and a run has one there: move it away")
    for name in (FILE, settings.FILE, settings.HISTORY, record.FILE, FINISHED, DROPPED):
        if (run_dir / name).exists() and not (run_dir / name).is_file():
            raise UserError(f"{run_dir / name} is no file, and a run has one there: move it away")


def _check_not_lost(cfg: Config | SFTConfig, run_dir: Path, torn: list[int]) -> None:
    """UserError where a checkpoint was written and none is there, as the record says or, of a run
    of a time without, metrics that go beyond a save."""
    noted = record.newest(run_dir)
    if noted and noted not in torn:
        raise UserError(_lost(run_dir, f"{record.FILE} says that step {noted} was saved"))
    last = _last_step(run_dir)
    every = _save_every(cfg)
    if (run_dir / FINISHED).exists() or not (run_dir / "checkpoints").is_dir():
        every = 0  # a run that has ended, or was stopped, has saved; any has made the folder
    # A save that was cut short leaves its folder, and the next one waits for it to be whole.
    if last > (2 * every if torn else every):
        raise UserError(_lost(run_dir, f"{FILE} says step {last}"))


def _lost(run_dir: Path, said: str) -> str:
    return (
        f"{run_dir}: {said}, but {run_dir / 'checkpoints'} holds no whole checkpoint, where one "
        "should be: is a disk not mounted? Bring them back, or choose another run.dir"
    )


def outlook(cfg: Config | SFTConfig) -> str:
    """What a run started now would do, in words."""
    whole, _ = steps_at(Path(cfg.run.dir) / "checkpoints")
    if whole:
        return f"goes on after step {cfg.run.restore_step or whole[0]} of {cfg.run.steps}"
    return f"begins, {cfg.run.steps} steps"


def finished(cfg: Config | SFTConfig) -> int:
    """After how many steps the run in `run.dir` has ended already; 0 where it has not. All
    processes call it."""
    mark: Any = None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        mark = json.loads((Path(cfg.run.dir) / FINISHED).read_bytes())
    steps = mark.get("steps") if isinstance(mark, dict) else None
    whole, _ = steps_at(Path(cfg.run.dir) / "checkpoints")
    done = isinstance(steps, int) and max(whole, default=0) >= steps >= cfg.run.steps
    done = done and cfg.run.restore_step is None
    return multihost.all_gather_object(steps if done else 0)[0]


def of_finished(cfg: Config | SFTConfig, steps: int) -> VLM:
    """The model of a run that has ended already, which is said. UserError where its newest
    checkpoint is damaged."""
    vlm = of_run(Path(cfg.run.dir))
    if jax.process_index() == 0:
        print(
            f"run: {cfg.run.dir} holds this run, finished after {steps} steps: nothing to do; "
            "raise run.steps to go on, or choose another run.dir",
            flush=True,
        )
    return vlm


def finish(cfg: Config | SFTConfig) -> None:
    """The run has come to its end: it and its export are there."""
    text = json.dumps({"steps": cfg.run.steps})
    (Path(cfg.run.dir) / FINISHED).write_text(text + "\n", encoding="utf-8")


def go_on(cfg: Config | SFTConfig, checkpoints: Checkpoints, like: Any) -> Restored | None:
    """The state to go on from, None for a run that begins. `like` says what arrays it has.

    Takes off the metrics, drops and rollouts of the steps that will be done again, and writes
    config.json. All processes call it, and afterwards see what process 0 has left.
    """
    found = checkpoints.resume(like, cfg.run.restore_step)
    start = found.step if found else 0
    if jax.process_index() == 0:
        run_dir = Path(cfg.run.dir)
        if found:
            for step, why in found.skipped.items():
                print(f"run: the checkpoint of step {step} is not used: {why}", flush=True)
            beyond = f", which is beyond run.steps = {cfg.run.steps}: no step is left"
            print(f"run: goes on after step {start}{beyond * (start > cfg.run.steps)}", flush=True)
        _leave_behind(cfg, checkpoints, start)
        settings.write(cfg, start)
        if record.newest(run_dir) != start:  # what was later is none of this run's any more
            record.write(run_dir, start)
        (run_dir / FINISHED).unlink(missing_ok=True)
    return found


def _leave_behind(cfg: Config | SFTConfig, checkpoints: Checkpoints, start: int) -> None:
    """What is later than `start`: a step or two are forgotten, more is set aside."""
    run_dir, last = Path(cfg.run.dir), _last_step(Path(cfg.run.dir))
    later = [
        step
        for steps in steps_at(checkpoints.path)
        for step in steps
        if step > start and (complete(checkpoints.path / str(step)) or step > last)
    ]
    # Metrics are written after rollouts: of more than a step without there have been some.
    orphans = later_rollouts(run_dir, max(start, last + 1))
    place = run_dir / SET_ASIDE / f"{time.strftime('%Y%m%d-%H%M%S')}-after-step-{start}"
    # A run that is killed while it saves has come as far as the next save.
    keep = bool(later or orphans) or last > start + 2 * _save_every(cfg)
    if keep:
        place.mkdir(parents=True, exist_ok=True)
        for name in (FILE, DROPPED):
            if (run_dir / name).is_file():
                shutil.copy(run_dir / name, place / name)
        print(f"run: what is later than step {start} is kept in {place}", flush=True)
    checkpoints.set_aside(start, place / "checkpoints", last)
    for file in later_rollouts(run_dir, start):
        if keep:
            kept = place / file.relative_to(run_dir)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, kept)
        else:
            file.unlink()
    drops(run_dir).truncate_after(start or -1)  # nothing stays of a run that begins again
    MetricsWriter(run_dir).truncate_after(start)
    lines = read_metrics(run_dir) if (run_dir / FILE).is_file() else []
    lost = start - len({line["step"] for line in lines if 1 <= line["step"] <= start})
    if lost:
        print(
            f"run: {run_dir / FILE} lacks the lines of {lost} of the {start} steps that are done: "
            "the page will lack them; bring the file back from a copy before more is written",
            flush=True,
        )


def later_rollouts(run_dir: Path, step: int) -> list[Path]:
    """The rollouts of steps after `step` and what is beside them, whatever number of processes
    wrote them."""
    numbered = [
        (file.name.split(".")[0].removeprefix("step_"), file)
        for folder in (run_dir / "rollouts", run_dir / "rollouts" / "gaps")
        for file in folder.glob("step_*.jsonl")
    ]
    return [file for number, file in numbered if number.isdecimal() and int(number) > step]


def _last_step(run_dir: Path) -> int:
    """The last step that the metrics tell of."""
    lines = read_metrics(run_dir) if (run_dir / FILE).is_file() else []
    return max((line["step"] for line in lines), default=0)


def _save_every(cfg: Config | SFTConfig) -> int:
    """How often the run saved so far, as far as that is known."""
    of_run = (settings.read(Path(cfg.run.dir)) or {}).get("run")
    every = of_run.get("save_every") if isinstance(of_run, dict) else None
    return max(every, cfg.run.save_every) if isinstance(every, int) else cfg.run.save_every
