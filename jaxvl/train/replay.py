# SPDX-License-Identifier: Apache-2.0
"""One update made again: that for which a run has ended, and what in it was not finite first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import reduce
from flax import traverse_util

from jaxvl.checkpoints.start import start_model
from jaxvl.checkpoints.store import Checkpoints
from jaxvl.config import GRPO, SFT, Config, Model, Optim, Run, Sampling, SFTConfig
from jaxvl.config.fields import from_json
from jaxvl.data.strict_json import read_json
from jaxvl.distributed.mesh import make_mesh, path_name, put_rows
from jaxvl.errors import UserError
from jaxvl.models import partition
from jaxvl.models.finite import not_finite
from jaxvl.rl import learner
from jaxvl.rl.batch import TrainBatch
from jaxvl.rl.learning import Learning, learning
from jaxvl.train import failed
from jaxvl.train.setup import partition_trainable


@dataclasses.dataclass(frozen=True)
class Replay:
    """What an update comes to. Norms are those of its gradient, by part of the model."""

    step: int
    update: int  # of the step's, from 0
    start: int  # the step after which the state was saved; 0: the model that the run starts from
    loss: float
    learning_rate: float
    norms: dict[str, float]
    first: str  # the first array that is not finite, "" where all are
    prompts: str

    def text(self) -> str:
        after = f"the checkpoint of step {self.start}" if self.start else "the model it starts from"
        lines = [f"update {self.update + 1} of step {self.step}, from {after}; {self.prompts}"]
        lines.append(f"loss {self.loss:.6g}, learning rate {self.learning_rate:.6g}")
        norms = ", ".join(f"{part} {norm:.6g}" for part, norm in self.norms.items())
        lines.append(f"gradient norm by part: {norms}")
        lines.append(
            f"first that is not finite: {self.first}" if self.first else "all of it is finite"
        )
        return "\n".join(lines)


def replay(run_dir: str | Path) -> Replay:
    """Makes the update in `RUN_DIR/failed` again, on one device, by the state of the run's newest
    whole checkpoint, or where there is none by the model that it starts from. Nothing is written.
    """
    run_dir = Path(run_dir)
    batch, note = failed.read(run_dir)
    cfg = _config(run_dir)
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        vlm, fresh, frozen, dropout = partition_trainable(start_model(cfg.model, mesh), cfg)
        how = learning(cfg, vlm.graphdef)
        state, start = learner.init_state(fresh, how.tx), 0
        if (run_dir / "checkpoints").is_dir():
            checkpoints = Checkpoints(run_dir, cfg.run.keep)
            if latest := checkpoints.latest():
                state, start = checkpoints.restore(latest, state)[0], latest
            checkpoints.close()
        beta = None if note["beta"] is None else np.float32(note["beta"])
        stats, norms, first = again(how, state, put_rows(batch, mesh, 1), frozen, beta, dropout)
    return Replay(
        step=note["step"],
        update=note["update"],
        start=start,
        loss=float(stats["loss"]),
        learning_rate=float(how.lr(state.step)),
        norms=norms,
        first=first,
        prompts=failed.named(note["prompts"]),
    )


def _config(run_dir: Path) -> Config | SFTConfig:
    """What config.json says of how the run learns; its data and rewards are not looked for."""
    fields = read_json(run_dir / "config.json")
    kinds = {"model": Model, "run": Run, "optim": Optim}
    kinds |= {"sft": SFT} if "sft" in fields else {"grpo": GRPO, "sampling": Sampling}
    if missing := kinds.keys() - fields.keys():
        raise UserError(f"{run_dir}/config.json has no {', '.join(sorted(missing))}")
    found: dict[str, Any] = {name: from_json(kind, fields[name]) for name, kind in kinds.items()}
    found["data"] = None
    return SFTConfig(**found) if "sft" in fields else Config(rewards=(), **found)


def again(
    how: Learning,
    state: learner.TrainState,
    batch: TrainBatch,
    frozen: dict[str, Any],
    beta: np.float32 | None = None,
    dropout: jax.Array | None = None,
) -> tuple[learner.Stats, dict[str, float], str]:
    """An update's stats, the norms of its gradient by part, and the first array that is not finite
    in the order in which an update comes by them. The state is not changed."""
    gradient = jax.jit(learner.make_gradient(how.objective, dropout, how.live))
    grads, stats = gradient(state, batch, frozen, beta)
    norms = {part: float(norm) for part, norm in jax.device_get(_norms(grads)).items()}
    logps = learner.make_logprobs(how.policy)
    host = jax.device_get(batch)
    whole = partition.combine(frozen, state.params)

    def stages() -> Iterator[tuple[str, list[str]]]:
        yield "input", [_place(host, path) for path in not_finite(_counted(host))]
        yield "parameter", not_finite(whole)
        bad = ~np.isfinite(np.where(host.mask, logps(whole, batch), 0.0))
        yield "log-probabilities", [_rows(host, bad)] if bad.any() else []
        yield "loss", [] if np.isfinite(stats["loss"]) else [f"{float(stats['loss'])}"]
        yield "gradient of", not_finite(grads)
        norm = float(stats["grad_norm"])
        yield "gradient", [] if np.isfinite(norm) else [f"norm {norm}, its square is not float32"]
        yield "updated parameter", not_finite(_updated(how.tx, state, grads))

    for stage, names in stages():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return stats, norms, f"{stage} {names[0]}{more}"
    return stats, norms, ""


def _updated(tx: optax.GradientTransformation, state: learner.TrainState, grads: Any) -> Any:
    @jax.jit
    def run(state, grads):
        return optax.apply_updates(state.params, tx.update(grads, state.opt_state, state.params)[0])

    return run(state, grads)


@jax.jit
def _norms(grads: dict[str, Any]) -> dict[str, jax.Array]:
    squares: dict[str, jax.Array] = {}
    for path, x in traverse_util.flatten_dict(grads, sep="/").items():
        part = partition.part(path)
        squares[part] = squares.get(part, 0.0) + jnp.sum(jnp.square(x))
    return {part: jnp.sqrt(square) for part, square in squares.items()}


def _counted(batch: TrainBatch) -> TrainBatch:
    """The batch with zeros where its mask says that nothing counts."""
    names = ("old_logps", "ref_logps", "own_logps")
    held = {name: getattr(batch, name) for name in names if getattr(batch, name) is not None}
    zeroed: dict[str, Any] = {
        name: np.where(batch.mask, x, np.float32(0)) for name, x in held.items()
    }
    return dataclasses.replace(batch, **zeroed)


def _place(batch: TrainBatch, name: str) -> str:
    """An input's name and the prompts in whose rows it is not finite."""
    leaves = jax.tree_util.tree_leaves_with_path(_counted(batch))
    (x,) = (x for path, x in leaves if path_name(path) == name)
    return f"{name}: {_rows(batch, ~np.isfinite(x))}"


def _rows(batch: TrainBatch, bad: np.ndarray) -> str:
    """Of an array [M, R, ..] of what is bad: "prompts 3, 7"."""
    rows = reduce(bad, "M R ... -> M R", "any")
    return f"of prompts {', '.join(map(str, np.unique(batch.prompt.prompt_id[rows])))}"
