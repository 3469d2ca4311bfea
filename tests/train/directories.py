# SPDX-License-Identifier: Apache-2.0
"""Directories as runs leave them, without a step taken."""

from pathlib import Path

import jax.numpy as jnp

from jaxvl import config
from jaxvl.checkpoints.store import Checkpoints
from jaxvl.config import SFTConfig
from jaxvl.observe.metrics import MetricsWriter
from jaxvl.rl.learner import TrainState
from jaxvl.train import resume, settings

ROOT = Path(__file__).parents[2]
STATE = TrainState(jnp.int32(0), {"w": jnp.arange(6.0)}, ())


def make(run_dir, *more):
    overrides = [
        f"run.dir={run_dir}",
        "run.save_every=2",
        "run.steps=6",
        "optim.warmup_steps=0",
        *more,
    ]
    return config.load(ROOT / "configs/quickstart_sft.py", overrides, SFTConfig)


def steps_of(path):
    return sorted(int(p.name) for p in path.iterdir()) if path.is_dir() else []


def write_run(run_dir, saved=(2, 4)):
    """A run of five steps, saved after some of them, with rollouts."""
    settings.write(make(run_dir.mkdir() or run_dir), 0)
    checkpoints = Checkpoints(run_dir, keep=2)
    for step in range(1, 6):
        MetricsWriter(run_dir).write(step, {"loss": 1.0})
        if step in saved:
            checkpoints.save(step, STATE, {"position": step})
    checkpoints.close()
    (run_dir / "rollouts/gaps").mkdir(parents=True)
    for step in range(1, 6):
        (run_dir / f"rollouts/step_{step}.jsonl").touch()
        (run_dir / f"rollouts/gaps/step_{step}.jsonl").touch()
    return run_dir


def go_on(cfg):
    resume.check(cfg)
    checkpoints = Checkpoints(Path(cfg.run.dir), keep=2)
    try:
        return resume.go_on(cfg, checkpoints, STATE)
    finally:
        checkpoints.close()
