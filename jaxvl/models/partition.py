# SPDX-License-Identifier: Apache-2.0
"""The parts of a model that train or stand still, and parameter trees cut and joined along them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flax import traverse_util

ADAPTERS = "adapters"  # the part of every leaf that `lora` adds, whatever it stands beside


def part(path: str) -> str:
    """Of the parameter at "text/layers/attn/q/w": "tower", "merger", "text" or ADAPTERS."""
    if "/lora/" in path:
        return ADAPTERS
    if path.startswith("text/"):
        return "text"
    return "merger" if path.startswith("vision/merger/") else "tower"


def partition(
    params: dict[str, Any], wanted: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leaves of the parts in `wanted`, and all others: two trees without a leaf in common."""
    flat, wanted = traverse_util.flatten_dict(params, sep="/"), set(wanted)
    return tuple(
        traverse_util.unflatten_dict(
            {path: x for path, x in flat.items() if (part(path) in wanted) is side}, sep="/"
        )
        for side in (True, False)
    )


def combine(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """One tree with the leaves of both; `other`'s where both have one. No array is copied."""
    flat = (traverse_util.flatten_dict(tree, sep="/") for tree in (one, other))
    return traverse_util.unflatten_dict(next(flat) | next(flat), sep="/")
