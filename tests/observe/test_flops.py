# SPDX-License-Identifier: Apache-2.0
"""Counted FLOPs against the products in the traced program, and pairs against masks drawn out."""

import math

import jax
import numpy as np
import pytest

from jaxvl.models.io.hf import arch_from_config
from jaxvl.observe import flops
from jaxvl.observe.flops import Work
from jaxvl.rl.learner import Policy
from tests.rl.rows import prompt_arrays, train_batch
from tests.tiny import public_config

R, G, T, PATCHES, C = 2, 4, 24, 32, 6


def weight_products(jaxpr, times=1):
    """FLOPs of every product with a weight, loops unrolled: a product of two activations has a
    batch axis (the row), one with a weight has none."""
    found = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), (batch, _) = eqn.params["dimension_numbers"]
            depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            found += 2 * times * depth * math.prod(eqn.outvars[0].aval.shape) * (not batch)
        inner = times * eqn.params["length"] if eqn.primitive.name == "scan" else times
        for value in eqn.params.values():
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                found += weight_products(getattr(value, "jaxpr", value), inner)
    return found


def test_a_forward_pass_is_what_the_program_multiplies(vlm):
    """Rows with their padding are counted as full ones."""
    arrays = prompt_arrays(vlm, ["left?"] * R, [[]] * R, group=G, g=G)
    batch = train_batch(arrays, np.zeros((R, G, C), np.int32))
    policy = Policy(vlm.graphdef, "float32", remat="block", temperature=1.0, chunk=G * C)
    with jax.set_mesh(vlm.mesh):
        traced = jax.make_jaxpr(lambda *args: policy.logprobs(*args)[0])(vlm.params, batch)
    parts = flops._parts(vlm.config, Work.full(R, T, PATCHES, G, C)).values()
    assert sum(part.weights for part in parts) == weight_products(traced.jaxpr)


def test_pairs_are_those_of_the_masks():
    """A row of a prompt of 5 and completions of 3 and 0 tokens; pictures of 8 and 4 patches."""
    work = Work([8, 4], [4, 4, 4], [5, 2], np.array([[3, 0], [1, 2]]))
    arch = arch_from_config(public_config("qwen2_5_vl_3b"))
    seen = 0
    for prompt, own in zip(work.prompts, work.completions, strict=True):
        seen += np.tril(np.ones((prompt, prompt))).sum()
        seen += sum(np.tril(np.ones((c, prompt + c)), k=prompt).sum() for c in own)
    text, vision = arch.text, arch.vision
    attention = flops.prefill(text, work).attention + flops.decode(text, work).attention
    assert attention == 4 * text.layers * text.heads * text.head_dim * seen
    whole = sum(vision.full_attention)
    assert 0 < whole < vision.depth
    pairs = whole * (64 + 16) + (vision.depth - whole) * 3 * 16
    assert flops.tower(vision, work).attention == 4 * vision.dim * pairs


def test_an_update_of_everything_is_three_passes_and_frozen_parts_take_less(vlm):
    arch, work = vlm.config, Work.full(R, T, PATCHES, G, C)
    once = flops.forward(arch, work)
    parts = {name: part.total for name, part in flops._parts(arch, work).items()}
    assert flops.update(arch, work, ("tower", "merger", "text")) == pytest.approx(3 * once)
    text_alone = flops.update(arch, work, ("text",))
    assert text_alone == pytest.approx(once + 2 * parts["text"])
    adapters = flops.update(arch, work, (), adapted=("text",))
    text = flops._parts(arch, work)["text"]
    assert adapters == pytest.approx(once + text.weights + 2 * text.attention)


def test_a_published_model_has_the_weights_that_its_name_says():
    """Qwen2-VL-2B: 1.54 G weights in the decoder and its tied head, 0.66 G in tower and merger."""
    arch = arch_from_config(public_config("qwen2_vl_2b"))
    one = Work([4], [4], [1], np.array([[1]]))
    text = flops.decode(arch.text, one).weights / 2
    assert text == pytest.approx(1.54e9, rel=0.01)
    seen = flops.tower(arch.vision, one).weights / 8 + flops.merger(arch.vision, one).weights / 2
    assert seen == pytest.approx(0.66e9, rel=0.02)


def test_peaks_are_of_bfloat16_and_of_devices_that_are_known():
    assert flops.peak("NVIDIA H200", "bfloat16") == 989.4e12
    assert flops.peak("TPU v5 lite", "bfloat16") == 197e12
    assert flops.peak("TPU v5p", "bfloat16") == flops.peak("TPU v5", "bfloat16") == 459e12
    assert flops.peak("NVIDIA H200", "float32") is None
    assert flops.peak("cpu", "bfloat16") is None
