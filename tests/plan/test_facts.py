# SPDX-License-Identifier: Apache-2.0
"""What programs of two layers exchange and hold on eight devices: facts that must not drift."""

import dataclasses
import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from jaxvl.config import Sampling
from jaxvl.distributed import mesh
from jaxvl.distributed.mesh import make_mesh
from jaxvl.models import public, qwen_vl
from jaxvl.models.io import hf
from jaxvl.plan import checks
from jaxvl.plan.collectives import collectives
from jaxvl.plan.hlo import Array, Module
from jaxvl.plan.program import Program
from jaxvl.plan.programs import programs, read_arch
from jaxvl.rl import sampler
from jaxvl.rl.sampling import BLOCK, SamplingParams, sample_token
from tests.plan.small import DIM, VOCAB, small_config, write_model

MESH = (1, 4, 2)
TURNS = 64  # of the loop that decodes the second half of 128 tokens
# (kind, devices of a group) -> how many in a call, loops unrolled.
FACTS = {
    ("all-gather", 4): 56,  # weights over fsdp, forward and again backward
    ("all-reduce", 2): 50,  # activations, softmax and logits over tensor, the gradient's norm
    ("all-reduce", 4): 10,  # gradients over rows: a CPU has no reduce-scatter
}
RENEW = """
What an update's devices exchange has changed. If that is meant (another layer, another way to cut,
a new version of jax), write the new counts into FACTS and say why in the commit. If it is not, a
weight is gathered, or a gradient summed, more often than before: `op_name` of the collectives that
jaxvl.plan.collectives.collectives(Module(text)) lists says where."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The small run's config, arch and mesh, and its update's module."""
    cfg = small_config(write_model(tmp_path_factory.mktemp("facts")), fsdp=4, tensor=2)
    mesh, arch = make_mesh(*MESH), read_arch(cfg.model)
    with jax.set_mesh(mesh):
        update = next(p for p in programs(cfg, arch, mesh) if p.name == "update")
        text = update.lower().compile().as_text()
    return cfg, arch, mesh, Module(text, update.turns)


def test_collectives_of_an_update(compiled):
    found = Counter()
    for one in collectives(compiled[3]):
        found[one.kind, one.size] += int(one.times)
    assert dict(found) == FACTS, RENEW


def test_an_update_holds_nothing_that_the_design_rules_out(compiled):
    cfg, arch, mesh, module = compiled
    assert checks.faults(module, cfg, arch, mesh) == []


def few(path, sizes: tuple[int, ...], **sampling) -> tuple[dict[str, Program], jax.sharding.Mesh]:
    """The small run's programs by name with a choice among few, on a mesh."""
    cfg = small_config(write_model(path))
    cfg = dataclasses.replace(
        cfg, sampling=Sampling(max_new_tokens=128, top_k=3, top_p=0.9, **sampling)
    )
    mesh = make_mesh(*sizes)
    with jax.set_mesh(mesh):
        return {p.name: p for p in programs(cfg, read_arch(cfg.model), mesh)}, mesh


def module(program: Program, mesh: jax.sharding.Mesh) -> Module:
    with jax.set_mesh(program.mesh or mesh):
        return Module(program.lower().compile().as_text(), program.turns)


@pytest.fixture(scope="module", params=["one mesh", "a mesh of its own"])
def decode(tmp_path_factory, request):
    """Decoding with the vocabulary on two devices, which training has too or has not."""
    path = tmp_path_factory.mktemp("decode")
    sizes, apart = (MESH, {}) if request.param == "one mesh" else ((1, 8, 1), {"tensor": 2})
    found, mesh = few(path, sizes, **apart)
    assert ("reshard" in found) == bool(apart)
    return module(found["decode"], mesh)


def test_logits_are_not_gathered_to_be_drawn_from(decode):
    """Devices tell each other a few numbers a completion; none holds logits of all tokens."""
    of_token = [one for one in collectives(decode) if one.times >= TURNS and one.size == 2]
    assert of_token and max(one.bytes for one in of_token) < 16 * 1024
    wide = [array for array, _ in decode.arrays() if array.dtype == "f32" and VOCAB in array.shape]
    assert wide == []


def test_a_token_is_drawn_without_a_sort_of_the_vocabulary(decode):
    lines = [part for line, times in decode.running() for part in decode.inside(line)]
    sorts = [line for line in lines if line.opcode == "sort" or line.target == "TopK"]
    widths = [max(decode.lines[line.operands[0]].results[0].shape) for line in sorts]
    assert widths and max(widths) <= 3 * BLOCK < VOCAB // 2


def test_shards_tell_each_other_once_a_token_whether_to_go_on(decode):
    (one,) = (one for one in collectives(decode) if one.times >= TURNS and one.size == 4)
    assert one.kind == "all-reduce" and one.bytes <= 16


def test_no_weight_is_moved_while_tokens_are_drawn(decode):
    """What devices exchange at every token is activations of its slots."""
    of_token = [one for one in collectives(decode) if one.times >= 128]
    smallest = DIM * DIM // 2  # bytes of half of the attention's last weight, were it int8
    assert of_token and max(one.bytes for one in of_token) < smallest


def test_weights_are_moved_once_before_decoding(tmp_path):
    """Each leaf in its exchange; the loop of decoding is another program."""
    found, mesh = few(tmp_path, (1, 8, 1), tensor=2)
    moves = collectives(module(found["reshard"], mesh))
    assert moves and {one.times for one in moves} == {1}
    assert {one.kind for one in moves} <= {"all-to-all", "all-gather", "collective-permute"}


def test_a_token_reads_the_prompts_in_slots_alone(tmp_path_factory, monkeypatch):
    """Four slots, eight rows of four completions: three rows are held, and by `traffic` a token
    reads less by what the other five's keys and values are."""
    cfg = small_config(write_model(tmp_path_factory.mktemp("slots")))
    cfg = dataclasses.replace(cfg, sampling=Sampling(max_new_tokens=128, slots=4))
    mesh, traffic = make_mesh(devices=jax.devices()[:1]), []
    for held in (3, 8):
        monkeypatch.setattr(sampler, "places", lambda slots, rows, group, held=held: held)
        with jax.set_mesh(mesh):
            found = {p.name: p for p in programs(cfg, read_arch(cfg.model), mesh)}
            decode = found["decode"]
            assert ("wave" in found) == (held < 8)
            cache = decode.args["past"].decode_model.prompts
            assert {x.shape[:2] for x in jax.tree.leaves(cache)} == {(1, held)}
            module = Module(decode.lower().compile().as_text(), decode.turns)
        traffic.append(module.traffic() / decode.turns)
    row = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache)) / 8
    assert traffic[1] - traffic[0] >= 5 * row


@pytest.mark.parametrize("top_k", [1, 20, 50, 64])
def test_no_sort_is_wider_than_8192(top_k):
    """Of the published vocabulary, as the program is written: two stages, and none for top_p."""
    how = SamplingParams(1, 1, (), 0, top_k=top_k, top_p=0.9)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        logits = jax.ShapeDtypeStruct((1, 8, 151_936), jnp.float32)
        seed = jax.ShapeDtypeStruct((1, 8), jnp.uint32)
        text = jax.jit(sample_token, static_argnums=2).lower(logits, seed, how).as_text()
    widths = re.findall(r"top_k\(.*?: tensor<1x8x(\d+)xf32>", text)
    assert len(widths) == 2 and max(map(int, widths)) <= 8192 and "stablehlo.sort" not in text


@pytest.mark.parametrize(
    "array",
    [
        Array("f32", (2, 512, VOCAB // 2)),  # logits of all completions of two rows
        Array("f32", (1024, VOCAB)),
        Array("f32", (2, 128, VOCAB // 2)),  # of two chunks
        Array("f32", (2, 1, 640, 640)),  # scores of a row's tokens
        Array("bf16", (2, 4, 128, 640, 640)),
        Array("f32", (2, 1, 640, 768)),  # with what a kernel pads
    ],
    ids=str,
)
def test_what_is_ruled_out_is_seen(compiled, array, monkeypatch):
    cfg, arch, mesh, module = compiled
    monkeypatch.setattr(module, "arrays", lambda: [(array, "here")])
    assert len(checks.faults(module, cfg, arch, mesh)) == 1


def test_what_is_fine_is_not_seen(compiled, monkeypatch):
    cfg, arch, mesh, module = compiled
    fine = [
        Array("f32", (2, 64, VOCAB // 2)),
        Array("f32", (VOCAB, DIM)),
        Array("f32", (VOCAB // 2, DIM // 4)),
        Array("f32", (640, DIM)),
        Array("bf16", (4, 2, 640, 640 + 1)),
        Array("s32", (2, 640, 640)),
    ]
    monkeypatch.setattr(module, "arrays", lambda: [(array, "") for array in fine])
    assert checks.faults(module, cfg, arch, mesh) == []


@pytest.mark.parametrize("name", public.NAMES)
def test_no_large_parameter_is_on_every_device(name):
    params = qwen_vl.abstract_params(hf.arch_from_config(public.config(name)))
    assert checks.replicated(params, make_mesh(1, 8, 1)) == []
    assert checks.replicated(params, make_mesh(8, 1, 1, jax.devices())) != []


def test_an_axis_that_a_rule_forgets(monkeypatch):
    params = qwen_vl.abstract_params(hf.arch_from_config(public.config(public.NAMES[0])))
    forgotten = tuple((pattern, P("tensor", None)) if pattern == r"embed/w$" else (pattern, spec)
                      for pattern, spec in mesh.PARAM_RULES)  # fmt: skip
    monkeypatch.setattr(mesh, "PARAM_RULES", forgotten)
    (found,) = checks.replicated(params, make_mesh(1, 4, 2))
    assert "text/embed/w" in found and "not split over fsdp" in found
