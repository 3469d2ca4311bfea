# SPDX-License-Identifier: Apache-2.0
"""Products that write heads side by side and rotations without halves, as on a TPU, are the same
numbers as elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.config import LoRA
from jaxvl.distributed.mesh import make_mesh, put_rows
from jaxvl.models import layers, rope
from jaxvl.models.inputs import Prompt
from jaxvl.rl.sampler import Sampler
from jaxvl.rl.sampling import SamplingParams
from jaxvl.vlm import load
from tests.rl.adapted import adapted
from tests.rl.rows import (
    V,
    assert_trees_close,
    grpo_step,
    policy,
    prompt_arrays,
    random_batch,
)

EVERYWHERE = LoRA(rank=4, alpha=6, parts=("tower", "merger", "text"))
# The tiny model has two kv heads, fewer than 4.
CASES = [((1, 1, 1), True), ((2, 2, 2), True), ((1, 2, 4), False)]


@pytest.fixture
def as_on_a_tpu(monkeypatch):
    """Calls what is traced from now on as a TPU would run it, but for the kernels."""

    def begin():
        jax.clear_caches()
        for module in (layers, rope):
            monkeypatch.setattr(module, "platform", lambda: "tpu")

    yield begin
    monkeypatch.undo()
    jax.clear_caches()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rotation_is_the_same_to_the_bit(as_on_a_tpu, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 4, 80)), dtype)
    cos_sin = rope.cos_sin(jnp.asarray(rng.uniform(0, 1e4, (2, 5, 40)), jnp.float32))
    found = []
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        for begin in (None, as_on_a_tpu):
            if begin:
                begin()
            found.append(np.asarray(rope.rotate(x, cos_sin), np.float32))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(("sizes", "adapters"), CASES)
def test_an_update_is_the_same(tiny_path, pictures, as_on_a_tpu, sizes, adapters):
    """Loss, log-probabilities and all gradients, of sums in another order."""
    vlm = load(tiny_path, "float32", make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)]))
    found = []
    for begin in (None, as_on_a_tpu):
        if begin:
            begin()
        with jax.set_mesh(vlm.mesh):
            model = adapted(vlm, EVERYWHERE) if adapters else vlm
            batch = random_batch(model, [pictures[:1], []], 2)
            batch = put_rows(batch, model.mesh)
            grpo_step.cache_clear()
            loss, _, logps, grads = grpo_step(policy(model))(model.params, batch)
            found.append(jax.device_get((loss, logps, grads)))
    (loss, logps, grads), (other_loss, other_logps, other_grads) = found
    np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
    np.testing.assert_allclose(other_logps, logps, atol=1e-5)
    assert_trees_close(other_grads, grads, 2e-5)


def test_a_rollout_is_the_same(vlm, pictures, as_on_a_tpu):
    arrays = prompt_arrays(vlm, [f"{V}left?", "How many?"], [pictures[:1], []], group=4, g=4)
    how = SamplingParams(4, 8, (), vlm.processor.pad_id)
    found = []
    for begin in (None, as_on_a_tpu):
        if begin:
            begin()
        with jax.set_mesh(vlm.mesh):
            prompt = put_rows(Prompt.from_arrays(arrays), vlm.mesh)
            sample = Sampler(vlm.graphdef, how, "float32")
            found.append(jax.device_get(sample(vlm.params, prompt, jax.random.key(0))))
    np.testing.assert_array_equal(found[1].tokens, found[0].tokens)
    np.testing.assert_allclose(found[1].logps, found[0].logps, atol=1e-5)
