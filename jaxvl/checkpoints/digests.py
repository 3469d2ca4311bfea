# SPDX-License-Identifier: Apache-2.0
"""Digests of arrays, computed where the arrays are: what was saved is what is restored, or not.

A digest is two sums, modulo 2^32, over an array's elements: of a hash of the element's bits and its
place. Integer sums do not depend on their order, so the same array has the same digest on any mesh.
For one place the hash is a bijection of the bits: a change of one element is always seen, any other
with all but about 2^-64. It guards against faults of disks, networks and memory, not against
somebody who wants to deceive.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def digests(tree: Any) -> Any:
    """uint32 [2] in place of every array."""
    return jax.tree.map(_digest, tree)


def changed(tree: Any, expected: Any) -> list[str]:
    """The names of the arrays of `tree` whose digests are not the `expected` ones."""
    found = jax.tree_util.tree_leaves_with_path(jax.device_get(digests(tree)))
    wanted = jax.tree.leaves(jax.device_get(expected))
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, digest), other in zip(found, wanted, strict=True)
        if not np.array_equal(digest, other)
    ]


@jax.jit
def _digest(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.uint8) if x.dtype == bool else x
    bits = jax.lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.uint32(x.ndim)
    for axis, size in enumerate(x.shape):
        shape = [1] * x.ndim
        shape[axis] = size
        numbers = jnp.arange(size, dtype=jnp.uint32).reshape(shape)
        place = _mix(place * jnp.uint32(31) + numbers)
    first, second = _mix(bits ^ place), _mix(bits + place * jnp.uint32(0x9E3779B9))
    return jnp.stack([first.sum(dtype=jnp.uint32), second.sum(dtype=jnp.uint32)])


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which every bit of x changes about half of the bits: the finalizer
    of MurmurHash3 (Austin Appleby, public domain)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
