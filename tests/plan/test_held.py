# SPDX-License-Identifier: Apache-2.0
"""What a plan says that a run holds is what it holds: bytes of live arrays, counted on the way."""

import dataclasses
from pathlib import Path

import jax
import pytest

from jaxvl import config
from jaxvl.plan.plan import plan_gpus
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
    """The config of a run of one step, and the most bytes that lay on the device: while it decoded,
    while the reference was asked, when all mini-batches were there."""
    cfg = config.load(
        ROOT / "configs/quickstart.py", [*SMALL, f"run.dir={tmp_path_factory.mktemp('held')}"]
    )
    cfg, held = dataclasses.replace(cfg, eval=None), {}
    before = jax.live_arrays()  # held, so that no array of the run gets the id of one of them
    others = {id(x) for x in before}

    def look(program):
        mine = [x for x in jax.live_arrays() if id(x) not in others and not x.is_deleted()]
        held[program] = max(held.get(program, 0), sum(x.nbytes for x in mine))

    states, put_rows = Sampler.states, grpo.put_rows

    def decoding(self, *args):
        for state in states(self, *args):
            look("decode")
            yield state

    def put(tree, *args, lead=0):
        found = put_rows(tree, *args, lead=lead)
        if lead:  # what the reference is asked has no mask yet
            look("logprobs" if tree.mask is None else "update")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "states", decoding)
        patch.setattr(grpo, "put_rows", put)
        grpo.train(cfg)
    return cfg, held


@pytest.mark.parametrize("program", ["decode", "logprobs", "update"])
def test_a_plan_counts_what_a_run_holds(run, program):
    cfg, held = run
    found = next(p for p in plan_gpus(cfg, 1, "small").programs if p.name == program)
    planned = sum(found.held.values())
    # A few numbers more: keys, what a step reads of the sampler, results on their way to the host.
    assert planned - 2_000 <= held[program] <= 1.01 * planned + 20_000
