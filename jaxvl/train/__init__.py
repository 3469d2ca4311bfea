# SPDX-License-Identifier: Apache-2.0
"""Runs: GRPO in `grpo`, supervised fine-tuning in `sft`, each to be read from top to bottom.

The package is called as its function `train`, and `sft` too: `jaxvl.train(cfg)`, `jaxvl.sft(cfg)`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any


class Runnable(ModuleType):
    """A module that is called as its function `train`."""

    def __call__(self, cfg: Any, callbacks: Sequence[Any] | None = None) -> Any:
        """Runs the whole of `cfg` and returns the trained model; `callbacks` are called after every
        step as on_step(step, metrics, rollouts), see `jaxvl.train.callbacks`."""
        return self.train(cfg, callbacks)


sys.modules[__name__].__class__ = Runnable


def __getattr__(name: str) -> Any:
    """`train`, the GRPO run, from the package: loaded when it is asked for, with jax."""
    if name == "train":
        from jaxvl.train.grpo import train

        return train
    raise AttributeError(f"module 'jaxvl.train' has no attribute {name!r}")
