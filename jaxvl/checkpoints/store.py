# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: the learner's state and the position in the data, through orbax."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxvl.distributed import multihost
from jaxvl.errors import TrainingFailed, UserError
from jaxvl.models import finite
from jaxvl.rl.learner import TrainState

COMMITTED = "commit_success.txt"  # written last: where it is, a checkpoint is whole


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

    Sampling keys are folded from the seed and the step, so state, step and data position are all
    that a run needs to go on.
    """

    def __init__(self, run_dir: Path, keep: int):
        committed = ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, atomicity_options=committed
        )
        self.path = (run_dir / "checkpoints").absolute()
        self.manager = _Manager(self.path, options=options)
        self.saved = 0  # the newest step of this run: others may see less of a shared file system

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
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state)
        )
        self.manager.save(step, args=items)
        self.saved = step

    def keep(self, whole: Whole) -> None:
        """`save`, if there is something new."""
        if whole.step > self.saved:
            self.save(whole.step, whole.state, whole.data)

    def finish(self, whole: Whole) -> None:
        """`keep`, and wait until all is written: the run ends."""
        self.keep(whole)
        self.close()

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """State and data position of `step`, straight into the shardings of `like`, of which
        shapes are enough."""
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(target), data=ocp.args.JsonRestore()
        )
        try:
            found = self.manager.restore(step, args=items)
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{self.path}/{step}: the checkpoint does not fit the config ({error}); "
                "resume with the model and optimizer the run was started with"
            ) from error
        self.saved = step
        return found.state, found.data

    @staticmethod
    def newest(run_dir: Path) -> Path:
        """The folder of a run's newest whole checkpoint. The run may be under way."""
        path = (run_dir / "checkpoints").absolute()
        every = ocp.utils.checkpoint_steps(path)
        steps = [step for step in every if (path / str(step) / COMMITTED).is_file()]
        if not steps:
            raise UserError(
                f"{path} holds no checkpoint yet; a run writes one every run.save_every"
            )
        return path / str(max(steps))

    @staticmethod
    def newest_params(run_dir: Path, shardings: Callable[[Any], Any]) -> dict[str, Any]:
        """The parameters of a run's newest whole checkpoint; all else stays on the disk.

        `shardings(shapes)` says where they go. The run may be under way: nothing is written.
        """
        state = Checkpoints.newest(run_dir) / "state"
        reader = ocp.PyTreeCheckpointHandler()
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), reader.metadata(state).tree["params"]
        )
        wanted = {
            "params": jax.tree.map(
                lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to),
                shapes,
                shardings(shapes),
            )
        }
        how = ocp.checkpoint_utils.construct_restore_args(wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
        return reader.restore(state, args=args)["params"]

    def close(self) -> None:
        """Waits for writes under way."""
        self.manager.wait_until_finished()
        self.manager.close()
