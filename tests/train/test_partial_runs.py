# SPDX-License-Identifier: Apache-2.0
"""Whole runs of which a part trains: what is frozen stays as it was, and a resume is exact."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvl
from jaxvl import config
from jaxvl.checkpoints.convert import convert
from jaxvl.config import LoRA, SFTConfig
from jaxvl.errors import UserError
from jaxvl.models import lora, partition
from jaxvl.observe.metrics import read_metrics
from jaxvl.rl import learner
from jaxvl.train import grpo as train
from jaxvl.train import sft
from jaxvl.train.setup import export, init_run, partition_trainable
from tests.rl.adapted import flat
from tests.train.test_grpo import SMALL as GRPO_SMALL
from tests.train.test_grpo import values
from tests.train.test_sft import SMALL as SFT_SMALL

CONFIGS = Path(__file__).parents[2] / "configs"
STEPS = ["run.steps=3", "run.save_every=2", "optim.schedule=constant", "optim.warmup_steps=0"]
ADAPTERS = LoRA(rank=4, alpha=8, dropout=0.1)


def with_model(cfg, **changes):
    return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, **changes))


def grpo(run_dir, *more):
    """Adapters in the decoder and the merger's own weights; the tower is frozen, in bfloat16."""
    overrides = [*GRPO_SMALL, *STEPS, f"run.dir={run_dir}", "model.dtype=bfloat16", *more]
    cfg = config.load(CONFIGS / "quickstart.py", overrides)
    return with_model(dataclasses.replace(cfg, eval=None), train=("merger",), lora=ADAPTERS)


def supervised(run_dir, *more):
    """All but the tower."""
    overrides = [*SFT_SMALL, *STEPS, f"run.dir={run_dir}", "model.train=merger,text", *more]
    return config.load(CONFIGS / "quickstart_sft.py", overrides, SFTConfig)


def trained_whole(vlm):
    return ("merger",) if vlm.lora else ("merger", "text")


@pytest.fixture(scope="module")
def base():
    return jaxvl.load(CONFIGS / "quickstart_base", dtype="float32")


KINDS = {"grpo": (grpo, train.train), "sft": (supervised, sft.train)}


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory):
    """Three steps without a break: (config by directory, what runs it, directory, model)."""
    make, start = KINDS[request.param]
    run_dir = tmp_path_factory.mktemp(request.param)
    return make, start, run_dir, start(make(run_dir))


def test_what_is_frozen_is_exported_as_it_was(run, base):
    _, _, run_dir, trained = run
    exported = flat(jaxvl.load(run_dir / "hf", dtype="float32").params)
    moved = {f"{path}/w" for path in lora.targets(base.params, ADAPTERS)} if trained.lora else set()
    for path, x in flat(base.params).items():
        if trained.lora:  # what is frozen is held in the dtype of computing
            x = x.astype(jnp.bfloat16)
        moves = partition.part(path) in trained_whole(trained) or path in moved
        assert np.array_equal(exported[path], x) != moves, path
    assert not (run_dir / "adapter").exists()  # alone they are not the model: the merger moved too


def test_a_steady_run_compiles_nothing(run):
    """The sampler's start, loop and reading, reference and update once each; of a supervised run
    the update."""
    _, _, run_dir, trained = run
    compiles = [line["perf/compiles"] for line in read_metrics(run_dir)]
    assert compiles == [5 if trained.lora else 1] * 3


def test_a_resumed_run_is_the_same_to_the_bit(run, tmp_path):
    """The run as it was after its second step, when it goes on."""
    make, start, run_dir, trained = run
    again = tmp_path / "again"
    shutil.copytree(run_dir, again)
    shutil.rmtree(again / "checkpoints/3")
    resumed = start(make(again, "run.resume=true"))
    assert [line["step"] for line in read_metrics(again)] == [1, 2, 3]
    assert values(again) == values(run_dir)
    for path, x in flat(trained.params).items():
        np.testing.assert_array_equal(flat(resumed.params)[path], x)


def test_a_converted_checkpoint_is_the_export(run, base, tmp_path):
    """Its changes, to be exact: a run in bfloat16 has rounded what is frozen, the base has not."""
    _, _, run_dir, trained = run
    files = (run_dir / "hf", convert(run_dir, tmp_path / "out"))
    exported, found = (flat(jaxvl.load(file, dtype="float32").params) for file in files)
    for path, x in flat(base.params).items():
        frozen = partition.part(path) not in trained_whole(trained)
        start = x.astype(jnp.bfloat16) if trained.lora and frozen else x
        # float32's last bit of weights of up to a few
        np.testing.assert_allclose(found[path] - x, exported[path] - start, rtol=0, atol=1e-6)


def test_checkpoints_hold_what_trains_and_its_moments(run, base):
    """Three numbers a parameter that trains; compressed they are not larger."""
    _, _, run_dir, trained = run
    adapters, rest = partition.partition(trained.params, [partition.ADAPTERS])
    whole = partition.partition(rest, trained_whole(trained))[0]
    trains = sum(x.nbytes for x in jax.tree.leaves((adapters, whole)))
    files = sum(file.stat().st_size for file in (run_dir / "checkpoints/3").rglob("*"))
    assert trains < files < 3 * trains + 100_000  # and orbax's own notes
    assert not trained.lora or files < sum(x.nbytes for x in jax.tree.leaves(base.params))


def test_a_checkpoint_of_other_parts_is_refused(run, tmp_path):
    make, start, run_dir, _ = run
    again = tmp_path / "again"
    shutil.copytree(run_dir, again)
    shutil.rmtree(again / "checkpoints/3")
    other = with_model(make(again), train=("tower", "merger"))
    with pytest.raises(UserError, match="(?s)model.train: .*now .*run.allow=model.train"):
        start(other)
    allowed = dataclasses.replace(other.run, allow=("model.train",))
    with pytest.raises(UserError, match="the checkpoint does not fit the config"):
        start(dataclasses.replace(other, run=allowed))


def test_the_reference_of_adapters_is_the_base_and_no_copy(tmp_path):
    """In bfloat16 too: policy, reference and what is frozen are the same buffers."""
    cfg = with_model(grpo(tmp_path), train=(), dtype="bfloat16")
    base, _ = init_run(cfg)
    with jax.set_mesh(base.mesh):
        vlm, fresh, frozen, dropout = partition_trainable(base, cfg)
        loop = train.GRPOLoop(cfg, base, vlm, frozen, dropout)
    assert {str(x.dtype) for x in jax.tree.leaves(base.params)} == {"bfloat16"}
    for path, x in flat(base.params).items():
        assert flat(loop.reference)[path] is x
        assert flat(loop.frozen)[path] is x
    assert not set(flat(fresh)) & set(flat(base.params)) and loop.vlm.params == {}
    export(loop.with_state(learner.init_state(fresh, loop.tx)), cfg)
    for file in ("hf/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / file).is_file()
