# SPDX-License-Identifier: Apache-2.0
"""The model computes what transformers' Qwen2-VL computes, forwards and backwards."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.data.prompts import collate
from jaxvl.models import hf
from jaxvl.rl.learner import Policy
from jaxvl.sharding import put_rows
from jaxvl.vlm import load
from tests.rl.rows import train_batch

pytest.importorskip("torch", reason="transformers' model is the reference")

from tests.tiny import make_checkpoint, old_name  # noqa: E402
from tests.torch_reference import (  # noqa: E402
    hf_gradients,
    hf_greedy,
    hf_logits,
    hf_model,
)

V = "<|vision_start|><|image_pad|><|vision_end|>"
PROMPTS = [
    "How many?",
    f"{V}Which shape is to the left?",
    f"{V}above {V}, and then: {V} behind the cube?",
]
LOGITS = 1e-4  # of the largest logit: float32 sums of a few hundred terms in another order
LOGPS = 1e-4  # a log-probability is a difference of such logits
GRADIENTS = 1e-3  # of a parameter's gradient norm: two passes through every layer


@pytest.fixture(scope="module")
def images(pictures):
    return [[], pictures[:1], pictures]


def reference_logits(model, encoded, completion=()):
    tokens = np.concatenate([encoded.tokens, np.asarray(completion, np.int32)])
    return hf_logits(model, tokens, encoded.patches_PE, np.array(encoded.grids))


def assert_same_logits(ours, model, encoded):
    expected = reference_logits(model, encoded)
    assert ours.shape == expected.shape and ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=0, atol=LOGITS * np.abs(expected).max())


@pytest.mark.parametrize("i", range(3), ids=["text", "one_image", "three_images"])
def test_logits_of_one_prompt(vlm, tiny_hf, images, i):
    encoded = vlm.encode(PROMPTS[i : i + 1], images[i : i + 1])[0]
    assert len(encoded.grids) == (0, 1, 3)[i] and len(set(encoded.grids)) == len(encoded.grids)
    (ours,) = vlm.logits(PROMPTS[i : i + 1], images[i : i + 1])
    assert_same_logits(ours, tiny_hf, encoded)


def test_logits_of_a_mixed_batch_are_those_of_each_alone(vlm, tiny_hf, images):
    encoded = vlm.encode(PROMPTS, images)
    for ours, e in zip(vlm.logits(PROMPTS, images), encoded, strict=True):
        assert_same_logits(ours, tiny_hf, e)


def test_picture_positions_matter(vlm, images):
    """The check of the parity tests above: pictures of the same patches, laid out otherwise."""
    square, wide = images[2][0].resize((56, 56)), images[2][0].resize((112, 28))
    a, b = vlm.logits([PROMPTS[1]] * 2, [[square], [wide]])
    assert np.abs(a - b).max() > 0.1


@pytest.mark.parametrize(
    "form",
    [
        {"tied": False, "layout": "nested", "weights": "new", "sharded": True},
        {"tied": True, "layout": "nested", "weights": "new"},
        {"tied": False, "weights": "old", "num_key_value_heads": 1, "mlp_ratio": 4},
        {"dtype": "bfloat16", "weights": "old", "sharded": True},
    ],
    ids=["untied_nested_sharded", "tied_nested", "untied_flat", "stored_in_bfloat16"],
)
def test_logits_of_every_form_of_checkpoint(tmp_path, images, form):
    path = make_checkpoint(tmp_path, seed=3, **form)
    vlm = load(path, "float32")
    assert ("head" in vlm.params["text"]) is not form.get("tied", True)
    encoded = vlm.encode(PROMPTS, images)
    model = hf_model(path)
    for ours, e in zip(vlm.logits(PROMPTS, images), encoded, strict=True):
        assert_same_logits(ours, model, e)


def test_greedy_generation_is_identical(vlm, tiny_hf, images):
    length = 64
    endless = dataclasses.replace(vlm, processor=dataclasses.replace(vlm.processor, stop_ids=()))
    got = endless.generate(PROMPTS, images, max_new_tokens=length, temperature=0.0)
    for (completion,), e in zip(got, vlm.encode(PROMPTS, images), strict=True):
        expected = hf_greedy(tiny_hf, e.tokens, e.patches_PE, np.array(e.grids), length)
        assert not set(expected) & set(vlm.config.never_sampled), "take other prompts"
        assert len(set(expected)) > 5  # not one token over and over
        assert completion.tokens == expected.tolist()
        assert completion.finish_reason == "length"


def test_logprobs_of_completions(vlm, tiny_hf, images):
    rng = np.random.default_rng(1)
    completions = [[rng.integers(0, 300, n) for n in sizes] for sizes in ((5, 9), (1,), (12, 3))]
    got = vlm.logprobs(PROMPTS, images, completions)
    for e, row, ours in zip(vlm.encode(PROMPTS, images), completions, got, strict=True):
        assert len(row) == len(ours)
        for completion, logps in zip(row, ours, strict=True):
            logits = reference_logits(tiny_hf, e, completion)[len(e.tokens) - 1 : -1]
            expected = jax.nn.log_softmax(logits)[np.arange(len(completion)), completion]
            np.testing.assert_allclose(logps, expected, rtol=0, atol=LOGPS)


def test_gradients_of_every_parameter(vlm, tiny_hf, images):
    """Of a weighted sum of completion tokens' log-probabilities, over prompts of all kinds."""
    rng = np.random.default_rng(2)
    g, C = 2, 6
    encoded = vlm.encode(PROMPTS, images)
    tokens = rng.integers(0, 300, (3, g, C)).astype(np.int32)
    weights = rng.normal(size=(3, g, C)).astype(np.float32)

    arrays = collate(encoded, range(3), pad_id=0, prompt_bucket=48, patch_bucket=64)
    policy = Policy(vlm.graphdef, "float32", False, temperature=1.0, chunk=8)
    batch = train_batch(arrays, tokens)

    @jax.jit
    def gradients(params, batch, weights):
        return jax.grad(lambda p: -(weights * policy.logprobs(p, batch)[0]).sum())(params)

    with jax.set_mesh(vlm.mesh):
        ours = gradients(vlm.params, *put_rows((batch, weights), vlm.mesh))
    expected = {}
    for e, row_tokens, row_weights in zip(encoded, tokens, weights, strict=True):
        for completion, w in zip(row_tokens, row_weights, strict=True):
            _, grads = hf_gradients(
                tiny_hf,
                [np.concatenate([e.tokens, completion])],
                e.patches_PE,
                np.array(e.grids),
                [np.concatenate([np.zeros(len(e.tokens)), w])],
            )
            expected = {name: expected.get(name, 0) + grad for name, grad in grads.items()}
    expected = {old_name(name): grad for name, grad in expected.items()}
    found = dict(hf.export_tensors(ours))
    assert set(found) == set(expected)
    for name, grad in expected.items():
        error = np.linalg.norm(found[name].reshape(grad.shape) - grad)
        assert np.linalg.norm(grad) > 0, name
        assert error <= GRADIENTS * np.linalg.norm(grad), name


def test_bfloat16_products_stay_near_float32(vlm, tiny_path, images):
    """Loose: this tells a broken cast, not rounding. bfloat16 has 8 bits: 1/256 a product."""
    half = load(tiny_path, "bfloat16")
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(half.params))
    for a, b in zip(half.logits(PROMPTS, images), vlm.logits(PROMPTS, images), strict=True):
        assert a.dtype == np.float32
        assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b)
