# SPDX-License-Identifier: Apache-2.0
"""Attention on a TPU: splash attention, a Pallas kernel that JAX ships.

It skips the blocks in which a static mask shows nothing, and works out the rest of the mask in the
kernel from one integer a query, so that no mask is ever an array. What depends on the data
(padding, images) it takes as segment numbers. Elsewhere than on a TPU the kernel is interpreted:
slow, and the same numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jaxvl.distributed.mesh import ROWS, platform
from jaxvl.models.layers import ATTENDED

BLOCKS = (512, 256, 128)  # tokens in a block; large ones keep the matrix unit busy
OFFSET_BITS = 14  # of `Tree.q_sequence`
MAX_TOKENS = 2 ** (31 - OFFSET_BITS)


@dataclasses.dataclass(frozen=True)
class Tree(masks.Mask):
    """The mask of a row [ prompt | c_1 | .. | c_g | padding ]: see `tree_attention`.

    It has what splash looks for in a mask that its kernel can work out: `q_sequence` and
    `mask_function`.
    """

    tokens: int  # of the row, padding included
    prompt: int  # T
    completion: int  # C

    @property
    def shape(self) -> tuple[int, int]:
        return self.tokens, self.tokens

    @property
    def q_sequence(self) -> np.ndarray:
        """Of every query its place and, below it, its place in its completion: int32 [S]."""
        place = np.arange(self.tokens)
        own = np.where(place < self.prompt, 0, (place - self.prompt) % self.completion)
        return (place << OFFSET_BITS | own).astype(np.int32)

    def mask_function(self, query, key):
        """Whether queries, given as `q_sequence` has them, see keys, given as their places."""
        place = query >> OFFSET_BITS
        start = place - (query & (2**OFFSET_BITS - 1))
        return (key <= place) & ((key < self.prompt) | (key >= start))

    def __getitem__(self, at: tuple[slice, slice]) -> np.ndarray:
        queries, keys = at
        return self.mask_function(
            self.q_sequence[queries][:, None], np.arange(self.tokens)[keys][None]
        )


def tree_attention(
    q_RSNH: Float[Array, "R S N H"],
    k_RSKH: Float[Array, "R S K H"],
    v_RSKH: Float[Array, "R S K H"],
    prompt_mask_RT: Bool[Array | np.ndarray, "R T"],
    completions: int,
) -> Float[Array, "R S N H"]:
    """`reference.tree_attention`; the prompt's padding is a segment of its own."""
    R, S = q_RSNH.shape[:2]
    T = prompt_mask_RT.shape[1]
    C = (S - T) // completions if completions else 1
    if S + BLOCKS[-1] > MAX_TOKENS or C >= 2**OFFSET_BITS:
        raise ValueError(
            f"a row of {S} tokens with completions of {C}: the mask takes rows of less than "
            f"{MAX_TOKENS - BLOCKS[-1]} and completions of less than {2**OFFSET_BITS}"
        )
    real = jnp.ones((R, S - T), bool, out_sharding=P(ROWS, None))
    segments_RS = jnp.concatenate([prompt_mask_RT, real], axis=1).astype(jnp.int32)
    return _attend(q_RSNH, k_RSKH, v_RSKH, segments_RS, lambda padded: Tree(padded, T, C))


def segment_attention(
    q_RSNH: Float[Array, "R S N H"],
    k_RSKH: Float[Array, "R S K H"],
    v_RSKH: Float[Array, "R S K H"],
    segments_RS: Int[Array | np.ndarray, "R S"],
) -> Float[Array, "R S N H"]:
    """`reference.segment_attention`; numbers are not negative."""
    return _attend(
        q_RSNH, k_RSKH, v_RSKH, segments_RS, lambda padded: masks.FullMask((padded, padded))
    )


def row_attention(
    q_RSNH: Float[Array, "R S N H"],
    k_RSKH: Float[Array, "R S K H"],
    v_RSKH: Float[Array, "R S K H"],
    examples_RS: Int[Array | np.ndarray, "R S"],
) -> Float[Array, "R S N H"]:
    """`reference.row_attention`."""
    if q_RSNH.shape[1] + BLOCKS[-1] > MAX_TOKENS:
        raise ValueError(
            f"a row of {q_RSNH.shape[1]} tokens: the mask takes less than {MAX_TOKENS}"
        )
    # A prompt that fills the row is causal.
    return _attend(q_RSNH, k_RSKH, v_RSKH, examples_RS, lambda padded: Tree(padded, padded, 1))


def _attend(q, k, v, segments_RS, mask_of) -> jax.Array:
    """Every device attends for its own rows and heads: nothing is exchanged.

    Tokens are padded to whole blocks with a segment -1; there as everywhere a token sees itself, so
    that no softmax is empty.
    """
    S = q.shape[1]
    block = block_size(S)
    heads, tokens = P(ROWS, None, "tensor", None), P(ROWS, None)
    interpret = platform() != "tpu"

    def local(q, k, v, segments):
        pad = ((0, 0), (0, -S % block), (0, 0), (0, 0))
        q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
        q, k, v = (rearrange(jnp.pad(x, pad), "R S N H -> R N S H") for x in (q, k, v))
        segments = jnp.pad(segments, pad[:2], constant_values=-1)
        kernel = _kernel(mask_of(q.shape[2]), q.shape[1], block, interpret)
        out: Any = jax.vmap(kernel)(q, k, v, kernels.SegmentIds(segments, segments))
        return rearrange(out, "R N S H -> R S N H")[:, :S]

    return jax.shard_map(
        local, in_specs=(heads, heads, heads, tokens), out_specs=heads, check_vma=False
    )(q, k, v, segments_RS)


def block_size(tokens: int) -> int:
    """The largest block that lengthens a row by an eighth at most."""
    fits = (block for block in BLOCKS if -tokens % block <= tokens // 8)
    return next(fits, BLOCKS[-1])


def _kernel(
    mask: masks.Mask, heads: int, block: int, interpret: bool
) -> kernels.SplashAttentionKernel:
    """Attention of one row: q [N, S, H], k and v [K, S, H]; head n reads kv head n * K // N."""
    return kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        residual_checkpoint_name=ATTENDED,
        interpret=interpret,
    )
