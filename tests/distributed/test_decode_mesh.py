# SPDX-License-Identifier: Apache-2.0
"""Decoding on a mesh of its own draws what the training mesh draws; nothing else is moved."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.config import LoRA
from jaxvl.distributed.decode_mesh import ParamReshard, decode_mesh
from jaxvl.distributed.mesh import make_mesh, param_shardings, put_rows
from jaxvl.errors import UserError
from jaxvl.models.inputs import Prompt
from jaxvl.models.layers import cast
from jaxvl.plan.collectives import collectives
from jaxvl.plan.hlo import Module
from jaxvl.rl.resharded import make_sampler
from jaxvl.rl.sampling import SamplingParams
from jaxvl.vlm import load
from tests.distributed.test_mesh import LOGPS, PROMPTS, STOP, two_slices
from tests.rl.adapted import adapted
from tests.rl.rows import prompt_arrays

SHAPES = {
    "text/embed/w": (64, 16),
    "text/layers/attn/q/w": (3, 16, 32),
    "text/layers/attn/q/lora/a": (3, 16, 2),
    "text/layers/attn/q/lora/b": (3, 2, 32),
    "text/layers/norm1/scale": (3, 16),
}
# Training mesh and devices along tensor: fsdp is cut; it is used up, and so is data; all three.
MESHES = [((1, 8, 1), 2), ((2, 2, 2), 8), ((1, 4, 2), 4)]


@pytest.mark.parametrize(("sizes", "tensor"), MESHES, ids=str)
def test_parameters_are_moved_as_the_rules_say(sizes, tensor):
    """Bit for bit, and no device receives more of a parameter than it comes to hold, or what stands
    in its place on the devices that data has."""
    training = make_mesh(*sizes)
    decoding = decode_mesh(training, tensor)
    assert list(decoding.devices.flat) == list(training.devices.flat)
    assert dict(decoding.shape) == {"data": 8 // tensor, "fsdp": 1, "tensor": tensor}
    rng = np.random.default_rng(0)
    params = {path: rng.standard_normal(shape, np.float32) for path, shape in SHAPES.items()}
    placed = jax.device_put(params, param_shardings(params, training))
    moving = ParamReshard(training, decoding, functools.partial(cast, dtype=jnp.bfloat16))
    moved, expected = moving(placed), param_shardings(params, decoding)
    for path, x in moved.items():
        assert x.sharding == expected[path], path
        np.testing.assert_array_equal(x, params[path].astype(jnp.bfloat16))
    assert moving.move._cache_size() == 1
    with jax.set_mesh(moving.mesh):
        text = moving.move.lower(moving.asked(placed)).compile().as_text()
    largest = max(np.prod(expected[path].shard_shape(shape)) for path, shape in SHAPES.items())
    exchanged = [one.bytes for one in collectives(Module(text, 1))]
    assert max(exchanged, default=0) <= 4 * largest * moving.mesh.shape["m"]  # in float32


def test_without_a_mesh_of_its_own_nothing_is_moved():
    training = make_mesh(2, 2, 2)
    assert decode_mesh(training, None) is training and decode_mesh(training, 2) is training


@pytest.mark.parametrize(
    ("sizes", "tensor", "message"),
    [
        ((1, 8, 1), 3, r"sampling.tensor = 3 does not fit mesh .*expected one of 1, 2, 4, 8"),
        ((1, 4, 2), 1, "expected one of 2, 4, 8"),
        ((1, 8, 1), 16, "expected one of 1, 2, 4, 8"),
    ],
)
def test_meshes_that_do_not_fit_are_named(sizes, tensor, message):
    with pytest.raises(UserError, match=message):
        decode_mesh(make_mesh(*sizes), tensor)


def test_weights_are_not_cut_across_slices():
    chips = sorted(two_slices(), key=lambda chip: chip.slice_index)
    training = make_mesh(2, 8, 1, chips)
    assert decode_mesh(training, 8).shape["data"] == 2
    with pytest.raises(UserError, match="across TPU slices"):
        decode_mesh(training, 16)


@pytest.mark.parametrize("eight_bits", [False, True], ids=["plain", "eight bits"])
def test_what_is_drawn(tiny_path, pictures, caplog, eight_bits):
    """By a model with adapters, on one device and on meshes for training and for decoding, where
    prompts come in waves. A second rollout compiles nothing, nor does the first where all was
    compiled ahead. In eight bits the last bit of a sum may take a number of a key a step of 1/127
    further."""
    drawn, images = [], [pictures[1:2], [], pictures[:1], []]
    for mesh, tensor in ((make_mesh(devices=jax.devices()[:1]), None), (make_mesh(2, 2, 2), 4)):
        vlm = load(tiny_path, "float32", mesh)
        with jax.set_mesh(mesh):
            vlm = adapted(vlm, LoRA(rank=2))
            arrays = prompt_arrays(vlm, PROMPTS, images, group=4, g=2)
            prompt = put_rows(Prompt.from_arrays(arrays), mesh)
            never, slots = vlm.config.never_sampled, 4 if tensor else 0
            how = SamplingParams(
                2, 8, STOP, 0, never, slots=slots, int8_weights=eight_bits, int8_cache=eight_bits
            )
            sample = make_sampler(vlm.config, vlm.graphdef, how, "float32", mesh, tensor)
            key = jax.random.fold_in(jax.random.key(3), 0)
            if tensor:
                sample.compile(vlm.params, prompt, key)
            with jax.log_compiles(bool(tensor)):
                rollout = sample(vlm.params, prompt, key)
        drawn.append(jax.device_get(rollout))
    messages = [record.getMessage() for record in caplog.records]
    assert not [m for m in messages if "Finished XLA compilation of jit(" in m]
    assert {x.sharding.mesh for x in jax.tree.leaves(rollout)} == {mesh}
    one, other = drawn
    np.testing.assert_array_equal(other.tokens, one.tokens)
    np.testing.assert_array_equal(other.mask, one.mask)
    np.testing.assert_array_equal(other.finished, one.finished)
    np.testing.assert_allclose(other.logps, one.logps, atol=0.05 if eight_bits else 3 * LOGPS)
    programs = sample._cache_size()
    assert sample.sampler.wave._cache_size() == 1
    sample.params = moving = mock.Mock(wraps=sample.params)
    with jax.set_mesh(mesh):
        sample(vlm.params, prompt, key)
    assert moving.call_count == 1  # for all waves
    assert sample._cache_size() == programs
