# SPDX-License-Identifier: Apache-2.0
"""Eight bits for decoding, which reads all weights, and all keys and values, for every token.

Symmetric: x = scale * q, q whole numbers from -127 to 127, which bfloat16 holds exactly, so that
what x is off by comes from rounding alone, at most half a step of 1/127 of the largest number that
has the same scale. A weight has a scale for each output. Its products are x q * scale, so that it
is never written in another dtype.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def quantize(module: Any) -> None:
    """Puts int8 in the place of a module's `w` [in, ..], and its scales [..] beside it."""
    q, scale = rounded(module.w[...], axis=0)
    module.w, module.w_scale = nnx.Param(q), nnx.Param(scale)


def rounded(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """x in int8, and the float32 scales, which all along `axis` share."""
    x = x.astype(jnp.float32)
    largest = jnp.abs(x).max(axis)
    scale = jnp.where(largest > 0, largest / 127, 1.0)
    return jnp.round(x / jnp.expand_dims(scale, axis)).astype(jnp.int8), scale


def product(pattern: str, x: jax.Array, module: Any, **how: Any) -> jax.Array:
    """The product of x and a module's `w` in the dtype of x, whether or not `w` is int8."""
    y = jnp.einsum(pattern, x, module.w[...].astype(x.dtype), **how)
    return scaled(y, module.w_scale[...]) if hasattr(module, "w_scale") else y


def scaled(y: jax.Array, scale: jax.Array) -> jax.Array:
    """y * scale, rounded once: a scale may be no number of the dtype of y."""
    return (y.astype(jnp.float32) * scale).astype(y.dtype)
