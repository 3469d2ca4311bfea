# SPDX-License-Identifier: Apache-2.0
"""What a compiled update must not hold, whatever it was compiled for."""

from __future__ import annotations

import math

import jax

from jaxvl.models.arch import Arch
from jaxvl.plan.hlo import Module
from jaxvl.plan.programs import Sizes
from jaxvl.sharding import param_shardings, path_name

MiB = 2.0**20
REPLICATED = 16 * MiB  # a parameter that is larger must be split over the mesh


def faults(module: Module, arch: Arch, sizes: Sizes, mesh: jax.sharding.Mesh) -> list[str]:
    """Arrays on a chip that the design rules out: the logits of all tokens of a row, and scores
    between all pairs of them."""
    tensor = mesh.shape["tensor"]
    own = sizes.completions * sizes.length
    S = sizes.tokens + own
    vocab = {arch.text.vocab, arch.text.vocab // tensor}
    found = []
    for array, where in module.arrays():
        rest = [size for size in array.shape if size not in vocab]
        if len(rest) < len(array.shape) and math.prod(rest) >= own > arch.text.dim:
            found.append(f"logits of all tokens at once: {array} ({where})")
        if sum(size >= S for size in array.shape) > 1 and array.shape.count(S) > 1:
            found.append(f"scores of all pairs of a row's tokens: {array} ({where})")
    return found


def replicated(params: dict, mesh: jax.sharding.Mesh) -> list[str]:
    """Parameters (shapes) above `REPLICATED` that every chip of the mesh would hold whole."""
    found = []
    for (path, x), sharding in zip(
        jax.tree_util.tree_leaves_with_path(params),
        jax.tree.leaves(param_shardings(params, mesh)),
        strict=True,
    ):
        size = x.size * x.dtype.itemsize
        if size > REPLICATED and sharding.is_fully_replicated:
            found.append(f"{path_name(path)}: {size / MiB:.0f} MiB on every chip")
    return found
