# SPDX-License-Identifier: Apache-2.0
"""What bfloat16 costs, and what stays in float32."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from PIL import Image

from jaxvl import config
from jaxvl.data.prompts import collate
from jaxvl.distributed.mesh import put_rows
from jaxvl.models.int8 import rounded
from jaxvl.models.qwen_vl import assemble, to_compute_dtype
from jaxvl.rl.logprobs import pick
from jaxvl.train import setup
from jaxvl.vlm import load
from tests.rl.rows import train_batch
from tests.tiny import make_checkpoint

V = "<|vision_start|><|image_pad|><|vision_end|>"
PROMPTS = ["How many?", f"{V}Which shape is to the left?", f"{V}above {V} or{V}"]
GRIDS = [[], [(4, 8)], [(4, 4), (8, 8), (2, 6)]]

# A bfloat16 has 8 bits: rounded to one, a number is off by up to 2^-9 of itself, 2^-9 / sqrt(3) in
# the mean. A layer rounds about twenty times (7 weights, what goes into and comes out of its
# products, norms, activations and sums); where errors are independent and pass through unchanged,
# n of them make sqrt(n) of one. Attention and norms make that more, by less than 3.
ROUNDING = 2**-9 / 3**0.5
LAYERS = 2 + 4  # of the decoder and the tower
LOGITS = 3 * ROUNDING * (20 * LAYERS) ** 0.5  # 0.037
# Backwards every layer rounds as often again, twice: for its input's gradient and its weights'.
GRADIENTS = 3 * ROUNDING * (60 * LAYERS) ** 0.5  # 0.064


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def path(request, tmp_path_factory):
    """A checkpoint whose layers leave an error as large as it was."""
    path = tmp_path_factory.mktemp("precision")
    return make_checkpoint(path, family=request.param, weights="old", depth=4, gain=1.0)


def batch_of(vlm):
    """Prompts of every kind with two random completions each."""
    rng = np.random.default_rng(0)
    images = [
        [Image.fromarray(rng.integers(0, 256, (h * 14, w * 14, 3), np.uint8)) for h, w in grids]
        for grids in GRIDS
    ]
    encoded = vlm.encode(PROMPTS, images)
    arrays = collate(encoded, range(3), pad_id=0, prompt_bucket=64, patch_bucket=128)
    tokens = rng.integers(0, 300, (3, 2, 6)).astype(np.int32)
    weights = rng.normal(size=tokens.shape).astype(np.float32)
    return put_rows((train_batch(arrays, tokens), weights), vlm.mesh)


def loss(params, batch, weights, graphdef, dtype):
    """A weighted sum of the completions' log-probabilities, and the logits [R, g, C, V]."""
    model = assemble(graphdef, params, dtype)
    hidden = model.completion_hidden(batch.prompt, batch.tokens)
    R, g, C, D = hidden.shape
    logits = model.text.logits(hidden.reshape(R, g * C, D))
    logps, _ = pick(logits, batch.tokens.reshape(R, g * C))
    return -(weights.reshape(R, g * C) * logps).sum(), logits


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_bfloat16_products_stay_near_float32(path):
    vlm = load(path, "float32")
    results = {}
    with jax.set_mesh(vlm.mesh):
        batch, weights = batch_of(vlm)
        for dtype in ("bfloat16", "float32"):
            run = functools.partial(loss, graphdef=vlm.graphdef, dtype=dtype)
            run = jax.jit(jax.value_and_grad(run, has_aux=True))
            (_, logits), grads = run(vlm.params, batch, weights)
            assert {x.dtype for x in jax.tree.leaves((logits, grads))} == {jnp.dtype(jnp.float32)}
            results[dtype] = jax.device_get((logits, grads))
    (logits, grads), (expected_logits, expected_grads) = results.values()
    for row, expected in zip(logits, expected_logits, strict=True):
        assert ROUNDING < error(row, expected) < LOGITS  # below: nothing was rounded
    errors = jax.tree.map(error, grads, expected_grads)
    for name, found in jax.tree_util.tree_leaves_with_path(errors):
        assert ROUNDING < found < GRADIENTS, (jax.tree_util.keystr(name), found)


def primitives(jaxpr):
    """(name, dtypes of the floating operands) of every operation, at any depth."""
    for eqn in jaxpr.eqns:
        dtypes = {getattr(x.aval, "dtype", None) for x in eqn.invars}
        yield eqn.primitive.name, {x for x in dtypes if x and jnp.issubdtype(x, jnp.floating)}
        for inner in jaxprs_in_params(eqn.params):
            yield from primitives(inner)


def test_what_stays_in_float32(path):
    """Norms, angles, softmax and log-probabilities; products of weights do not."""
    vlm = load(path, "float32")
    with jax.set_mesh(vlm.mesh):
        run = functools.partial(loss, graphdef=vlm.graphdef, dtype="bfloat16")
        found = list(primitives(jax.make_jaxpr(run)(vlm.params, *batch_of(vlm)).jaxpr))
    wide = {"rsqrt", "cos", "sin", "exp", "log", "reduce_max", "reduce_sum"}
    assert {name for name, _ in found} >= wide
    for name, dtypes in found:
        if name in wide or name == "dot_general":
            expected = jnp.float32 if name in wide else jnp.bfloat16
            assert dtypes <= {jnp.dtype(expected)}, (name, dtypes)


def run(vlm, prompt):
    """Final hidden states and logits of the prompts."""

    @jax.jit
    def both(params, prompt):
        model = assemble(vlm.graphdef, params, vlm.dtype)
        hidden = model.hidden(prompt)
        return hidden, model.text.logits(hidden)

    return both(vlm.params, prompt)


@pytest.mark.parametrize("tied", [True, False])
def test_a_float32_head(tmp_path, tied):
    """Neither its weights nor what it reads are rounded; all else is computed as without it."""
    vlm = load(make_checkpoint(tmp_path, tied=tied), "bfloat16", float32_head=True)
    name = "embed" if tied else "head"
    exact = load(tmp_path, "float32").params["text"][name]["w"]
    wide = [x for x in jax.tree.leaves(vlm.params) if x.dtype == jnp.float32]
    assert len(wide) == 1
    np.testing.assert_array_equal(wide[0], exact)

    plain = load(tmp_path, "bfloat16")
    with jax.set_mesh(vlm.mesh):
        prompt = batch_of(vlm)[0].prompt
        (hidden, logits), (rounded, _) = (run(v, prompt) for v in (vlm, plain))
    assert hidden.dtype == jnp.float32 and (hidden != hidden.astype(jnp.bfloat16)).any()
    expected = np.asarray(hidden, np.float64) @ np.asarray(exact, np.float64).T
    np.testing.assert_allclose(logits, expected, atol=1e-5)  # float32 sums of 64 terms near 1
    assert rounded.dtype == jnp.bfloat16
    # One rounding apart, and where the scale of the norm comes in.
    np.testing.assert_allclose(rounded.astype(jnp.float32), hidden, rtol=2**-7)

    # Sampler and learner alike.
    (completion,) = vlm.generate(["Which?"], max_new_tokens=6, seed=1)[0]
    (logps,) = vlm.logprobs(["Which?"], None, [[completion.tokens]])[0]
    np.testing.assert_allclose(completion.logprobs, logps, atol=0.05)


def test_a_run_takes_a_float32_head(tmp_path):
    root = Path(__file__).parents[2]
    changes = [f"run.dir={tmp_path}", "model.dtype=bfloat16", "model.float32_head=true"]
    cfg = config.load(root / "configs/quickstart.py", changes)
    vlm, checkpoints = setup.init_run(cfg)
    checkpoints.close()
    assert vlm.config.text.float32_head
    params = to_compute_dtype(vlm.params, cfg.model.dtype, vlm.config.text)
    assert params["text"]["embed"]["w"].dtype == jnp.float32
    assert params["text"]["layers"]["mlp"]["up"]["w"].dtype == jnp.bfloat16


def test_whole_numbers_of_eight_bits_are_nearer_than_floats_of_as_many():
    """With a scale for each output, on the layers of a trained model and on normal numbers: why
    decoding has int8 and no float8_e4m3fn, which would read as many bytes."""

    def errors(w_LDF):
        whole, scale = rounded(w_LDF, 1)
        scale = scale[:, None]
        top = float(jnp.finfo(jnp.float8_e4m3fn).max) / 127
        floats = (w_LDF / scale * top).astype(jnp.float8_e4m3fn).astype(jnp.float32) * scale / top
        return [
            [float(error(found, w)) for found, w in zip(each, w_LDF, strict=True)]
            for each in (whole * scale, floats)
        ]

    layers = load("configs/quickstart_base", "float32").params["text"]["layers"]
    whole, floats = np.concatenate(
        [errors(w) for w in jax.tree.leaves(layers) if w.ndim == 3], axis=1
    )
    assert len(whole) == 28 and (whole < 0.01).all() and (floats > 0.025).all()
    (whole,), (floats,) = errors(jax.random.normal(jax.random.key(0), (1, 1536, 1024)))
    assert whole < 0.01 and floats > 0.025
