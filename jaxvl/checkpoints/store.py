# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: the learner's state and the position in the data, through orbax."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxvl.checkpoints import manifest, record
from jaxvl.checkpoints.deadline import Deadline
from jaxvl.checkpoints.folders import complete, folders, steps_at
from jaxvl.checkpoints.manifest import Damaged
from jaxvl.distributed import multihost
from jaxvl.errors import TrainingFailed, UserError
from jaxvl.models import finite
from jaxvl.rl.learner import TrainState


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a run goes on from."""

    step: int
    state: TrainState
    data: dict[str, Any]  # the position in the data
    skipped: Mapping[int, str]  # newer steps, and why they were not taken


class SaveFailed(TrainingFailed):
    """A checkpoint could not be written, though nothing is wrong with the run."""


class _Manager(ocp.CheckpointManager):
    """Orbax's, except that a write which fails in one process's background ends all: by itself it
    would wait there for the others, and they for it."""

    def _wait_for_checkpointers(self) -> None:
        with multihost.abort_all_on_error():
            super()._wait_for_checkpointers()


@dataclasses.dataclass
class Whole:
    """The newest state of a run that another can go on from: that after the last step in which
    anything was learnt, with the position in the data after that step."""

    step: int
    state: TrainState | None  # None while updates change it: it is donated to them
    data: dict[str, Any]

    def take(self) -> TrainState:
        """The state, for updates to which it is donated: none can be saved until `after`."""
        state, self.state = self.held, None
        return state

    @property
    def held(self) -> TrainState:
        """The state, while no update has it."""
        assert self.state is not None, "a step takes the state once, and leaves another"
        return self.state

    def after(self, step: int, state: TrainState, data: dict[str, Any], learnt: bool) -> None:
        """`step` is done. Where all its updates were skipped, its state is the one before, and a
        resumed run makes it again."""
        self.state = state
        if learnt:
            self.step, self.data = step, data


class Checkpoints:
    """`dir/checkpoints`, a step a folder; a save that was cut short is never seen as one.

    A file says that a folder is whole, not its name: a bucket mounted as a file system renames a
    folder file by file.

    Each has a manifest (`jaxvl.checkpoints.manifest`), by which damage is seen when it is read.

    Sampling keys are folded from the seed and the step, so state, step and data position are all
    that a run needs to go on.
    """

    def __init__(
        self,
        run_dir: Path,
        keep: int,
        on_failure: str = "stop",
        seconds: float = 1800.0,
        keep_every: int | None = None,
    ):
        """The newest `keep` stay, and those of every `keep_every` steps. Where a save fails it is a
        SaveFailed, or with `on_failure` "warn" a warning. One that takes longer than `seconds` ends
        the process, or is a warning, after which none is begun until that one has ended."""
        for name in ("absl", "concurrent.futures"):  # orbax raises what they tell
            logging.getLogger(name).setLevel(logging.CRITICAL)
        committed = ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE)
        listed = ocp.AsyncOptions(post_finalization_callback=self._complete)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every,
            create=True,
            atomicity_options=committed,
            async_options=listed,
        )
        self.path = (run_dir / "checkpoints").absolute()
        self._saving: dict[str, Any] = {}  # what the save under way will say of itself
        self.saved = 0  # the newest step of this run: others may see less of a shared file system
        self._warn = on_failure == "warn"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.manager = _Manager(self.path, options=options)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be a folder of checkpoints ({error}); move what is there "
                "away, or choose another run.dir"
            ) from None
        self._deadline = Deadline(seconds, self.manager.is_saving_in_progress, self._late)

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self.manager.latest_step()

    def save(self, step: int, state: TrainState, data_state: dict[str, Any]) -> None:
        """Writes in the background; what `state` holds now is what is written.

        TrainingFailed where a parameter is not finite: no checkpoint ever holds one that is not.
        """
        if wrong := finite.not_finite(state.params):
            raise TrainingFailed(
                f"after step {step} parameter {wrong[0]} holds NaN or infinity: nothing was saved"
            )
        if self._warn and any(multihost.all_gather_object(self._deadline.passed)):
            return  # what hangs has been told of
        self.saved = step
        with self._deadline.held():
            self._try(lambda: self._save(step, state, data_state))

    def check(self) -> None:
        """SaveFailed where the save under way has failed already. Costs nothing."""
        self._try(self.manager.check_for_errors)

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except (UserError, TrainingFailed, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # orbax passes on what threads have raised, of any kind
            self.manager.reload()  # what was cut short does not count
            self.saved = self.latest() or 0
            text = f"a checkpoint could not be saved in {self.path} ({_first_line(error)})"
            if not self._warn:
                raise SaveFailed(
                    f"{text}; see whether the volume is full, read-only or gone, then start the "
                    f"run again: it goes on after step {self.latest() or 0}"
                ) from None
            print(f"warning: {text}; the run goes on", file=sys.stderr, flush=True)

    def _late(self, waited_for: bool) -> None:
        """The save under way takes too long."""
        text = f"a save in {self.path} has taken more than {self._deadline.seconds:.0f} s"
        if self._warn and not waited_for:
            print(
                f"warning: {text}; the run goes on, and saves again when that one has ended",
                file=sys.stderr,
                flush=True,
            )
            return
        text += (
            ": does the volume hang? The run ends; started again, it goes on from the newest "
            "checkpoint that is whole. run.save_timeout gives a slow volume more time"
        )
        print(f"error: {text}", file=sys.stderr, flush=True)
        multihost.leave(1, text)

    def _save(self, step: int, state: TrainState, data_state: dict[str, Any]) -> None:
        self._probe()
        begun = manifest.begin(step, state, data_state)
        items = {
            "state": ocp.args.StandardSave(state),
            "data": ocp.args.JsonSave(data_state),
            manifest.ITEM: ocp.args.JsonSave({}),  # see `_complete`
        }
        self.manager.wait_until_finished()
        self._deadline.renew()
        self._saving = begun
        self.manager.save(step, args=ocp.args.Composite(**items))

    def _probe(self) -> None:
        """OSError, in all processes, where nothing can be written: orbax would leave threads behind
        that wait for each other, and the process could not end."""
        why = ""
        if jax.process_index() == 0:
            try:
                probe = self.path / ".probe"
                probe.write_bytes(b"x" * 4096)
                probe.unlink()
            except OSError as error:
                why = str(error)
        if why := multihost.all_gather_object(why)[0]:
            raise OSError(why)

    def _complete(self) -> None:
        """Called in the background, before a checkpoint is declared whole: the run's record, its
        manifest, whose digests no step has waited for, and the list of its files."""
        if jax.process_index() == 0:
            folder, run_dir = self.path / str(self._saving["step"]), self.path.parent
            record.write(run_dir, self._saving["step"])
            manifest.write(folder, {**self._saving, "run": record.run_of(run_dir)})
            manifest.list_files(folder)

    def keep(self, whole: Whole) -> None:
        """`save`, if there is something new."""
        if whole.step > self.saved:
            self.save(whole.step, whole.held, whole.data)

    def finish(self, whole: Whole) -> None:
        """`keep`, and wait until all is written: the run ends."""
        self.keep(whole)
        self.close()

    def any(self) -> bool:
        """Whether there is one to go on from, as process 0 sees it. All processes call it."""
        return bool(multihost.all_gather_object(steps_at(self.path))[0][0])

    def resume(self, like: Any, step: int | None = None) -> Restored | None:
        """The newest checkpoint that is whole, or that of `step`; None where none was ever written.

        `like` says shapes, dtypes and shardings. Damaged ones are passed over; where all are,
        and where a whole one has other arrays than `like`, it is an error that says so.
        """
        # What process 0 sees: on a shared file system the others may see less yet.
        steps, torn = multihost.all_gather_object(steps_at(self.path))[0]
        if step is not None:
            if step not in steps:
                there = ", ".join(map(str, steps)) or "none"
                raise UserError(f"run.restore_step = {step}: {self.path} has {there}")
            others, steps = [one for one in steps if one != step], [step]
        skipped = dict.fromkeys(torn, "a save that did not come to its end")
        for number in steps:
            why, found = "", None
            try:
                found = self.restore(number, like)
            except Damaged as damage:
                why = str(damage)
            reasons = [reason for reason in multihost.all_gather_object(why) if reason]
            if found and not reasons:
                newer = {number_: why for number_, why in skipped.items() if number_ > number}
                self.saved = number
                return Restored(number, *found, newer)
            skipped[number] = reasons[0]
            del found
        if step is not None:
            there = ", ".join(map(str, others)) or "no other"
            told = f"that checkpoint is damaged: {skipped[step]}; {self.path} has {there}"
            raise UserError(f"run.restore_step = {step}: {told}")
        if steps:
            raise UserError(_all_damaged(self.path, {n: skipped[n] for n in steps}))
        return None

    def restore(self, step: int, like: Any) -> tuple[TrainState, dict[str, Any]]:
        """State and data position of `step`, straight into the shardings of `like`.

        Raises `Damaged` where they are not what was saved, UserError where `like` is not.
        """
        folder = self.path / str(step)
        target = jax.tree.map(_placed, like)
        said = manifest.read(folder)
        if said:
            manifest.check_run(said, record.run_of(self.path.parent))
        wrong = manifest.misfits(said, like) if said else _misfits(folder / "state", like)
        if wrong:
            raise UserError(manifest.does_not_fit(folder, wrong))
        data = manifest.read_item(folder, "data")
        if said:
            manifest.check_data(said, data)
        state = _read(folder / "state", target)
        if said:
            manifest.check_arrays(said, state)
        elif jax.process_index() == 0:
            print(f"{folder} has no digests: damage in it would not be seen", flush=True)
        return state, data

    def set_aside(self, after: int, place: Path, done: int) -> None:
        """Move the checkpoints of steps after `after` into `place`: those that were passed over,
        whose steps will be written again. Process 0's part.

        What a run that was killed left half written is deleted: it is of no step after `done`.
        """
        for folder in folders(self.path):
            if int(folder.name) > after and (complete(folder) or int(folder.name) > done):
                place.mkdir(parents=True, exist_ok=True)
                shutil.move(folder, place / folder.name)
            elif int(folder.name) > after:
                shutil.rmtree(folder)
        self.manager.reload()

    @staticmethod
    def newest(run_dir: Path) -> Path:
        """The folder of a run's newest whole checkpoint. The run may be under way."""
        path = (run_dir / "checkpoints").absolute()
        steps, _ = steps_at(path)
        if not steps:
            raise UserError(
                f"{path} holds no checkpoint yet; a run writes one every run.save_every"
            )
        return path / str(max(steps))

    @staticmethod
    def newest_params(
        run_dir: Path, shardings: Callable[[Any], Any], step: int | None = None
    ) -> dict[str, Any]:
        """The parameters of a run's newest whole checkpoint, or that of `step`; all else stays on
        the disk.

        `shardings(shapes)` says where they go. The run may be under way: nothing is written.
        """
        folder = Checkpoints.newest(run_dir)
        folder = folder if step is None else folder.with_name(str(step))
        try:
            said = manifest.read(folder)
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _metadata(folder / "state")
            )["params"]
            wanted = jax.tree.map(
                lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to),
                shapes,
                shardings(shapes),
            )
            found = _read(folder / "state", {"params": wanted}, partial_restore=True)
            if said:
                manifest.check_arrays(said, found)
        except Damaged as damage:
            raise UserError(
                f"{folder} is damaged: {damage}; bring it back from a copy, or move it away: "
                "then the one before is taken"
            ) from None
        return found["params"]

    def close(self) -> None:
        """Waits for writes under way."""
        with self._deadline.held():
            self._try(self.manager.wait_until_finished)
            self._try(self.manager.close)


def _placed(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _read(state: Path, wanted: Any, **how: Any) -> Any:
    """The arrays at `state`, placed as `wanted` says. `Damaged` where they cannot be read."""
    # Each process reads by itself what its devices hold: where one cannot, none waits for it.
    restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
    args = ocp.args.PyTreeRestore(item=wanted, restore_args=restore_args, **how)
    try:
        return ocp.PyTreeCheckpointHandler().restore(state, args=args)
    except (PermissionError, MemoryError, jax.errors.JaxRuntimeError):
        raise  # not the files' fault
    except Exception as error:  # orbax and tensorstore raise many kinds where files are not whole
        raise Damaged(f"{state} cannot be read ({_first_line(error)})") from None


def _metadata(state: Path) -> Any:
    """Shapes and dtypes of what is at `state`, as a tree."""
    try:
        return ocp.PyTreeCheckpointHandler().metadata(state).tree
    except PermissionError:
        raise
    except Exception as error:
        raise Damaged(f"{state} cannot be read ({_first_line(error)})") from None


def _misfits(state: Path, like: Any) -> list[str]:
    """In what a checkpoint without a manifest differs from `like`."""
    found = manifest.named(_metadata(state))
    return manifest.differences(
        {name: (tuple(x.shape), str(x.dtype)) for name, x in found.items()}, like
    )


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0]
    line = line if len(line) <= 300 else f"{line[:100]} .. {line[-190:]}"  # the cause comes last
    return f"{type(error).__name__}: {line}"


def _all_damaged(path: Path, reasons: Mapping[int, str]) -> str:
    lines = "".join(f"\n  {step}: {why}" for step, why in reasons.items())
    return (
        f"no checkpoint in {path} is whole:{lines}\nbring one back from a copy, or begin again in "
        "another run.dir"
    )
