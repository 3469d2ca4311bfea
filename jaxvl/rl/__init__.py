# SPDX-License-Identifier: Apache-2.0
"""Sampling, advantages, losses and the learner."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = ("advantages", "learner", "logprobs", "losses", "sampler")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"jaxvl.rl.{name}")
    raise AttributeError(f"module 'jaxvl.rl' has no attribute {name!r}")
