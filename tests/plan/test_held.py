# SPDX-License-Identifier: Apache-2.0
"""What a plan says that a run holds is what it holds: bytes of live arrays, counted on the way."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxvl import config
from jaxvl.plan.plan import plan_gpus
from jaxvl.rl import learner
from jaxvl.rl.sampler import Sampler
from jaxvl.train import grpo

ROOT = Path(__file__).parents[2]
SMALL = [
    "grpo.prompts=4",
    "grpo.group=4",
    "grpo.mini_batches=2",
    "grpo.beta=0.04",
    "model.dtype=bfloat16",
    "sampling.max_new_tokens=12",
    "data.source.size=40",
    "data.prompt_buckets=(128,)",
    "data.patch_buckets=(64,)",
    "optim.warmup_steps=0",
    "run.export=false",
    "run.steps=1",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The config of a run of one step; the most bytes that lay on the device: while it decoded,
    while the reference was asked, while it learnt from the first of its mini-batches; and the
    arrays that were handed to the device, as (shape, dtype)."""
    cfg = config.load(
        ROOT / "configs/quickstart.py", [*SMALL, f"run.dir={tmp_path_factory.mktemp('held')}"]
    )
    cfg, held, uploads = dataclasses.replace(cfg, eval=None), {}, []
    before = jax.live_arrays()  # held, so that no array of the run gets the id of one of them
    others = {id(x) for x in before}

    def look(program):
        mine = [x for x in jax.live_arrays() if id(x) not in others and not x.is_deleted()]
        held[program] = max(held.get(program, 0), sum(x.nbytes for x in mine))

    states = Sampler.states

    def decoding(self, *args):
        for state in states(self, *args):
            look("decode")
            yield state

    def looked(name, make):
        """What `make` returns, with a look at the device before it is called."""

        def made(*args):
            inner = make(*args)

            def call(*args):
                if name not in held:
                    look(name)
                return inner(*args)

            call._cache_size = inner._cache_size
            return call

        return made

    put = jax.make_array_from_process_local_data

    def handed(sharding, x, *args):
        uploads.append((x.shape, x.dtype))
        return put(sharding, x, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "states", decoding)
        for name in ("logprobs", "update"):
            make = f"make_{name}"
            patch.setattr(learner, make, looked(name, getattr(learner, make)))
        patch.setattr(jax, "make_array_from_process_local_data", handed)
        grpo.train(cfg)
    return cfg, held, uploads


def test_patches_are_handed_to_the_device_once_a_step(run):
    """As bytes, for sampling, the reference and both updates; no other array is as large."""
    cfg, _, uploads = run
    patches = [shape for shape, dtype in uploads if dtype == np.uint8]
    assert patches == [(cfg.grpo.rows, cfg.data.patch_buckets[0], 3 * 14 * 14)]
    others = [math.prod(shape) * dtype.itemsize for shape, dtype in uploads if dtype != np.uint8]
    assert max(others) < math.prod(patches[0]) / 10


@pytest.mark.parametrize("program", ["decode", "logprobs", "update"])
def test_a_plan_counts_what_a_run_holds(run, program):
    cfg, held, _ = run
    found = next(p for p in plan_gpus(cfg, 1, "small").programs if p.name == program)
    planned = sum(found.held.values())
    # A few numbers more: keys, what a step reads of the sampler, results on their way to the host.
    assert planned - 2_000 <= held[program] <= 1.01 * planned + 20_000
