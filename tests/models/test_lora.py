# SPDX-License-Identifier: Apache-2.0
"""Adapters: nothing at first, the chain rule's gradients, the same merged, saved and on a mesh."""

import dataclasses
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvl import config
from jaxvl.config import LoRA
from jaxvl.distributed.mesh import check_divisible, make_mesh, put_rows
from jaxvl.errors import UserError
from jaxvl.models import lora, partition, qwen_vl
from jaxvl.models.inputs import Prompt
from jaxvl.models.io import hf
from jaxvl.rl import learner
from jaxvl.rl.sampler import Sampler
from jaxvl.rl.sampling import SamplingParams
from jaxvl.vlm import load
from tests.distributed.test_mesh import PUBLIC_MESHES
from tests.rl.adapted import Update, adapted, flat, some_rows
from tests.rl.rows import V, assert_trees_close, grpo_step, policy, prompt_arrays
from tests.tiny import PUBLIC, public_config

EVERYWHERE = LoRA(rank=4, alpha=6, parts=("tower", "merger", "text"))
PROMPTS = [f"{V}left?", "How many?"]


@pytest.fixture(scope="module")
def tuned(vlm):
    """The tiny model with random adapters at every projection."""
    return adapted(vlm, EVERYWHERE)


@pytest.fixture(scope="module")
def batch(vlm, pictures):
    return some_rows(vlm, pictures)


def same(trees):
    return all(a is b for a, b in zip(*map(jax.tree.leaves, trees), strict=True))


def test_fresh_adapters_change_nothing(vlm, pictures):
    """b is zero: every logit is the base's to the last bit, and the base's arrays are shared."""
    fresh = vlm.adapted(EVERYWHERE)
    images = [pictures[:1], []]
    for ours, base in zip(fresh.logits(PROMPTS, images), vlm.logits(PROMPTS, images), strict=True):
        np.testing.assert_array_equal(ours, base)
    adapters, base = partition.partition(fresh.params, [partition.ADAPTERS])
    assert same((base, vlm.params))
    leaves = flat(adapters)
    assert {x.dtype for x in leaves.values()} == {np.dtype(np.float32)}
    for path, x in leaves.items():
        if path.endswith("/b"):
            assert not np.any(x)
            continue
        bound = x.shape[-2] ** -0.5
        assert 0.9 * bound < np.abs(x).max() <= bound and abs(x.mean()) < 0.2 * bound
    first, second = (np.asarray(leaves["text/layers/attn/q/lora/a"][i]) for i in (0, 1))
    assert not np.array_equal(first, second)
    other = flat(
        partition.partition(vlm.adapted(EVERYWHERE, seed=1).params, [partition.ADAPTERS])[0]
    )
    assert not np.array_equal(other["text/layers/attn/q/lora/a"][0], first)


def test_targets_are_projections_of_the_chosen_parts(vlm):
    def names(**changes):
        return lora.targets(vlm.params, LoRA(**changes))

    text = [f"text/layers/attn/{x}" for x in "koqv"]
    text += [f"text/layers/mlp/{x}" for x in ("down", "gate", "up")]
    assert names() == text
    assert names(targets=("q", "fc1"), parts=("tower", "merger")) == [
        "vision/blocks/attn/q",
        "vision/blocks/mlp/fc1",
        "vision/merger/mlp/fc1",
    ]
    with pytest.raises(UserError, match="no projection named fc1, fc2 in text"):
        names(targets=("fc1", "fc2"))


def test_gradients_are_those_of_the_chain_rule(vlm, tuned, batch):
    """Through W = w + s a b: dL/da = s dL/dW b^T and dL/db = s a^T dL/dW, at the merged model."""
    found = flat(Update(tuned, batch, (partition.ADAPTERS,), micro=2).gradients())
    merged = dataclasses.replace(vlm, params=lora.merge(tuned.params, EVERYWHERE))
    with jax.set_mesh(vlm.mesh):
        whole = flat(jax.device_get(grpo_step(policy(merged))(merged.params, batch)[3]))
    scale, params, expected = 6 / 4, flat(jax.device_get(tuned.params)), {}
    for path in lora.targets(vlm.params, EVERYWHERE):
        dW, a, b = whole[f"{path}/w"], params[f"{path}/lora/a"], params[f"{path}/lora/b"]
        expected[f"{path}/lora/a"] = scale * dW @ np.swapaxes(b, -1, -2)
        expected[f"{path}/lora/b"] = scale * np.swapaxes(a, -1, -2) @ dW
    # float32 through the whole model in another order; norms of leaves that shrink by cancelling
    assert_trees_close(found, expected, 1e-4)


def test_merged_is_the_same_model(vlm, tuned, pictures, tmp_path):
    images = [pictures[:1], []]
    tuned.save(tmp_path)
    plain = load(tmp_path, "float32")
    assert jax.tree.structure(tuned.merged().params) == jax.tree.structure(vlm.params)
    assert vlm.merged() is vlm
    results = [v.logits(PROMPTS, images) for v in (tuned, plain, vlm)]
    for ours, merged, base in zip(*results, strict=True):
        size = np.abs(base).max()
        np.testing.assert_allclose(ours, merged, rtol=0, atol=1e-5 * size)
        assert np.abs(ours - base).max() > 0.1 * size
    weights = {f"{path}/w" for path in lora.targets(vlm.params, EVERYWHERE)}
    for path, x in flat(vlm.params).items():
        assert np.array_equal(flat(plain.params)[path], x) == (path not in weights), path


def test_the_sampler_uses_the_adapters(vlm, tuned, pictures):
    """Its log-probabilities are the plain forward pass's, its answers are not the base's."""
    images = [pictures[:1], []]
    got = tuned.generate(PROMPTS, images, n=2, max_new_tokens=6, temperature=0.0)
    tokens = [[c.tokens for c in row] for row in got]
    for row, logps in zip(got, tuned.logprobs(PROMPTS, images, tokens), strict=True):
        for c, expected in zip(row, logps, strict=True):
            np.testing.assert_allclose(c.logprobs, expected, atol=1e-5)  # another program's shape
    base = vlm.generate(PROMPTS, images, n=2, max_new_tokens=6, temperature=0.0)
    assert tokens != [[c.tokens for c in row] for row in base]


def test_a_token_reads_each_activation_once(tuned):
    """A layer has four products of weights and four of adapters, and four of attention; none is
    beside another that reads the same, which XLA's GPU compiler would join, weights and all."""
    how = SamplingParams(completions=2, max_new_tokens=8, stop_ids=(0,), pad_id=0)
    arrays = prompt_arrays(tuned, ["How many?"], [[]], group=2)
    with jax.set_mesh(tuned.mesh):
        prompt = put_rows(Prompt.from_arrays(arrays), tuned.mesh)
        sample = Sampler(tuned.graphdef, how, "float32")
        inputs, state, _ = jax.eval_shape(sample.start, tuned.params, prompt, jax.random.key(0))
        text = sample.decode_steps.lower(inputs, state, np.int32(0), np.int32(0)).as_text()
    products = re.findall(r"stablehlo.dot_general (%\w+), (%\w+)", text)
    assert len(products) == 12 * tuned.config.text.layers + 1  # and the head
    assert len({left for left, _ in products}) == len(products)


def test_exports_are_the_same_model_in_transformers(tuned, tiny_path, pictures, tmp_path):
    """Merged weights, and adapters beside the base in PEFT, within 1e-5 of the largest logit."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft", reason="loads the exported adapters")
    from tests.torch_reference import hf_logits, hf_model

    tuned.save(tmp_path / "merged")
    tuned.save_adapters(tmp_path / "adapter", str(tiny_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of adapters that are missing
        model = peft.PeftModel.from_pretrained(hf_model(tiny_path), tmp_path / "adapter").eval()
    assert model.peft_config["default"].base_model_name_or_path == str(tiny_path)
    assert all(x.dtype == torch.float32 for name, x in model.named_parameters() if "lora" in name)
    images = [pictures[:1], []]
    e = tuned.encode(PROMPTS, images)[0]
    inputs = (e.tokens, e.patches_PE, np.array(e.grids))
    ours = tuned.logits(PROMPTS, images)[0]
    atol = 1e-5 * np.abs(ours).max()
    beside = hf_logits(model, *inputs)
    np.testing.assert_allclose(beside, ours, rtol=0, atol=atol)
    merged = hf_logits(hf_model(tmp_path / "merged"), *inputs)
    np.testing.assert_allclose(merged, beside, rtol=0, atol=atol)


def test_only_adapters_can_be_saved_as_such(vlm, tmp_path):
    with pytest.raises(UserError, match="this model has none"):
        vlm.save_adapters(tmp_path)


def test_a_bfloat16_base_is_merged_in_float32(tiny_path, tmp_path):
    """A change far below a weight's last bfloat16 bit is not lost."""
    base = load(tiny_path, "bfloat16")
    tuned = adapted(base, LoRA(rank=2, alpha=1e-3, targets=("q",)))
    tuned.save(tmp_path)
    assert hf.read_config(tmp_path)["torch_dtype"] == "float32"
    merged, before, after = (flat(v.params) for v in (load(tmp_path, "float32"), base, tuned))
    for path in ("text/layers/attn/q/w", "text/embed/w"):
        assert before[path].dtype == jnp.bfloat16 and after[path] is before[path]
    a, b = (np.asarray(after[f"text/layers/attn/q/lora/{leaf}"]) for leaf in "ab")
    change = merged["text/layers/attn/q/w"] - before["text/layers/attn/q/w"].astype(np.float32)
    assert np.abs(change).max() < 1e-4
    # float32's last bit of weights of up to 1
    np.testing.assert_allclose(change, 1e-3 / 2 * a @ b, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(merged["text/embed/w"], before["text/embed/w"])


def test_the_scale_is_not_rounded():
    """Rounded to bfloat16 it would be 1, off by 0.4% for all tokens alike, and 1.5 stay 1.5."""
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        one = jnp.ones((1, 1), jnp.bfloat16)
        adapter = lora.Adapter("column", one, one, LoRA(rank=1, alpha=1 + 2**-8))
        y = adapter(jnp.full((1, 1, 1), 1.5, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16 and y.item() == 1.5078125  # 1.50586.. to the nearest


RATE = 0.25


def test_dropout_drops_inputs_and_keeps_the_mean():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        n = 4096
        adapter = lora.Adapter("column", jnp.ones((1, 1)), jnp.ones((1, 1)), LoRA(1, 1.0, RATE))
        x = jnp.ones((1, n, 1))
        np.testing.assert_array_equal(adapter(x), x)
        adapter.key = nnx.Param(jax.random.key(0))
        y = np.asarray(adapter(x))
        np.testing.assert_array_equal(adapter(x), y)
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - RATE)], rtol=1e-6)
    # four deviations of a mean of n draws of 0 or 1/(1 - RATE)
    assert abs(y.mean() - 1) < 4 * np.sqrt(RATE / (1 - RATE) / n)


def test_every_adapter_of_every_layer_has_its_key(tuned):
    with jax.set_mesh(tuned.mesh):
        model = nnx.merge(tuned.graphdef, tuned.params)
        lora.drop_out(model, jax.random.key(0))
    found = lora.adapters(model)
    assert len(found) == len(lora.targets(tuned.params, EVERYWHERE))
    keys = [np.asarray(jax.random.key_data(a.key[...])).reshape(-1, 2) for a in found]
    keys = np.concatenate(keys).tolist()
    layers = sum(a.a[...].shape[0] if a.a[...].ndim == 3 else 1 for a in found)
    assert len({tuple(key) for key in keys}) == len(keys) == layers


# The merger's own weights train beside the other parts' adapters, which drop out. Of those there
# are enough for every rule: split by output and by input, in both stacks.
BESIDE = LoRA(4, 6, RATE, targets=("q", "o", "fc1", "fc2", "down"), parts=("tower", "text"))
TRAINS = ("merger", partition.ADAPTERS)


def two_updates(vlm, pictures, remat="products"):
    """Changes of two updates on eight rows in two micro-batches, and greedy answers before."""
    tuned = adapted(vlm, BESIDE)
    batch = some_rows(vlm, pictures, g=2)
    update = Update(tuned, batch, TRAINS, lora.keys(0)[1], micro=2, remat=remat)
    answers = tuned.generate(["How many?"], n=2, temperature=0, max_new_tokens=6)
    return update.gradients(updates=2), answers[0]


@pytest.fixture(scope="module")
def one_device(vlm, pictures):
    return two_updates(vlm, pictures)


@pytest.mark.parametrize(
    ("mesh", "remat"), [((1, 4, 2), "products"), ((2, 2, 2), "block")], ids=str
)
def test_eight_devices_are_one(one_device, pictures, tiny_path, mesh, remat):
    """Dropout included: what is dropped depends on the place in the batch, not on the device, and
    is the same when it is computed again for the backward pass."""
    changes, answers = two_updates(load(tiny_path, "float32", make_mesh(*mesh)), pictures, remat)
    # float32 sums in another order; the second update starts from where the first differs
    assert_trees_close(changes, one_device[0], 5e-5)
    assert [c.tokens for c in answers] == [c.tokens for c in one_device[1]]


def test_what_the_24_gb_recipe_says_of_its_memory():
    cfg = config.load(Path(__file__).parents[2] / "configs/lora_24gb.py")
    assert cfg.model.train == () and cfg.model.dtype == "bfloat16"
    shapes = qwen_vl.abstract_params(hf.arch_from_config(public_config("qwen2_vl_2b")))
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        fresh = jax.eval_shape(lambda: lora.init(shapes, cfg.model.lora, jax.random.key(0)))
        tx = learner.optimizer(cfg.optim, 1)
        state = jax.eval_shape(lambda: learner.init_state(fresh, tx))
    weights, adapters = (sum(x.size for x in jax.tree.leaves(t)) for t in (shapes, fresh))
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert (weights, adapters) == (2_208_985_600, 18_464_768)
    assert (round(2 * weights / 1e9, 2), round(held / 1e9, 2)) == (4.42, 0.22)


def test_public_models_with_adapters_fit_the_rules():
    for size, mesh in [(size, mesh) for size in PUBLIC for mesh in PUBLIC_MESHES]:
        shapes = qwen_vl.abstract_params(hf.arch_from_config(public_config(size)))
        mesh = make_mesh(*mesh)
        with jax.set_mesh(mesh):
            fresh = jax.eval_shape(lambda s=shapes: lora.init(s, EVERYWHERE, jax.random.key(0)))
        check_divisible(fresh, mesh)
