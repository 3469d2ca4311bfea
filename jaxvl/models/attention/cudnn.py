# SPDX-License-Identifier: Apache-2.0
"""Attention on an NVIDIA GPU: cuDNN's fused kernel, through `jax.nn.dot_product_attention`.

cuDNN is fastest where its mask is causal; any other mask it reads as an array of biases, and works
out a gradient for that too. So a tree is cut into causal pieces: the prompts, and every completion
behind a copy of its prompt's keys. Elsewhere than on a GPU the same calls go through XLA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jaxvl.distributed.mesh import ROWS, platform

HEADS = P(ROWS, None, "tensor", None)


def tree_attention(
    q_RSNH: Float[Array, "R S N H"],
    k_RSKH: Float[Array, "R S K H"],
    v_RSKH: Float[Array, "R S K H"],
    prompt_mask_RT: Bool[Array | np.ndarray, "R T"],
    completions: int,
) -> Float[Array, "R S N H"]:
    """`reference.tree_attention`. Of a prompt's padding nothing is said but that it is finite.

    Two calls whose outputs stand side by side. Merging the outputs of a call on the prompt's keys
    and one on a completion's own would take their log-sum-exps, whose gradient cuDNN does not have.
    The price is T * (T + 1) / 2 scores a completion for queries that do not exist.
    """
    attend, g = _causal(), completions

    def local(q, k, v, prompt_mask_RT):
        S, T = q.shape[1], prompt_mask_RT.shape[1]
        prompt = attend(q[:, :T], k[:, :T], v[:, :T])
        if g == 0:
            return prompt
        length_B = jnp.repeat(prompt_mask_RT.sum(1), g)
        on_prompt = (jnp.arange(T + (S - T) // g) < length_B[:, None])[..., None, None]

        def behind(x):  # the completions, moved to behind the real tokens of their prompts
            own = rearrange(x[:, T:], "R (g C) N H -> (R g) C N H", g=g)
            return roll(jnp.pad(own, ((0, 0), (0, T), (0, 0), (0, 0))), length_B)

        def with_prompt(x):
            before = jnp.repeat(x[:, :T], g, axis=0)
            before = jnp.pad(before, ((0, 0), (0, (S - T) // g), (0, 0), (0, 0)))
            return jnp.where(on_prompt, before, behind(x))

        own = attend(behind(q), with_prompt(k), with_prompt(v))
        own = roll(own, -length_B)[:, : (S - T) // g]
        own = rearrange(own, "(R g) C N H -> R (g C) N H", g=g)
        return jnp.concatenate([prompt, own], axis=1)

    return jax.shard_map(
        local, in_specs=(HEADS, HEADS, HEADS, P(ROWS, None)), out_specs=HEADS, check_vma=False
    )(q_RSNH, k_RSKH, v_RSKH, prompt_mask_RT)


def segment_attention(
    q_RSNH: Float[Array, "R S N H"],
    k_RSKH: Float[Array, "R S K H"],
    v_RSKH: Float[Array, "R S K H"],
    segments_RS: Int[Array | np.ndarray, "R S"],
) -> Float[Array, "R S N H"]:
    """`reference.segment_attention`, with one [S, S] mask a row, which its heads share."""
    return _among_same(q_RSNH, k_RSKH, v_RSKH, segments_RS, causal=False)


def row_attention(
    q_RSNH: Float[Array, "R S N H"],
    k_RSKH: Float[Array, "R S K H"],
    v_RSKH: Float[Array, "R S K H"],
    examples_RS: Int[Array | np.ndarray, "R S"],
) -> Float[Array, "R S N H"]:
    """`reference.row_attention`, with one [S, S] mask a row, which its heads share."""
    return _among_same(q_RSNH, k_RSKH, v_RSKH, examples_RS, causal=True)


def _among_same(q_RSNH, k_RSKH, v_RSKH, numbers_RS, causal: bool) -> jax.Array:
    """Attention among the tokens of a row that have the same number, 0 or more."""
    name = _name()

    def local(q, k, v, numbers):
        S = q.shape[1]
        q, k, v = (_even(x) for x in (q, k, v))
        numbers = jnp.pad(numbers, ((0, 0), (0, S % 2)), constant_values=-1)
        mask_RSS = numbers[:, :, None] == numbers[:, None, :]
        if causal:
            mask_RSS &= jnp.tril(jnp.ones(mask_RSS.shape[1:], bool))
        out = jax.nn.dot_product_attention(q, k, v, mask=mask_RSS[:, None], implementation=name)
        return out[:, :S]

    return jax.shard_map(
        local, in_specs=(HEADS, HEADS, HEADS, P(ROWS, None)), out_specs=HEADS, check_vma=False
    )(q_RSNH, k_RSKH, v_RSKH, numbers_RS)


@jax.custom_vjp
def roll(x_BSNH: jax.Array, by_B: jax.Array) -> jax.Array:
    """Each row's tokens moved to the right by its own number, around the end.

    It has a gradient of its own because JAX's would add where nothing meets: scatter-add.
    """
    S = x_BSNH.shape[1]
    source_BS = (jnp.arange(S) - by_B[:, None]) % S
    return jnp.take_along_axis(x_BSNH, source_BS[..., None, None], axis=1)


roll.defvjp(lambda x, by: (roll(x, by), by), lambda by, g: (roll(g, -by), None))


def _causal() -> Callable:
    name = _name()

    def attend(q, k, v):
        S = q.shape[1]
        q, k, v = (_even(x) for x in (q, k, v))
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=name)[:, :S]

    return attend


def _even(x_RSNH: jax.Array) -> jax.Array:
    """With a token more where their number is odd: JAX hands cuDNN no odd row to differentiate."""
    return jnp.pad(x_RSNH, ((0, 0), (0, x_RSNH.shape[1] % 2), (0, 0), (0, 0)))


def _name() -> Literal["cudnn", "xla"]:
    return "cudnn" if platform() == "nvidia" else "xla"
