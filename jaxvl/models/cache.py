# SPDX-License-Identifier: Apache-2.0
"""Keys and values that decoding reads: as they were made, or in eight bits.

In eight bits they are whole numbers with a scale for each head of each position. Products take the
whole numbers; the scales multiply what has no width, scores and weights of pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from jaxvl.models.int8 import rounded


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values in the order in which a decode step reads them, of one layer or (L) of all.

    X are rows with T tokens of a prompt, or slots with C of a completion.
    """

    k: jax.Array  # [(L,) X, K, H, T]
    v: jax.Array  # [(L,) X, K, T, H]
    k_scale: jax.Array | None = None  # float32 [(L,) X, K, T], where k is int8
    v_scale: jax.Array | None = None

    def int8(self) -> KVCache:
        """The same in eight bits."""
        k, k_scale = rounded(self.k, axis=-2)
        v, v_scale = rounded(self.v, axis=-1)
        return KVCache(k, v, k_scale, v_scale)

    def like(self, other: KVCache) -> KVCache:
        """In eight bits where `other` is."""
        return self if other.k_scale is None else self.int8()

    def put(self, one: KVCache, index: jax.Array) -> KVCache:
        """With `one`, a single token of all X as it was made, at `index`."""
        return self.over_tokens(
            lambda axis, x, new: jax.lax.dynamic_update_slice_in_dim(x, new, index, axis),
            one.like(self),
        )

    def take(self, tokens: jax.Array) -> KVCache:
        """Those of some tokens, in an order."""
        return self.over_tokens(lambda axis, x: x[..., tokens] if axis == -1 else x[..., tokens, :])

    def over_tokens(self, function: Callable[..., jax.Array], *others: KVCache) -> KVCache:
        """What `function` makes of each array and those of others, after its axis of tokens."""

        def of(name: str, axis: int) -> jax.Array:
            return function(axis, *(getattr(one, name) for one in (self, *others)))

        scales = () if self.k_scale is None else (of("k_scale", -1), of("v_scale", -1))
        return KVCache(of("k", -1), of("v", -2), *scales)
