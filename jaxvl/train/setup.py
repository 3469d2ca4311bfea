# SPDX-License-Identifier: Apache-2.0
"""What a training run opens before its first step and leaves after its last: the run directory, the
checkpoints, the model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import optax
from flax import traverse_util
from jax.sharding import Mesh

from jaxvl import __version__
from jaxvl.checkpoints.start import locate, start_model
from jaxvl.checkpoints.store import Checkpoints
from jaxvl.config import Config, SFTConfig
from jaxvl.config.fields import to_json
from jaxvl.config.validate import check_rows, check_share, validate
from jaxvl.data import test_sets
from jaxvl.distributed import multihost
from jaxvl.distributed.mesh import data_shard, make_mesh, row_shards
from jaxvl.distributed.preemption import PreemptionHandler
from jaxvl.errors import UserError
from jaxvl.models import lora, partition
from jaxvl.models.io.find import EXPORT
from jaxvl.observe import report, trackers
from jaxvl.observe.journal import Journal
from jaxvl.observe.metrics import FILE
from jaxvl.rl import learner
from jaxvl.train import resume, runlock, settings
from jaxvl.vlm import VLM

SHARED_SECONDS = 60  # in which what one process writes must be seen by all


@contextlib.contextmanager
def owned(cfg: Config | SFTConfig) -> Iterator[PreemptionHandler]:
    """The run directory is this run's alone, and signals are heard. Whatever ends the run, its page
    is written.

    A directory that holds another run is an error, and so is one that has lost its checkpoints.
    """
    validate(cfg)
    run_dir, lead = Path(cfg.run.dir), jax.process_index() == 0
    page = functools.partial(_write_page, run_dir)
    with runlock.held(run_dir) if lead else contextlib.nullcontext():
        if lead:
            trackers.check(cfg.run.track)
            resume.check(cfg)
        try:
            with PreemptionHandler(last=page) as stop:
                yield stop
        finally:
            page()


def with_steps(cfg: Any) -> Any:
    """The config with the number of steps that its epochs take, where it counts in epochs."""
    if cfg.run.steps or cfg.run.epochs is None:
        return cfg
    prompts = cfg.batch.prompts
    examples = len(cfg.data.source.load())
    steps = math.ceil(cfg.run.epochs * examples / prompts)
    if jax.process_index() == 0:
        text = f"{cfg.run.epochs:g} epochs of {examples} examples, {prompts} a step"
        print(f"run: {steps} steps: {text}", flush=True)
    return dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, steps=steps))


def _write_page(run_dir: Path) -> None:
    """As far as it can be: what ends the run is worth more than why there is no page."""
    if jax.process_index() or not (run_dir / FILE).is_file():
        return
    try:
        report.write_report(run_dir)
    except Exception as error:
        print(f"report.html could not be written: {error}", file=sys.stderr, flush=True)


def journal(cfg: Config | SFTConfig, start: int) -> Journal:
    """What tells of the steps after `start`; trackers are told by process 0."""
    run, lead = cfg.run, jax.process_index() == 0
    track = run.track if lead else ()
    return Journal(Path(run.dir), track, run.report_every, start, settings.comparable(cfg))


def init_run(cfg: Config | SFTConfig) -> tuple[VLM, Checkpoints]:
    """The model on the run's mesh, and the run's checkpoints.

    Parts that train are float32, frozen ones are in the dtype of computing. A directory that not
    all processes see is an error. What a run has left there stays as it is: see `resume.go_on`.
    """
    validate(cfg)
    run_dir = Path(cfg.run.dir)
    mesh = make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    check_rows(cfg.batch, row_shards(mesh))
    check_share(cfg.batch, data_shard(mesh).count)
    multihost.assert_equal_across_processes(
        {f"the config's {name}": value for name, value in _fields(cfg).items()}
        | {"the number of processes": jax.process_count(), "jax's version": jax.__version__}
        | {"jaxvl's version": __version__}
    )
    if jax.process_index() == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        test_sets.mark(run_dir, test_sets.marks(locate(cfg.model.path).folder))
    check_shared(run_dir)
    run = cfg.run
    how = run.keep, run.on_save_failure, run.save_timeout, run.keep_every
    return start_model(cfg.model, mesh), Checkpoints(run_dir, *how)


def _fields(cfg: Config | SFTConfig) -> dict[str, str]:
    """A config's fields by their dotted names, as text that is the same in every process."""
    flat = traverse_util.flatten_dict(to_json(cfg), sep=".")
    return {name: re.sub(r" at 0x\w+", "", str(value)) for name, value in flat.items()}


def check_shared(run_dir: Path) -> None:
    """UserError unless all processes see the directory as process 0 has left it, which may take a
    while: a network's file systems remember what was not there."""
    if jax.process_count() == 1:
        return
    word, file = secrets.token_hex(8), run_dir / ".shared"
    if jax.process_index() == 0:
        file.write_text(word)
    word, deadline = multihost.all_gather_object(word)[0], time.monotonic() + SHARED_SECONDS
    while not (seen := file.is_file() and file.read_text() == word):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if not seen:
        raise UserError(
            f"{run_dir}: process {jax.process_index()} does not see what process 0 writes there; "
            "set run.dir to a file system that all processes share"
        )
    multihost.all_gather_object(None)
    if jax.process_index() == 0:
        file.unlink()


def partition_trainable(
    base: VLM, cfg: Config | SFTConfig
) -> tuple[VLM, dict[str, Any], dict[str, Any], jax.Array | None]:
    """The model with the run's adapters, if it has any, and without parameters; those of them that
    train, as they are before the first step; those that are frozen; and the key of the adapters'
    dropout, if they drop out."""
    vlm, adapters, dropout = base, cfg.model.lora, None
    trains: set[str] = set(cfg.model.train)
    if adapters is not None:
        vlm, trains = base.adapted(adapters, cfg.run.seed), trains | {partition.ADAPTERS}
        dropout = lora.keys(cfg.run.seed)[1] if adapters.dropout else None
    fresh, frozen = partition.partition(vlm.params, trains)
    return dataclasses.replace(vlm, params={}), fresh, frozen, dropout


def first_state(
    fresh: dict[str, Any], tx: optax.GradientTransformation, mesh: Mesh, checkpoints: Checkpoints
) -> learner.TrainState:
    """The state that a run begins with; its shapes alone, which take no memory, where there is a
    checkpoint to go on from. `fresh` is not needed after it."""
    if checkpoints.any():
        return learner.abstract_state(fresh, tx, mesh)
    return learner.init_state(fresh, tx)


def export(trained: VLM, cfg: Config | SFTConfig) -> None:
    """The trained model in `hf`; adapters alone too, where nothing but them has changed. Both
    carry the run's mark where it was trained on test data."""
    run_dir, lead = Path(cfg.run.dir), jax.process_index() == 0
    writers = {EXPORT: trained.save}
    if trained.lora and not cfg.model.train:
        writers["adapter"] = functools.partial(trained.save_adapters, base=cfg.model.path)
    for name, write in writers.items():
        folder = (run_dir / name).resolve()  # it may be a link to another disk
        part = folder.with_name(f"{folder.name}.part")
        if lead:
            shutil.rmtree(part, ignore_errors=True)
        write(part)
        if lead:
            test_sets.mark(part, test_sets.marks(run_dir))
            shutil.rmtree(folder, ignore_errors=True)  # of the same run, before it went on
            part.rename(folder)
