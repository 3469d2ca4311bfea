# SPDX-License-Identifier: Apache-2.0
"""The vision tower over packed patches: images of any size, any number in a row.

Qwen2-VL's blocks see an image whole. Most of Qwen2.5-VL's see a window of it; patches come window
by window, so that both are numbers that rise along a row, and one stack of blocks reads either.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard

from jaxvl.distributed.fold import fold
from jaxvl.distributed.mesh import ROWS
from jaxvl.models import attention, rope
from jaxvl.models.arch import VisionArch
from jaxvl.models.inputs import Vision
from jaxvl.models.layers import (
    MLP,
    LayerNorm,
    Linear,
    RMSNorm,
    SwiGLU,
    exact_gelu,
    normal,
    quick_gelu,
    remat_layer,
    stack,
)


class PatchEmbed(nnx.Module):
    """A patch's values to the tower's width (the checkpoint's 3-D convolution, stride = kernel)."""

    def __init__(self, arch: VisionArch, *, rngs: nnx.Rngs):
        self.w = normal(rngs, arch.patch_values, arch.dim, fan_in=arch.patch_values)

    def __call__(self, patches_RQE: jax.Array) -> jax.Array:
        w = reshard(self.w[...], P(None, None))
        return jnp.einsum(
            "RQE,ED->RQD", patches_RQE.astype(w.dtype), w, out_sharding=P(ROWS, None, None)
        )


def pixel_values(vision: Vision, frames: int) -> jax.Array:
    """[R, Q, E] as the image processor makes them; of bytes float32, a still image being as many
    `frames` that are the same.

    Within two units in the last place of its float32: see `ImageSettings.pixels`.
    """
    if vision.pixels is None:
        return vision.patches
    high, low, mean, scale = (vision.pixels[:, i][:, None, :, None] for i in range(4))
    bytes_RQCS = fold(vision.patches, "R Q (C S) -> R Q C S", C=3).astype(jnp.float32)
    values = ((bytes_RQCS * high + bytes_RQCS * low - mean) * scale)[:, :, :, None]
    R, Q, C, _, S = values.shape
    spec = P(ROWS, *(None,) * 4)
    values = jnp.broadcast_to(values, (R, Q, C, frames, S), out_sharding=spec)
    return fold(values, "R Q C f S -> R Q (C f S)")


class VisionAttention(nnx.Module):
    """Attention among the patches of a segment (an image, or a window of one), [R, Q, D]."""

    def __init__(self, arch: VisionArch, *, rngs: nnx.Rngs):
        self.heads = arch.heads
        self.q = Linear("column", arch.dim, arch.dim, bias=True, rngs=rngs)
        self.k = Linear("column", arch.dim, arch.dim, bias=True, rngs=rngs)
        self.v = Linear("column", arch.dim, arch.dim, bias=True, rngs=rngs)
        self.o = Linear("row", arch.dim, arch.dim, bias=True, rngs=rngs)

    def __call__(self, x_RQD: jax.Array, cos_sin: rope.CosSin, segments_RQ: jax.Array) -> jax.Array:
        q, k, v = (part.to_heads(x_RQD, self.heads) for part in (self.q, self.k, self.v))
        q, k = rope.rotate(q, cos_sin), rope.rotate(k, cos_sin)
        return self.o.from_heads(attention.segment_attention(q, k, v, segments_RQ))


class VisionBlock(nnx.Module):
    """Pre-norm attention and MLP, each added to the residual stream [R, Q, D]."""

    def __init__(self, arch: VisionArch, *, rngs: nnx.Rngs):
        self.norm1 = _norm(arch)
        self.attn = VisionAttention(arch, rngs=rngs)
        self.norm2 = _norm(arch)
        self.mlp: SwiGLU | MLP
        if arch.gated:
            self.mlp = SwiGLU(arch.dim, arch.hidden, bias=True, rngs=rngs)
        else:
            self.mlp = MLP(arch.dim, arch.hidden, arch.dim, quick_gelu, rngs=rngs)

    def __call__(self, x_RQD: jax.Array, cos_sin: rope.CosSin, segments_RQ: jax.Array) -> jax.Array:
        with jax.named_scope("attention"):
            x_RQD = x_RQD + self.attn(self.norm1(x_RQD), cos_sin, segments_RQ)
        with jax.named_scope("mlp"):
            return x_RQD + self.mlp(self.norm2(x_RQD))


class Merger(nnx.Module):
    """Four neighbouring patches (they are adjacent in the packed order) to one text embedding."""

    def __init__(self, arch: VisionArch, *, rngs: nnx.Rngs):
        self.patches = arch.merge_size**2
        width = arch.dim * self.patches
        self.norm = _norm(arch)
        self.mlp = MLP(width, width, arch.out_dim, exact_gelu, rngs=rngs)

    @jax.named_scope("merger")
    def __call__(self, x_RQD: jax.Array) -> jax.Array:
        return self.mlp(fold(self.norm(x_RQD), "R (M m) D -> R M (m D)", m=self.patches))


class VisionTower(nnx.Module):
    """Patches [R, Q, E] -> merged embeddings [R, M, out_dim]; padding gives rows nobody reads."""

    def __init__(self, arch: VisionArch, *, rngs: nnx.Rngs):
        self.arch = arch
        self.patch_embed = PatchEmbed(arch, rngs=rngs)
        self.blocks = stack(functools.partial(VisionBlock, arch), arch.depth, rngs)
        self.merger = Merger(arch, rngs=rngs)

    @jax.named_scope("tower")
    def __call__(self, vision: Vision, remat: str = "block") -> jax.Array:
        arch = self.arch
        cos_sin = rope.cos_sin(
            rope.vision_angles(vision.coords, arch.dim // arch.heads, arch.rope_theta)
        )

        def body(x_RQD, layer):
            block, whole = layer
            segments_RQ = jnp.where(whole, vision.segments, vision.windows)
            return block(x_RQD, cos_sin, segments_RQ), None

        layers = (self.blocks, jnp.array(arch.full_attention))
        x_RQD = self.patch_embed(pixel_values(vision, arch.temporal_patch_size))
        x_RQD, _ = jax.lax.scan(remat_layer(body, remat), x_RQD, layers)
        return self.merger(x_RQD)


def _norm(arch: VisionArch) -> RMSNorm | LayerNorm:
    return (RMSNorm if arch.gated else LayerNorm)(arch.dim, arch.norm_eps)
