# SPDX-License-Identifier: Apache-2.0
"""A plan of two layers by the TPU's own compiler, where that is installed."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvl.distributed.mesh import ROWS, make_mesh
from jaxvl.models.layers import SwiGLU
from jaxvl.plan.chips import Topology
from jaxvl.plan.collectives import collectives
from jaxvl.plan.compile import compile_program, tpu_devices
from jaxvl.plan.hlo import Module
from jaxvl.plan.program import Program, ProgramWork
from jaxvl.plan.programs import programs, read_arch
from jaxvl.rl.sampling import SamplingParams, sample_token
from tests.plan.small import small_config, write_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu compiles for TPUs: jaxvl[tpu]"
)
ROOT = Path(__file__).parents[2]
VOCAB = 151_936  # tokens of the published models


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """`jaxvl plan` in a process of its own, without the flags that make compiling fast in tests."""
    folder = tmp_path_factory.mktemp("tpu")
    path = folder / "small.py"
    path.write_text(
        "from pathlib import Path\nfrom tests.plan.small import small_sft\n"
        f"def config():\n    return small_sft(Path({str(write_model(folder / 'model'))!r}))\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "jaxvl", "plan", path, "--topology", "v5e:2x4", "--json"],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_it_fits(plan):
    (update,) = plan["programs"]
    assert plan["fits"] and plan["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1}
    assert 0 < update["total"] < plan["hbm"]
    assert 0 < plan["update_mfu_ceiling"] < 1 and plan["step_seconds"] > 0
    assert update["roofline"]["bound"] in ("compute", "hbm", "ici")


def test_it_is_forecast(plan):
    """By part, and what has no figure is named; longer than the bound."""
    found = plan["programs"][0]["forecast"]
    assert found["parts"].keys() == {"tower", "decoder", "head", "rest"} and found["kernels"] > 0
    assert found["missing"]["kernel"] == 2 * 2 * 4
    assert plan["forecast_seconds"] == found["seconds"] > plan["step_seconds"]
    assert 0 < plan["update_mfu_forecast"] < plan["update_mfu_ceiling"]


def test_nothing_that_the_design_rules_out(plan):
    """Neither logits nor scores of a whole row, nor an array made whole by accident."""
    assert plan["programs"][0]["warnings"] == []


def test_attention_is_a_kernel(plan):
    """Forward, again for the backward pass, and two kernels backward; tower and decoder."""
    assert plan["programs"][0]["kernels"] == {"tpu_custom_call": 2 * 2 * 4}


def test_gradients_are_summed_and_cut_in_one_exchange(plan):
    """A reduction of the whole gradient of a weight would move twice the bytes. One weight is
    reduced so since the norm of all gradients decides whether the state changes (1.4 MB here)."""
    moved = {one["kind"]: one["bytes"] for one in plan["programs"][0]["collectives"]}
    assert moved["all-reduce"] < 0.2 * moved["reduce-scatter"]


def test_nothing_is_computed_twice(plan):
    """Executed FLOPs against the model's: forward again, padding, and what kernels skip."""
    update = plan["programs"][0]
    assert 1 < update["flops"] / update["model_flops"] < 2


def test_slices_exchange_what_their_chips_have_summed():
    """64 numbers of every row, summed over two slices of four chips: first within, then between."""
    mesh = make_mesh(2, 4, 1, devices=tpu_devices(Topology.parse("v5e:2x2", 2)))
    rows = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=NamedSharding(mesh, P(ROWS, None)))
    with jax.set_mesh(mesh):
        text = jax.jit(lambda x: x.sum(0)).lower(rows).compile().as_text()
    found = {(one.kind, one.across): one for one in collectives(Module(text))}
    assert found.keys() == {("all-reduce", False), ("all-reduce", True)}
    assert found["all-reduce", False].size == 4 and found["all-reduce", True].size == 2


def program(function, x: jax.ShapeDtypeStruct, **how) -> Program:
    return Program("of a test", jax.jit(function, **how), {"x": x}, {}, {}, ProgramWork(0.0, 0.0))


def test_what_a_chip_cannot_hold_is_refused_in_the_compilers_words():
    """20 GiB on a chip of 16: no traceback, and the size that is wanted."""
    mesh = make_mesh(1, 4, 1, devices=tpu_devices(Topology.parse("v5e:2x2")))
    large = jax.ShapeDtypeStruct(
        (4 * 5 * 2**20, 1024), jnp.float32, sharding=NamedSharding(mesh, P(ROWS, None))
    )
    with jax.set_mesh(mesh):
        done = compile_program(program(lambda x: x * 2, large))
    assert done.memory is None and "RESOURCE_EXHAUSTED" in done.refused
    assert done.wanted >= 20 * 2**30


def test_an_array_that_is_made_whole_by_accident_is_a_warning():
    """The TPU compiler says so on stderr, as the CPU's does, once it is asked to."""
    devices = np.array(tpu_devices(Topology.parse("v5e:2x4"))).reshape(4, 2)
    mesh = Mesh(devices, ("a", "b"), axis_types=(AxisType.Auto,) * 2)

    def cut(*spec):
        return NamedSharding(mesh, P(*spec))

    def turned(x):
        x = jax.lax.with_sharding_constraint(x.reshape(512 * 1024, 256), cut(None, ("b", "a")))
        x = jax.lax.with_sharding_constraint(x.reshape(1024, 512, 256), cut("b", None, "a"))
        return jax.lax.with_sharding_constraint(jnp.sin(x), cut(None, "a", "b"))[::-1, 3:]

    x = jax.ShapeDtypeStruct((512, 1024, 256), jnp.float32, sharding=cut("a", "b", None))
    assert compile_program(program(turned, x, out_shardings=cut("a", None, "b"))).warnings


def test_eight_bits_are_read_as_they_are(tmp_path):
    """Weights, keys and values: no array of the shape of one is written in another dtype while
    tokens are drawn."""
    cfg = small_config(write_model(tmp_path / "model"))
    sampling = dataclasses.replace(cfg.sampling, weights="int8", cache="int8")
    cfg = dataclasses.replace(cfg, sampling=sampling)
    mesh = make_mesh(devices=tpu_devices(Topology.parse("v6e:2x2"))[:1])
    with jax.set_mesh(mesh):
        (decode,) = (p for p in programs(cfg, read_arch(cfg.model), mesh) if p.name == "decode")
        module = Module(decode.lower().compile().as_text(), decode.turns)

    def form(shape):
        return tuple(sorted(size for size in shape if size > 1))

    eight = {form(x.shape) for x in jax.tree.leaves(decode.args) if x.dtype == jnp.int8}
    in_loop = [line for line, times in module.running() if times >= decode.turns]
    read = {str(array) for line in in_loop for array in line.results if form(array.shape) in eight}
    assert len(eight) == 5 and read and {array[:3] for array in read} == {"s8["}


def test_logits_are_drawn_from_where_they_lie():
    """128 slots and the published vocabulary, behind its product: none lays the logits out anew."""
    mesh = make_mesh(devices=tpu_devices(Topology.parse("v6e:2x2"))[:1])
    how = SamplingParams(4, 1024, (1, 2), 0, (151_655, 151_656), temperature=0.8)

    def token(x, table, seed):
        logits = jnp.einsum("RSD,VD->RSV", x, table, preferred_element_type=jnp.float32)
        return sample_token(logits, seed, how)

    shapes = (((1, 128, 512), jnp.bfloat16), ((VOCAB, 512), jnp.bfloat16), ((1, 128), jnp.uint32))
    whole = NamedSharding(mesh, P())
    args = (jax.ShapeDtypeStruct(*shape, sharding=whole) for shape in shapes)
    with jax.set_mesh(mesh):
        module = Module(jax.jit(token).lower(*args).compile().as_text())
    size = 128 * VOCAB * 4
    large = [line.opcode for line, _ in module.running() if line.bytes >= size]
    assert large and not {"copy", "transpose", "sort"} & set(large)


def test_a_fusion_holds_one_product():
    """VLAA 3B's gated layer forward alone, as where it is made again, for 5,120 tokens on a v6e."""
    mesh = make_mesh(devices=tpu_devices(Topology.parse("v6e:2x2"))[:1])

    def shaped(leaf, *spec):
        where = NamedSharding(mesh, P(*spec))
        return jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=where)

    with jax.set_mesh(mesh), jax.default_matmul_precision("default"):  # as in a run
        layer = nnx.eval_shape(lambda: SwiGLU(2048, 11_008, bias=False, rngs=nnx.Rngs(0)))
        graph, weights = nnx.split(layer)
        x = shaped(jax.ShapeDtypeStruct((1, 5120, 2048), jnp.bfloat16), ROWS)
        forward = jax.jit(lambda weights, x: nnx.merge(graph, weights)(x))
        module = Module(forward.lower(jax.tree.map(shaped, weights), x).compile().as_text())
    products = [
        sum(part.opcode in ("convolution", "dot") for part in module.inside(line))
        for line, _ in module.running()
    ]
    assert max(products) == 1 and sum(products) == 3
