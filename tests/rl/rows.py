# SPDX-License-Identifier: Apache-2.0
"""Train batches for tests: prompts with made-up completions, cut in rows of any width."""

import functools

import jax
import numpy as np

from jaxvl.config import GRPO, Grpo
from jaxvl.data.prompts import collate
from jaxvl.models.inputs import Prompt
from jaxvl.rl.batch import TrainBatch
from jaxvl.rl.learner import Policy, grpo_objective

V = "<|vision_start|><|image_pad|><|vision_end|>"
PROMPTS = [f"{V}left or right?", "How many blue squares are there?"]
G, C = 4, 6


def prompt_arrays(vlm, prompts, images, *, group=1, g=1, first_id=0, buckets=(24, 32)):
    """A prompt batch on the host with rows of g completions: group / g of them for every prompt."""
    return collate(
        vlm.encode(prompts, images),
        range(first_id, first_id + len(prompts)),
        pad_id=vlm.processor.pad_id,
        prompt_bucket=buckets[0],
        patch_bucket=buckets[1],
        rows_per_prompt=group // g,
        completions_per_row=g,
    )


def completions(rng, prompts, group=G, length=C):
    """Random tokens [P, G, C] and a mask with lengths from 1 to C, both ends among them."""
    lengths = rng.integers(1, length + 1, (prompts, group))
    lengths.flat[0], lengths.flat[-1] = 1, length
    tokens = rng.integers(0, 300, (prompts, group, length)).astype(np.int32)
    return tokens, np.arange(length) < lengths[..., None]


def train_batch(arrays, tokens, *, mask=None, advantages=None, old=None, ref=None) -> TrainBatch:
    """A host batch without micro-batches. tokens [P, G, C] and the like, cut to the rows' width."""
    P, group = tokens.shape[:2]
    R = len(arrays["length"])
    zeros = np.zeros(tokens.shape, np.float32)

    def cut(x, default):
        x = default if x is None else x
        return x.reshape(R, P * group // R, *x.shape[2:])

    return TrainBatch(
        prompt=Prompt.from_arrays(arrays),
        tokens=cut(tokens, None),
        mask=cut(mask, zeros == 0),
        advantages=cut(advantages, zeros[..., 0]),
        old_logps=cut(old, zeros),
        ref_logps=cut(ref, zeros),
    )


def random_batch(vlm, images, g, prompts=PROMPTS) -> TrainBatch:
    """The same random completions whatever g: advantages of both signs, ratios around the clip."""
    rng = np.random.default_rng(0)
    P = len(prompts)
    tokens, mask = completions(rng, P)
    near = -6 + 0.3 * rng.normal(size=(2, *tokens.shape))  # log(1/320) is -5.8
    old, ref = near.astype(np.float32)
    advantages = rng.normal(size=(P, G)).astype(np.float32)
    arrays = prompt_arrays(vlm, prompts, images, group=G, g=g)
    return train_batch(arrays, tokens, mask=mask, advantages=advantages, old=old, ref=ref)


def policy(vlm, *, temperature=1.0, chunk=5, remat="products") -> Policy:
    return Policy(vlm.graphdef, "float32", remat, temperature, chunk)


@functools.cache
def grpo_step(policy: Policy):
    """Jitted (params, batch) -> loss, stats, log-probabilities and gradients of all of GRPO."""
    objective = grpo_objective(
        policy, GRPO(num_iterations=2, beta=0.1, loss=Grpo(epsilon_high=0.3))
    )

    @jax.jit
    def run(params, batch):
        grad = jax.value_and_grad(objective, has_aux=True)
        (loss, stats), grads = grad(params, batch, batch)
        return loss, stats, policy.logprobs(params, batch)[0], grads

    return run


def assert_trees_close(found, expected, relative):
    """Every leaf within `relative` of the leaf's norm."""

    def check(path, a, b):
        a, b = np.asarray(a), np.asarray(b)
        error, size = np.linalg.norm(a - b), np.linalg.norm(b)
        name = jax.tree_util.keystr(path)
        assert size > 0, f"{name} is zero: nothing is compared"
        assert error <= relative * size, f"{name}: {error / size:.1e} > {relative:.1e}"

    jax.tree_util.tree_map_with_path(check, found, expected)
