# SPDX-License-Identifier: Apache-2.0
"""Weights in eight bits for decoding, which reads all of them for every token.

Symmetric, with a scale for each output: w = scale * q, q whole numbers from -127 to 127, which
bfloat16 holds exactly. Products are x q * scale, so that no weight is ever written in another
dtype, and what an output is off by comes from rounding alone: at most half a step of 1/127 of its
largest weight for each input.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def quantize(module: Any) -> None:
    """Puts int8 in the place of a module's `w` [in, ..], and its scales [..] beside it."""
    w = module.w[...].astype(jnp.float32)
    largest = jnp.abs(w).max(0)
    scale = jnp.where(largest > 0, largest / 127, 1.0)
    module.w = nnx.Param(jnp.round(w / scale).astype(jnp.int8))
    module.w_scale = nnx.Param(scale)


def product(pattern: str, x: jax.Array, module: Any, **how: Any) -> jax.Array:
    """The product of x and a module's `w` in the dtype of x, whether or not `w` is int8."""
    y = jnp.einsum(pattern, x, module.w[...].astype(x.dtype), **how)
    return scaled(y, module.w_scale[...]) if hasattr(module, "w_scale") else y


def scaled(y: jax.Array, scale: jax.Array) -> jax.Array:
    """y * scale, rounded once: a scale may be no number of the dtype of y."""
    return (y.astype(jnp.float32) * scale).astype(y.dtype)
