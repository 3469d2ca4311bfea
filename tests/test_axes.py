# SPDX-License-Identifier: Apache-2.0
"""Annotated axes are assertions while tests run (tests/conftest.py)."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from jaxvl.models import attention, rope
from jaxvl.rl import losses

ROOT = Path(__file__).parents[1]


def test_a_wrong_shape_is_refused():
    x, angles = jnp.ones((2, 3, 4, 8)), jnp.ones((2, 3, 4))
    assert rope.rotate(x, rope.cos_sin(angles)).shape == x.shape
    with pytest.raises(TypeCheckError):
        rope.rotate(x, rope.cos_sin(angles[:, :2]))
    with pytest.raises(TypeCheckError):
        attention.segment_attention(x, x, x, jnp.ones((3, 2), int))


def test_a_wrong_kind_of_number_is_refused():
    logps, advantages = jnp.zeros((2, 3, 5)), jnp.zeros((2, 3))
    losses.clipped_objective(logps, logps, advantages, 0.2, 0.2)
    losses.clipped_objective(logps.astype(jnp.bfloat16), logps, advantages, 0.2, 1)
    with pytest.raises(TypeCheckError):
        losses.clipped_objective(logps.astype(int), logps, advantages, 0.2, 0.2)


def test_letters_are_those_of_the_table():
    """Of the annotations of the batch, and of what is asserted: words say what has no letter."""
    table = (ROOT / "docs/design.md").read_text().partition("## Letters")[2]
    letters = set(re.findall(r"\| (\w) ", table))
    files = [*(ROOT / "jaxvl/models").rglob("*.py"), *(ROOT / "jaxvl/rl").glob("*.py")]
    axes = {
        name.strip("*#")
        for file in files
        for text in re.findall(r'Array(?: \| np\.ndarray)?, "([^"]*)"\]', file.read_text())
        for name in text.split()
    }
    assert {"R", "S", "C"} <= axes
    assert {name for name in axes if len(name) == 1 and name.isalpha()} <= letters
