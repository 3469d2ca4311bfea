# SPDX-License-Identifier: Apache-2.0
"""A model's forward pass over whole rows, compiled: for those who look, not for training.

Each function gives the same compiled function for the same model, so that a second call compiles
nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvl.models import qwen_vl
from jaxvl.models.inputs import Prompt
from jaxvl.rl import learner
from jaxvl.rl.batch import TrainBatch


@functools.lru_cache(maxsize=32)
def logits(graphdef: nnx.GraphDef, dtype: str) -> Callable[..., jax.Array]:
    """(params, prompt) -> the logits after every token, [R, T, V]."""

    @jax.jit
    def run(params, prompt: Prompt) -> jax.Array:
        model = qwen_vl.assemble(graphdef, params, dtype)
        return model.text.logits(model.hidden(prompt))

    return run


@functools.lru_cache(maxsize=32)
def attention(graphdef: nnx.GraphDef, dtype: str) -> Callable[..., jax.Array]:
    """(params, prompt, layer) -> how much each token looks at each of its row, of one layer."""

    @jax.jit
    def run(params, prompt: Prompt, layer: jax.Array) -> jax.Array:
        model = qwen_vl.assemble(graphdef, params, dtype)
        return model.attention_weights(prompt, layer)

    return run


@functools.lru_cache(maxsize=32)
def logprobs(policy: learner.Policy) -> Callable[..., jax.Array]:
    """(params, prompt, tokens [R, g, C]) -> the log-probability of each of these tokens."""

    @jax.jit
    def run(params, prompt: Prompt, tokens_RgC) -> jax.Array:
        unused = jnp.zeros(tokens_RgC.shape)
        batch = TrainBatch(prompt, tokens_RgC, unused > 0, unused[..., 0], unused, unused)
        return policy.logprobs(params, batch)[0]

    return run
