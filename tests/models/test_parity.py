# SPDX-License-Identifier: Apache-2.0
"""Both families compute what transformers' do, forwards and backwards."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from jaxvl.data.image import pixel_patches
from jaxvl.data.prompts import collate
from jaxvl.distributed.mesh import put_rows
from jaxvl.models.io.names import export_tensors
from jaxvl.rl.learner import Policy
from jaxvl.vlm import load
from tests.rl.rows import train_batch

pytest.importorskip("torch", reason="transformers' model is the reference")

from tests.tiny import make_checkpoint, old_name
from tests.torch_reference import (
    hf_gradients,
    hf_greedy,
    hf_logits,
    hf_model,
)

V = "<|vision_start|><|image_pad|><|vision_end|>"
PROMPTS = [
    "How many?",
    f"{V}Which shape is to the left?",
    f"{V}above {V}, and then: {V} behind the cube? {V} or{V}",
    f"Not {V} but {V}",
]
# Height and width in patches; windows are 4 x 4. The smallest there is, one as wide as 1960 pixels,
# sides that are an odd and an even number of merged patches, and whole windows.
GRIDS = [[], [(4, 140)], [(2, 2), (6, 10), (8, 8), (10, 4), (12, 14)], [(2, 12), (6, 6)]]
LOGITS = 1e-4  # of the largest logit: float32 sums of a few hundred terms in another order
LOGPS = 1e-4  # a log-probability is a difference of such logits
GRADIENTS = 1e-3  # of a parameter's gradient norm: two passes through every layer


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [
        [
            Image.fromarray(rng.integers(0, 256, (h * 14, w * 14, 3), dtype=np.uint8))
            for h, w in grids
        ]
        for grids in GRIDS
    ]


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def pair(request, tmp_path_factory):
    """The same random checkpoint, ours and transformers'."""
    path = tmp_path_factory.mktemp("parity")
    make_checkpoint(path, family=request.param, weights="old", depth=4, seed=4)
    return load(path, "float32", min_pixels=28 * 28), hf_model(path)


def reference_inputs(vlm, encoded, images, completion=()):
    """Tokens, patches in merge order, grids."""
    tokens = np.concatenate([encoded.tokens, np.asarray(completion, np.int32)])
    patches = [pixel_patches(image, vlm.processor.image)[0] for image in images]
    return tokens, np.concatenate(patches) if patches else [], np.array(encoded.grids)


def assert_same_logits(ours, expected):
    assert ours.shape == expected.shape and ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=0, atol=LOGITS * np.abs(expected).max())


@pytest.mark.parametrize("i", range(2), ids=["text", "one_image"])
def test_logits_of_one_prompt(pair, images, i):
    vlm, model = pair
    encoded = vlm.encode(PROMPTS[i : i + 1], images[i : i + 1])[0]
    (ours,) = vlm.logits(PROMPTS[i : i + 1], images[i : i + 1])
    assert_same_logits(ours, hf_logits(model, *reference_inputs(vlm, encoded, images[i])))


def test_logits_of_a_mixed_batch_are_those_of_each_alone(pair, images):
    vlm, model = pair
    encoded = vlm.encode(PROMPTS, images)
    assert [[grid[1:] for grid in e.grids] for e in encoded] == GRIDS
    for ours, e, row in zip(vlm.logits(PROMPTS, images), encoded, images, strict=True):
        assert_same_logits(ours, hf_logits(model, *reference_inputs(vlm, e, row)))


def test_picture_positions_and_windows_matter(pair, images):
    """The check of the parity tests above: they would see a picture laid out or cut otherwise."""
    vlm, _ = pair
    square, wide = images[2][0].resize((112, 112)), images[2][0].resize((224, 56))
    a, b = vlm.logits([PROMPTS[1]] * 2, [[square], [wide]])
    assert np.abs(a - b).max() > 0.1
    uncut = dataclasses.replace(vlm, processor=dataclasses.replace(vlm.processor, window=0))
    c = uncut.logits([PROMPTS[1]] * 2, [[square], [wide]])[0]
    assert (np.abs(a - c).max() > 0.1) == (vlm.config.family == "qwen2_5_vl")


@pytest.mark.parametrize(
    "form",
    [
        {"tied": False, "layout": "nested", "weights": "new", "sharded": 3},
        {"tied": True, "layout": "nested", "weights": "new"},
        {"tied": False, "weights": "old", "num_key_value_heads": 1, "mlp_ratio": 4},
        {"dtype": "bfloat16", "weights": "old", "sharded": 3},
        {"family": "qwen2_5_vl", "tied": False, "layout": "nested", "sharded": 3},
        {"family": "qwen2_5_vl", "dtype": "float16", "weights": "old"},
    ],
    ids=[
        "untied_nested_sharded",
        "tied_nested",
        "untied_flat",
        "stored_in_bfloat16",
        "windowed_untied_nested_sharded",
        "windowed_stored_in_float16",
    ],
)
def test_logits_of_every_form_of_checkpoint(tmp_path, pictures, form):
    path = make_checkpoint(tmp_path, seed=3, **form)
    vlm = load(path, "float32")
    assert ("head" in vlm.params["text"]) is not form.get("tied", True)
    prompts, images = [PROMPTS[0], f"{V}{V}red?"], [[], pictures[:2]]
    model = hf_model(path)
    for ours, e, row in zip(
        vlm.logits(prompts, images), vlm.encode(prompts, images), images, strict=True
    ):
        assert_same_logits(ours, hf_logits(model, *reference_inputs(vlm, e, row)))


def test_greedy_generation_is_identical(pair, images):
    vlm, model = pair
    length = 64
    endless = dataclasses.replace(vlm, processor=dataclasses.replace(vlm.processor, stop_ids=()))
    got = endless.generate(PROMPTS, images, max_new_tokens=length, temperature=0.0)
    for (completion,), e, row in zip(got, vlm.encode(PROMPTS, images), images, strict=True):
        inputs = reference_inputs(vlm, e, row)
        expected = hf_greedy(model, *inputs, length, never=vlm.config.never_sampled)
        assert len(set(expected)) > 5  # not one token over and over
        assert completion.tokens == expected.tolist()
        assert completion.finish_reason == "length"


def test_logprobs_of_completions(pair, images):
    vlm, model = pair
    rng = np.random.default_rng(1)
    sizes = ((5, 9), (1,), (12, 3), ())
    completions = [[rng.integers(0, 300, n) for n in row] for row in sizes]
    got = vlm.logprobs(PROMPTS, images, completions)
    encoded = vlm.encode(PROMPTS, images)
    for e, pics, row, ours in zip(encoded, images, completions, got, strict=True):
        assert len(row) == len(ours)
        for completion, logps in zip(row, ours, strict=True):
            logits = hf_logits(model, *reference_inputs(vlm, e, pics, completion))
            logits = logits[len(e.tokens) - 1 : -1]
            expected = jax.nn.log_softmax(logits)[np.arange(len(completion)), completion]
            np.testing.assert_allclose(logps, expected, rtol=0, atol=LOGPS)


def test_gradients_of_every_parameter(pair, images):
    """Of a weighted sum of completion tokens' log-probabilities, over prompts of all kinds."""
    vlm, model = pair
    rng = np.random.default_rng(2)
    P, g, C = len(PROMPTS), 2, 6
    encoded = vlm.encode(PROMPTS, images)
    tokens = rng.integers(0, 300, (P, g, C)).astype(np.int32)
    weights = rng.normal(size=(P, g, C)).astype(np.float32)

    arrays = collate(encoded, range(P), pad_id=0, prompt_bucket=192, patch_bucket=576)
    policy = Policy(vlm.graphdef, "float32", "block", temperature=1.0, chunk=8)
    batch = train_batch(arrays, tokens)

    @jax.jit
    def gradients(params, batch, weights):
        return jax.grad(lambda p: -(weights * policy.logprobs(p, batch)[0]).sum())(params)

    with jax.set_mesh(vlm.mesh):
        ours = gradients(vlm.params, *put_rows((batch, weights), vlm.mesh))
    expected = {}
    for e, pics, row_tokens, row_weights in zip(encoded, images, tokens, weights, strict=True):
        for completion, w in zip(row_tokens, row_weights, strict=True):
            ids, patches, grids = reference_inputs(vlm, e, pics, completion)
            w = np.concatenate([np.zeros(len(e.tokens)), w])
            _, grads = hf_gradients(model, [ids], patches, grids, [w])
            expected = {name: expected.get(name, 0) + grad for name, grad in grads.items()}
    expected = {old_name(name): grad for name, grad in expected.items()}
    found = dict(export_tensors(ours))
    assert set(found) == set(expected)
    for name, grad in expected.items():
        error = np.linalg.norm(found[name].reshape(grad.shape) - grad)
        assert np.linalg.norm(grad) > 0, name
        assert error <= GRADIENTS * np.linalg.norm(grad), name
