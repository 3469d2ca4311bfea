# SPDX-License-Identifier: Apache-2.0
"""Attention of a row: images, prompt, and completions that branch off the prompt.

One meaning (`reference`), and kernels that compute the same where there is one for the platform.
Nobody else knows which of them runs.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxvl.distributed.mesh import platform
from jaxvl.models.attention.reference import (
    causal_mask,
    heads_first,
    keys_last,
    masked_weights,
    share_kv,
)

__all__ = [
    "causal_mask",
    "choose",
    "heads_first",
    "keys_last",
    "masked_weights",
    "row_attention",
    "segment_attention",
    "share_kv",
    "tree_attention",
]

FEW = 256  # tokens, below which a row is hardly longer than the blocks that a kernel works in


def choose(platform: str, tokens: int, head_dim: int, dtype: Any) -> str:
    """Which implementation attends in rows of so many tokens: a module of this package.

    "splash" on a TPU; "cudnn" on an NVIDIA GPU for what it takes, which is 16-bit numbers and heads
    of a multiple of 8 up to 128; "reference" otherwise. `platform` is that of
    `jaxvl.distributed.mesh.platform()`.
    """
    if tokens < FEW:
        return "reference"
    if platform == "tpu":
        return "splash"
    sixteen_bits = jnp.dtype(dtype) in (jnp.dtype("bfloat16"), jnp.dtype("float16"))
    if platform == "nvidia" and sixteen_bits and head_dim % 8 == 0 and head_dim <= 128:
        return "cudnn"
    return "reference"


def _chosen(q_RSNH: Float[Array, "R S N H"]) -> ModuleType:
    _, S, _, H = q_RSNH.shape
    name = choose(platform(), S, H, q_RSNH.dtype)
    # Imported where it is needed: a kernel's machinery takes a second to load.
    return importlib.import_module(f"{__name__}.{name}")


def tree_attention(
    q_RSNH: Float[Array, "R S N H"],
    k_RSKH: Float[Array, "R S K H"],
    v_RSKH: Float[Array, "R S K H"],
    prompt_mask_RT: Bool[Array | np.ndarray, "R T"],
    completions: int,
) -> Float[Array, "R S N H"]:
    """A whole row [ prompt | c_1 | .. | c_g ]: the prompt is causal, completions branch off it.

    A completion sees the prompt's real tokens and its own past, never a sibling:

        T=2, g=2, C=2      p p | a a | b b
                     p     1 0   0 0   0 0
                     p     1 1   0 0   0 0
                     a     1 1   1 0   0 0
                     a     1 1   1 1   0 0
                     b     1 1   0 0   1 0
                     b     1 1   0 0   1 1

    Prompts are padded on the right; what comes out at their padding is finite and means nothing.
    """
    return _chosen(q_RSNH).tree_attention(q_RSNH, k_RSKH, v_RSKH, prompt_mask_RT, completions)


def row_attention(
    q_RSNH: Float[Array, "R S N H"],
    k_RSKH: Float[Array, "R S K H"],
    v_RSKH: Float[Array, "R S K H"],
    examples_RS: Int[Array | np.ndarray, "R S"],
) -> Float[Array, "R S N H"]:
    """Causal attention in rows of several texts: a token sees those up to itself that have its
    number in `examples_RS`, 0 or more; what has the same number lies together."""
    return _chosen(q_RSNH).row_attention(q_RSNH, k_RSKH, v_RSKH, examples_RS)


def segment_attention(
    q_RSNH: Float[Array, "R S N H"],
    k_RSKH: Float[Array, "R S K H"],
    v_RSKH: Float[Array, "R S K H"],
    segments_RS: Int[Array | np.ndarray, "R S"],
) -> Float[Array, "R S N H"]:
    """Attention among the tokens of a row that have the same segment number, 0 or more."""
    return _chosen(q_RSNH).segment_attention(q_RSNH, k_RSKH, v_RSKH, segments_RS)
