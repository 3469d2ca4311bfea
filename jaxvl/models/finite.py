# SPDX-License-Identifier: Apache-2.0
"""Whether the numbers of a tree of arrays are finite, and which are not."""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp

from jaxvl.distributed.mesh import path_name
from jaxvl.errors import UserError


def all_finite(tree: Any) -> jax.Array:
    """[], true where no array of `tree` holds a NaN or an infinity. For use inside of jit."""
    each = [jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]
    return functools.reduce(operator.and_, each, jnp.bool_(True))


@jax.jit
def _each(tree: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(lambda x: jnp.isfinite(x).all(), tree)


def not_finite(tree: Any) -> list[str]:
    """The names ("text/embed/w") of the arrays that hold a NaN or an infinity, in the tree's order.

    Integers are finite. Where arrays lie on several processes, all of them must call this.
    """
    found = jax.tree_util.tree_leaves_with_path(jax.device_get(_each(tree)))
    return [path_name(path) for path, finite in found if not finite]


def check(params: Any, where: str, cure: str) -> None:
    """UserError that says which parameter of `where` is not finite, if one is not."""
    if wrong := not_finite(params):
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(f"{where}: parameter {wrong[0]}{more} holds NaN or infinity; {cure}")
