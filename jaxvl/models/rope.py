# SPDX-License-Identifier: Apache-2.0
"""Rotary positions. Positions come in as integers; angles are float32 everywhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int

from jaxvl.distributed.mesh import platform


def _frequencies(size: int, theta: float) -> np.ndarray:
    """theta^(-2i/size) for i < size/2, float32."""
    return (1.0 / theta ** (np.arange(0, size, 2, dtype=np.float32) / size)).astype(np.float32)


def mrope_angles(
    positions_R3S: Int[Array, "R 3 S"], section: tuple[int, int, int], theta: float
) -> Float32[Array, "R S half"]:
    """Angles [R, S, H/2] of M-RoPE: `section[0]` frequencies turn with t, then h, then w."""
    axis = np.repeat(np.arange(3), section)
    freqs_F1 = _frequencies(2 * sum(section), theta)[:, None]
    angles_RFS = positions_R3S[:, axis].astype(jnp.float32) * freqs_F1
    return rearrange(angles_RFS, "R F S -> R S F")


def vision_angles(
    coords_RQ2: Int[Array, "R Q 2"], head_dim: int, theta: float
) -> Float32[Array, "R Q half"]:
    """Angles [R, Q, H/2] of the tower: half of the frequencies turn with h, half with w."""
    freqs = _frequencies(head_dim // 2, theta)
    angles_RQ2F = coords_RQ2[..., None].astype(jnp.float32) * freqs
    return rearrange(angles_RQ2F, "R Q hw F -> R Q (hw F)")


# Cosine and sine of angles [R, S, H/2].
CosSin = tuple[Float32[Array, "R S half"], Float32[Array, "R S half"]]


def cos_sin(angles_RSF: Float32[Array, "R S half"]) -> CosSin:
    """What `rotate` takes: made once for all layers."""
    return jnp.cos(angles_RSF), jnp.sin(angles_RSF)


def rotate(x_RSNH: Float[Array, "R S N H"], cos_sin: CosSin) -> Float[Array, "R S N H"]:
    """Turns the pairs (x[i], x[i + H/2]) by their angles, in float32."""
    if platform() == "tpu":
        return _rotate_whole(x_RSNH, cos_sin)
    cos, sin = (x[:, :, None] for x in cos_sin)
    low, high = jnp.split(x_RSNH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
    return turned.astype(x_RSNH.dtype)


def _rotate_whole(x_RSNH: jax.Array, cos_sin: CosSin) -> jax.Array:
    """The same without a half of a head: for one, the TPU's compiler lays whole rows out anew, to
    and fro, which takes longer than the layer's products. What a number is paired with comes from
    a product with a permutation, which is exact."""
    H = x_RSNH.shape[-1]
    swap_HH = jnp.asarray(np.roll(np.eye(H, dtype=np.float32), H // 2, axis=1), x_RSNH.dtype)
    pair_RSNH = jnp.einsum(
        "RSNH,HG->RSNG",
        x_RSNH,
        swap_HH,
        precision=jax.lax.Precision.HIGHEST,
        out_sharding=P(*jax.typeof(x_RSNH).sharding.spec),
    )
    cos, sin = (x[:, :, None] for x in cos_sin)
    cos, sin = jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)
    turned = x_RSNH.astype(jnp.float32) * cos + pair_RSNH.astype(jnp.float32) * sin
    return turned.astype(x_RSNH.dtype)
