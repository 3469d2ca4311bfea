# SPDX-License-Identifier: Apache-2.0
"""A plan counts what a run holds, says what a slice is, and what is wrong with a question."""

import dataclasses
import importlib.util
import itertools
import json
import math
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.cli import main
from jaxvl.config import GRPO
from jaxvl.config.validate import check_rows
from jaxvl.distributed.decode_mesh import decode_mesh
from jaxvl.distributed.mesh import make_mesh, param_shardings
from jaxvl.errors import UserError
from jaxvl.models import public, qwen_vl
from jaxvl.plan import advice, checks, estimate, links, show
from jaxvl.plan.chips import CHIPS, Topology
from jaxvl.plan.collectives import Collective
from jaxvl.plan.compile import read_exhausted, tpu_devices
from jaxvl.plan.estimate import shard_bytes
from jaxvl.plan.plan import _beside_others, plan_gpus
from jaxvl.plan.program import Sizes, work
from jaxvl.plan.programs import programs, read_arch
from jaxvl.plan.roofline import roofline
from tests.plan.small import DIM, VOCAB, small_config, small_sft, write_model

PROGRAMS = ("prefill", "decode_early", "grow", "decode", "logprobs", "update")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("plan") / "model")


def test_a_topology():
    slice_ = Topology.parse("v5p:2x4")
    assert (str(slice_), slice_.chips, slice_.shape) == ("v5p:2x4x1", 8, (2, 4, 1))
    assert Topology.parse("v5e:4x4").chip is CHIPS["v5e"]


@pytest.mark.parametrize("text", ["v9:4x4", "v5e", "v5e:4", "v5e:4x4x4", "v6e:4x", "v5p:0x2x2"])
def test_a_topology_that_is_none(text):
    with pytest.raises(UserError, match="expected"):
        Topology.parse(text)


def test_links_between_chips():
    """A group along one axis has a link, along two axes two, along a ring both its ends."""

    def rate(text, *groups, kind="all-gather"):
        """Bytes/s that a chip receives."""
        topology = Topology.parse(text)
        places = list(itertools.product(*map(range, topology.shape)))
        numbers = tuple(tuple(map(places.index, group)) for group in groups)
        one = Collective(kind, 1e9, 1, numbers, "")
        return one.moved / links.seconds(topology, places, one)

    rows = [[(i, j) for j in range(4)] for i in range(4)]
    assert rate("v5e:4x4", *rows) == pytest.approx(50e9)
    assert rate("v5e:4x4", sum(rows, [])) == pytest.approx(100e9)
    assert rate("v5e:16x16", [(0, j) for j in range(16)]) == pytest.approx(100e9)
    # A slice of v4 or v5p is closed to rings only where all its axes are.
    column = [(0, 0, i) for i in range(4)]
    assert rate("v5p:2x2x4", column) == pytest.approx(100e9)
    assert rate("v5p:4x4x4", column) == pytest.approx(200e9)
    # Four pairs across the middle of 2 x 4 chips, where there are two links.
    pairs = [[(0, 0), (1, 3)], [(0, 1), (1, 2)], [(0, 2), (1, 1)], [(0, 3), (1, 0)]]
    assert rate("v5e:2x4", *pairs) == pytest.approx(25e9)
    assert rate("v5e:2x4", pairs[0]) == pytest.approx(100e9)
    # All 8 chips: a sum, and everybody's part for everybody, cross in both directions.
    everyone = [(i, j) for i in range(2) for j in range(4)]
    assert rate("v5e:2x4", everyone, kind="all-reduce") == pytest.approx(100e9)
    assert rate("v5e:2x4", everyone, kind="all-to-all") == pytest.approx(7 / 8 / (2 / 100e9))


def test_roofline():
    """16 GB gathered over four chips of one axis: 12 GB at 50 GB/s; 2 s of products."""
    gather = Collective("all-gather", 8e9, 2, ((0, 1, 2, 3),), "")
    places = [(0, i, 0) for i in range(4)]
    found = roofline(Topology.parse("v5e:4x4"), places, 2 * 197e12, 819e9, [gather])
    assert (found.compute, found.hbm) == (2.0, 1.0)
    assert found.ici == pytest.approx(0.24)
    assert (found.bound, found.seconds) == ("compute", 2.0)
    between = Collective("all-reduce", 12.5e9, 1, ((1, 2),), "", across=True)
    found = roofline(Topology.parse("v5e:4x4", 2), places, 2 * 197e12, 819e9, [gather, between])
    assert (found.bound, found.dcn, found.ici) == ("dcn", 4.0, pytest.approx(0.24))


def test_slices():
    two = Topology.parse("v6e:2x4", 2)
    assert (str(two), two.slice_name, two.chips) == ("2 x v6e:2x4", "v6e:2x4", 16)
    with pytest.raises(UserError, match="how fast slices of v5p are joined.*known of v5e, v6e"):
        Topology.parse("v5p:2x2x1", 2)


def test_what_does_not_fit_is_read():
    """In the words of the TPU compiler."""
    wanted, largest = read_exhausted(
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 22.50G of 15.75G hbm. Exceeded hbm capacity by 6.75G.\n\nTotal hbm usage >= "
        "22.75G:\n    reserved        258.00M\n    program          3.50G\n    arguments"
        "       19.00G\n\n  Largest program allocations in hbm:\n\n  1. Size: 1.50G\n"
        '     Operator: op_name="jit(update)/while" source_file="a.py"\n     Shape: f32[28,1024]'
        "{1,0:T(8,128)}\n     Unpadded size: 1.40G\n\n  2. Size: 512.0M\n     Shape: bf16[8]\n"
    )
    assert wanted == 22.5 * 2**30
    assert largest[0] == (1.5 * 2**30, "f32[28,1024]{1,0:T(8,128)}", "jit(update)/while")
    assert largest[1] == (2**29, "bf16[8]", "")
    wanted, _ = read_exhausted(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (582.34G) exceeds available HBM (15.75G)."
    )
    assert wanted == 582.34 * 2**30
    # A kernel's own memory is another matter.
    other = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 256.00M of 128.00M vmem."
    )
    assert read_exhausted(other)[0] == 0


def test_settings_that_move_an_array(model):
    """By the program that makes it, in fields that the run's config has."""
    cfg, sft = small_config(model), small_sft(model)
    arch, sizes = read_arch(cfg.model), Sizes.of(cfg)
    rows = sizes.tokens + sizes.completions * sizes.length
    for of, program, shape, expected in (
        (cfg, "update", f"f32[2,64,{VOCAB}]", "grpo.logprob_chunk"),
        (sft, "update", f"f32[2,64,{VOCAB}]", "sft.logprob_chunk"),
        (cfg, "update", f"bf16[{VOCAB // 2},{DIM}]", "mesh.tensor"),
        (cfg, "update", f"bf16[2,{rows},384]", "grpo.micro_batches"),
        (sft, "update", f"bf16[2,{rows},384]", "sft.target_length"),
        (cfg, "update", "bf16[2,256,320]", "patch_buckets"),
        (cfg, "prefill", f"f32[2,4,{VOCAB}]", "grpo.prompts"),
        (cfg, "decode", "bf16[8,2,128,128]", "sampling.slots"),
        (cfg, "update", "f32[7,7]", ""),
    ):
        mesh = {"data": 1, "fsdp": 4, "tensor": 2}
        found = advice.for_array(shape, advice.Of(of, arch, mesh, program))
        assert expected in found and bool(found) == bool(expected), shape


def test_what_is_held_has_a_setting(model):
    """Every kind of memory that a plan names, but for numbers of a few bytes."""
    for cfg in (small_config(model, fsdp=4, tensor=2), small_sft(model)):
        arch = read_arch(cfg.model)
        with jax.set_mesh(mesh := make_mesh(1, 4, 2)):
            for program in programs(cfg, arch, mesh):
                for kind, size in estimate.held(program).items():
                    assert size < 100 or advice.for_kind(kind, cfg.batch.prompts_field), kind


def test_what_gpus_hold_is_what_arrays_take(model):
    """Counted from shapes, on a mesh: the bytes of the same arrays on a device."""
    cfg = small_config(model, fsdp=4, tensor=2)
    found = plan_gpus(cfg, 8, "small")
    mesh, shapes = make_mesh(1, 4, 2), qwen_vl.abstract_params(read_arch(cfg.model))
    held = jax.tree.map(
        lambda x, sharding: jax.device_put(np.zeros(x.shape, np.float32), sharding),
        shapes,
        param_shardings(shapes, mesh),
    )
    here = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(held))
    update = next(program for program in found.programs if program.name == "update")
    assert update.memory["parameters"] == here
    assert update.memory["moments"] == 2 * here + 8  # and two counters
    assert update.memory["reference"] == here / 2  # in bfloat16
    assert set(update.held) <= set(update.memory)
    # Two rows of patches as bytes of one frame, their places and numbers, and how to normalise.
    batch = 2 * (256 * 588 + 256 * 4 * 4 + 4 * 3 * 4)
    tokens = 2 * (128 * (1 + 3 + 1) * 4 + 4 * 4)
    completions = 2 * (4 * 128 * (4 + 1 + 4 + 4) + 4 * 4)
    assert update.memory["batch"] == batch + tokens + completions
    assert found.fits and found.seconds is None and not found.exact
    assert "fits" in show.text(found)


def test_waves_are_counted(model):
    """Four slots a shard of 32 completions: places for three rows of a shard's eight, the other
    five one after the other. Logits that a program draws from are those of its own rows."""
    cfg = small_config(model)
    cfg = dataclasses.replace(cfg, sampling=dataclasses.replace(cfg.sampling, slots=8))
    cfg = dataclasses.replace(cfg, grpo=dataclasses.replace(cfg.grpo, prompts=16))
    arch, made = read_arch(cfg.model), {}
    with jax.set_mesh(mesh := make_mesh(1, 2, 1, devices=jax.devices()[:2])):
        found = {program.name: program for program in programs(cfg, arch, mesh)}
        assert list(found) == ["prefill", "wave", *PROGRAMS[2:]]
        for name in ("prefill", "wave"):
            # Of a vocabulary beside which all else is small.
            wide = dataclasses.replace(arch.text, vocab=10**9, dim=1)
            wide = dataclasses.replace(arch, text=wide)
            made[name] = estimate.temporaries(found[name], cfg, wide, mesh)
        wave, decode = found["wave"], found["decode"]
        assert sum(estimate.held(wave).values()) == sum(estimate.held(decode).values())
        donated = wave.lower().as_text().count("jax.buffer_donor")
    assert (found["prefill"].calls, wave.calls) == (1, 5)
    rows = found["prefill"].work.model_flops, wave.work.model_flops
    assert rows[0] == pytest.approx(3 * rows[1])
    assert made["prefill"] == pytest.approx(3 * made["wave"], rel=1e-3)
    assert donated  # the caches of prompts are written in place


def test_caches_are_half_as_large_for_the_first_half_of_the_tokens(model):
    arch = read_arch((cfg := small_config(model)).model)
    with jax.set_mesh(mesh := make_mesh(devices=jax.devices()[:1])):
        found = {program.name: program for program in programs(cfg, arch, mesh)}
    early, late = found["decode_early"], found["decode"]
    assert (early.turns, late.turns) == (64, 64)
    caches = [shard_bytes(x.args["completions"].cache) for x in (early, late)]
    assert 2 * caches[0] == caches[1] > 0
    both = early.work.model_flops + late.work.model_flops
    assert both == work(arch, Sizes.of(cfg), "decode").model_flops


def test_decoding_on_a_mesh_of_its_own_is_counted(model):
    """Two devices share weights that all eight had whole; what is moved there is held until the
    last prompt is prefilled, and training's own all the while."""
    cfg = small_config(model, fsdp=-1)

    def planned(cfg, **sampling):
        cfg = dataclasses.replace(cfg, sampling=dataclasses.replace(cfg.sampling, **sampling))
        return {one.name: one.held for one in plan_gpus(cfg, 8, "small").programs}

    plain, apart = planned(cfg), planned(cfg, tensor=2)
    assert list(apart) == ["reshard", *PROGRAMS]
    weights = "weights for decoding"
    assert apart["decode"][weights] == pytest.approx(plain["decode"][weights] / 2, rel=0.1)
    assert apart["decode"]["parameters"] == plain["decode"]["parameters"]
    with_parameters = [name for name, held in apart.items() if "moved parameters" in held]
    assert with_parameters == ["reshard", "prefill"]
    arch, mesh = read_arch(cfg.model), make_mesh(1, 8, 1)
    shapes = qwen_vl.abstract_params(arch)
    shardings = param_shardings(shapes, decode_mesh(mesh, 2))
    moved = jax.tree.map(lambda x, to: 2 * math.prod(to.shard_shape(x.shape)), shapes, shardings)
    assert apart["prefill"]["moved parameters"] == sum(jax.tree.leaves(moved))  # in bfloat16
    assert apart["update"] == plain["update"]
    for kind, size in apart["prefill"].items():
        assert size < 100 or advice.for_kind(kind, cfg.batch.prompts_field), kind
    cfg = dataclasses.replace(cfg, grpo=dataclasses.replace(cfg.grpo, prompts=32))
    waves = planned(cfg, tensor=2, slots=8)
    assert "moved parameters" in waves["wave"] and "moved parameters" in waves["decode"]
    with pytest.raises(UserError, match="sampling.tensor = 8"):
        planned(cfg, tensor=8)  # two heads


def test_eight_bits_halve_the_weights_of_layers(model):
    """But for the table of tokens, norms, biases and the scales."""
    cfg = small_config(model)
    found = []
    for weights in (None, "int8"):
        cfg = dataclasses.replace(cfg, sampling=dataclasses.replace(cfg.sampling, weights=weights))
        decode = next(one for one in plan_gpus(cfg, 1, "one").programs if one.name == "decode")
        found.append(decode.held["weights for decoding"])
    text = read_arch(cfg.model).text
    kv = text.kv_heads * text.head_dim
    layer = text.dim * (2 * text.heads * text.head_dim + 2 * kv + 3 * text.hidden)
    scales = 4 * (2 * text.dim + text.heads * text.head_dim + 2 * kv + 2 * text.hidden)
    assert found[0] - found[1] == text.layers * (layer - scales)


def test_a_program_that_is_refused_without_a_size(model):
    """No size is made up: neither a share of the memory, nor rows that would fit."""
    plan = plan_gpus(small_config(model), 2, "two")
    assert plan.largest_micro_batch is not None
    refused = dataclasses.replace(
        plan.programs[-1], refused="out of vmem", memory={"arguments": 1.0, "beside": 1.0}
    )
    plan = dataclasses.replace(plan, programs=(*plan.programs[:-1], refused))
    assert not plan.fits and plan.largest_micro_batch is None
    told = show.text(plan)
    assert "refused by the compiler: out of vmem" in told and "at most" not in told
    (line,) = (line for line in told.splitlines() if line.startswith("update  "))
    assert line.split()[-2:] == ["?", "?"]


def test_a_single_device_splits_nothing():
    params = {"head": jax.ShapeDtypeStruct((1 << 13, 1 << 10), jnp.float32)}
    assert checks.replicated(params, make_mesh(1, 1, 1, devices=jax.devices()[:1])) == []


def test_bytes_on_a_device():
    mesh = make_mesh(1, 4, 2)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("tensor", "fsdp"))
    x = jax.ShapeDtypeStruct((8, 16), jnp.bfloat16, sharding=sharding)
    here = jax.device_put(np.zeros((8, 16), jnp.bfloat16), sharding)
    assert shard_bytes({"x": x}) == here.addressable_shards[0].data.nbytes


def test_a_model_that_is_not_known():
    with pytest.raises(UserError, match="no directory with config.json.*qwen2_vl_2b"):
        public.config("Qwen/Qwen9-VL-2B")
    assert public.config("Qwen/Qwen2.5-VL-72B-Instruct")["model_type"] == "qwen2_5_vl"


def test_without_the_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jaxvl\[tpu\]'"):
        tpu_devices(Topology.parse("v5e:4x4"))


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("plan") / "small.py"
    path.write_text(
        "from pathlib import Path\nfrom tests.plan.small import small_config\n"
        f"def config():\n    return small_config(Path({str(model)!r}))\n"
    )
    return path


def run(monkeypatch, capsys, *args):
    """Exit code, stdout and stderr of the command, in this process and its eight devices."""
    monkeypatch.setattr(sys, "argv", ["jaxvl", "plan", *map(str, args)])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    code = 0
    try:
        main.main()
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_the_command(monkeypatch, capsys, config_file):
    code, out, _ = run(monkeypatch, capsys, config_file, "--gpus", "8", "--json", "mesh.fsdp=8")
    found = json.loads(out)
    assert code == 0 and found["fits"] and found["mesh"]["fsdp"] == 8
    assert [program["name"] for program in found["programs"]] == list(PROGRAMS)


def test_what_does_not_fit_ends_with_1(monkeypatch, capsys, config_file):
    big = "model.path=Qwen/Qwen2.5-VL-72B-Instruct"
    code, out, _ = run(monkeypatch, capsys, config_file, "--gpus", "1", big)
    assert code == 1
    assert "DOES NOT FIT" in out and "update is" in out and "too large" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "expected --topology"),
        (("--gpus", "1", "--topology", "v5e:4x4"), "expected --topology"),
        (("--gpu", "h100", "--topology", "v5e:4x4"), "expected --topology"),
        (("--host", "--gpus", "1"), "or --host"),
        (("--gpus", "1", "--slices", "2"), "--slices are of a --topology"),
        (("--gpu", "h101", "--gpus", "8"), "no such GPU; expected one of a100, h100, h200"),
        (("--gpu", "h200", "--gpus", "9"), "expected 1 to 8 with --gpu"),
        (("--topology", "v5x:4x4"), "no chip 'v5x'"),
        (("--gpus", "1", "model.path=no/model"), "model.path = no/model"),
        (("--gpus", "8", "mesh.fsdp=8", "grpo.prompts=3"), "not a multiple of 8"),
        (("--gpus", "1", "data.prompt_buckets=auto"), "a plan reads none: say the sizes"),
        (("--gpus", "1", "data.patch_buckets=auto"), "data.patch_buckets=2048"),
    ],
)
def test_a_mistake_ends_with_2(monkeypatch, capsys, config_file, args, message):
    code, _, err = run(monkeypatch, capsys, config_file, *args)
    assert code == 2 and message in err


def test_tables_of_banned_words_are_counted(model):
    """Of prefill and both loops of decoding, each with its own: int16 by state and token. "over"
    and "oven" begin with the same three letters, so that they and the start make six states."""
    cfg = small_config(model)
    words = dataclasses.replace(
        cfg, sampling=dataclasses.replace(cfg.sampling, ban=("Over", "oven"))
    )
    without, found = (plan_gpus(one, 1, "ban") for one in (cfg, words))
    for before, after in zip(without.programs, found.programs, strict=True):
        assert after.memory["tables of sampling.ban"] == 3 * 6 * VOCAB * 2
        grown = after.total - before.total - 3 * 6 * VOCAB * 2
        # What follows a completion through the table is a number a slot.
        assert 0 <= grown < 1000


def test_the_code_of_other_programs_stays(model):
    """A chip holds all programs of a step, not only the one that runs."""
    plan = plan_gpus(small_config(model), 1, "code")
    sizes = (3.0, 5.0, 7.0)
    reports = [
        dataclasses.replace(report, memory={"arguments": 1.0, "code": size})
        for report, size in zip(plan.programs, sizes, strict=False)
    ]
    found = [_beside_others(report, reports).total for report in reports]
    assert found == [1.0 + sum(sizes)] * 3


def test_advice_leaves_a_steps_batch_until_last(model):
    """64 chips and 64 rows of one completion each: shorter rows are a cure, more prompts are not
    named; where nothing else fits they are."""
    for kind in ("batch", "caches of prompts", "completions"):
        said = advice.for_kind(kind, "grpo.prompts")
        assert said.startswith(("mesh.", "sampling.slots")), said
    for grpo, cure in (
        ({"prompts": 8, "group": 8}, "try grpo.group_per_row=1"),
        ({"prompts": 8, "group": 8, "group_per_row": 1, "micro_batches": 2}, "micro_batches=1"),
        (
            {"prompts": 8, "group": 8, "micro_batches": 2},
            "try grpo.group_per_row=1 grpo.micro_batches=1$",
        ),
        ({"prompts": 7, "group": 8}, "try grpo.prompts=64"),
    ):
        cfg = dataclasses.replace(small_config(model), grpo=GRPO(**grpo))
        with pytest.raises(UserError, match=cure) as caught:
            check_rows(cfg.batch, 64)
        assert ("prompts=" in str(caught.value)) == ("prompts=" in cure)
