# SPDX-License-Identifier: Apache-2.0
"""A step that fails: the last whole state is saved, and one message ends the run; the batch of an
update that was not finite is left for `jaxvl replay`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from jaxvl.checkpoints.store import Checkpoints, SaveFailed, Whole
from jaxvl.data.strict_json import read_json
from jaxvl.distributed.mesh import DataShard, path_name
from jaxvl.distributed.multihost import Everywhere
from jaxvl.distributed.preemption import Stopped
from jaxvl.errors import TrainingFailed, UserError
from jaxvl.models.inputs import Prompt
from jaxvl.rl.batch import TrainBatch
from jaxvl.train.guard import Event

FOLDER, NOTE, TRACE = "failed", "update.json", "traceback.txt"
SHOWN = 4  # prompts that a message names


@contextlib.contextmanager
def saved(step: int, whole: Whole, checkpoints: Checkpoints, run_dir: Path) -> Iterator[None]:
    """What ends `step` leaves the last whole state in a checkpoint, and one message: a UserError
    stays one, and what nobody foresaw is a TrainingFailed, its traceback in a file.

    An error of one process that the others do not know of saves nothing: all write together.
    """
    try:
        yield
    except (SaveFailed, Stopped):
        raise  # it says what there is to go on from; or it was asked for twice
    except (Exception, SystemExit) as error:  # a function of a user's may call sys.exit
        rest = "newer work than the last is not saved"
        if jax.process_count() == 1 or isinstance(error, (Everywhere, TrainingFailed)):
            rest = _keep(whole, checkpoints)
        if isinstance(error, (UserError, TrainingFailed)):
            error.args = (f"step {step}: {error}; {rest}",)
            raise
        folder = run_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRACE).write_text(traceback.format_exc(), encoding="utf-8")
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}, all of it in {folder / TRACE}"
        raise TrainingFailed(
            f"step {step}: {type(error).__name__}: {error} ({where}); {rest}"
        ) from error


def _keep(whole: Whole, checkpoints: Checkpoints) -> str:
    """Saves what there is, and says what a resumed run goes on from."""
    try:
        if whole.state is not None:
            checkpoints.finish(whole)
        else:
            checkpoints.close()
    except Exception as error:  # a full disk, say: perhaps what has ended the step too
        return f"its last whole state could not be saved ({type(error).__name__}: {error})"
    if not checkpoints.saved:
        return "nothing had been learnt that could be saved"
    return (
        f"the state after step {checkpoints.saved} is saved: started again, the run goes on from it"
    )


def told(
    step: int,
    events: Sequence[Event],
    parts: Sequence[TrainBatch],
    asked: Mapping[int, tuple[str, Sequence[float]]],
    share: DataShard,
    run_dir: Path,
    beta: float | None = None,
) -> list[str]:
    """Warnings of what happened in a step's updates, each of which learns from one of the host
    batches `parts` in turn; all processes must call it. The last event of a run is TrainingFailed,
    and its batch is left. `asked`: see `prompts`."""
    warnings = []
    for event in events:
        part = parts[event.update % len(parts)]
        found = prompts(part, asked, share)
        text = f"{event.text}; {named(found)}"
        warnings.append(f"warning, step {step}: {text}")
        if event.last:
            note = {"step": step, "update": event.update, "beta": beta, "prompts": found}
            leave(run_dir, share, part, note)
            raise TrainingFailed(
                f"{text}; `jaxvl replay {run_dir}` makes that update again and says what was not "
                "finite first"
            )
    return warnings


def leave(run_dir: Path, share: DataShard, batch: TrainBatch, note: Mapping[str, Any]) -> None:
    """The host batch of one update, micro-batches in front, a file a share of the rows; and what
    else the update needs."""
    folder = run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if share.is_lead:
        leaves = jax.tree_util.tree_leaves_with_path(batch)
        arrays = {path_name(path): np.ascontiguousarray(x) for path, x in leaves}
        save_file(arrays, folder / f"batch.{share.index}.safetensors")
    if jax.process_index() == 0:
        text = json.dumps({**note, "shares": share.count}, indent=2)
        (folder / NOTE).write_text(text + "\n", encoding="utf-8")


def read(run_dir: Path) -> tuple[TrainBatch, dict[str, Any]]:
    """What `leave` has left, the rows of all shares together."""
    folder = run_dir / FOLDER
    if not (folder / NOTE).is_file():
        raise UserError(
            f"{run_dir} holds no update to make again ({FOLDER}/{NOTE}): a run leaves one where "
            "run.max_skipped updates in a row were not finite"
        )
    note = read_json(folder / NOTE)
    parts = [load_file(folder / f"batch.{i}.safetensors") for i in range(note["shares"])]
    arrays = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
    asked = {name: x for name, x in arrays.items() if name.startswith("prompt/")}
    prompt = Prompt.from_arrays({name.rpartition("/")[2]: x for name, x in asked.items()})
    names = [field.name for field in dataclasses.fields(TrainBatch) if field.name != "prompt"]
    fields: dict[str, Any] = {name: arrays.get(name) for name in names}
    return TrainBatch(prompt=prompt, **fields), note


def prompts(
    batch: TrainBatch, asked: Mapping[int, tuple[str, Sequence[float]]], share: DataShard
) -> list[tuple[int, str, list[float]]]:
    """(position, example, rewards) of an update's prompts, over all processes, who must all call
    it: the largest rewards first, before them those that are not finite.

    `asked` holds example and rewards (none where there are none) by position.
    """
    own = [(int(i), *asked[int(i)]) for i in np.unique(batch.prompt.prompt_id)]
    every = [tuple(one) for part in share.all_gather_object(own) for one in part]

    def size(one) -> float:
        return max((abs(x) if math.isfinite(x) else math.inf for x in one[2]), default=0.0)

    return sorted(every, key=lambda one: (-size(one), one[0]))


def named(found: Sequence[tuple[int, str, list[float]]]) -> str:
    """Prompts as a message has them."""
    texts = []
    for position, example, rewards in found[:SHOWN]:
        values = f": rewards {', '.join(f'{x:.4g}' for x in rewards)}" if rewards else ""
        texts.append(f"{position} ({example}{values})")
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"prompts {', '.join(texts)}{more}"
