# SPDX-License-Identifier: Apache-2.0
"""Reinforcement learning for vision-language models in JAX.

Names are loaded when they are first used, so that a worker process that needs only rewards starts
without jax.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {"load": "vlm", "VLM": "vlm", "Completion": "vlm", "UserError": "errors"}
_PACKAGES = ("rewards", "rl", "data", "models", "eval")
__all__ = [*_HOME, *_PACKAGES]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"jaxvl.{_HOME[name]}"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"jaxvl.{name}")
    raise AttributeError(f"module 'jaxvl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
