# SPDX-License-Identifier: Apache-2.0
"""Runs: GRPO in `grpo`, supervised fine-tuning in `sft`, each to be read from top to bottom."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """`train`, the GRPO run, from the package: loaded when it is asked for, with jax."""
    if name == "train":
        from jaxvl.train.grpo import train

        return train
    raise AttributeError(f"module 'jaxvl.train' has no attribute {name!r}")
