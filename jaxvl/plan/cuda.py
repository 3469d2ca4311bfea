# SPDX-License-Identifier: Apache-2.0
"""GPUs that are not there, to compile for with XLA's own compiler for CUDA."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxvl.errors import UserError
from jaxvl.plan.chips import GpuNode
from jaxvl.plan.forecast import part_of
from jaxvl.plan.hlo import Module

PLUGINS = ("xla_cuda12", "xla_cuda13")
CUDNN = 91000  # the version that `targets` says, as cuDNN counts
_ATTENTION = "__cudnn$fmha"


def gpu_devices(node: GpuNode) -> list[Any]:
    """The devices of a machine, to compile for. UserError without the compiler."""
    if not any(_found(f"jax_plugins.{name}") for name in PLUGINS):
        raise UserError(
            "a plan for a GPU needs XLA's compiler for CUDA, which is not installed: "
            "pip install 'jaxvl[plan-gpu]' (neither a GPU nor NVIDIA's libraries are needed). "
            "Without --gpu the memory of GPUs is counted"
        )
    from jax.experimental import topologies

    found = topologies.get_topology_desc(
        node.chip.name,
        platform="cuda",
        target_config=node.chip.target.read_text(),
        topology=f"1x1x{node.chips}",
    )
    return list(found.devices)


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it lies in
        return False


@contextmanager
def cudnn() -> Iterator[None]:
    """While programs are traced, jax sees the cuDNN of the GPUs that they are for.

    It would ask the library of this machine, which need not have one, for its version.
    """
    from jax._src.cudnn import fused_attention_stablehlo as attention

    own = attention.check_cudnn_version
    attention.check_cudnn_version = lambda: CUDNN
    try:
        yield
    finally:
        attention.check_cudnn_version = own


def without_cudnn(module: Module) -> list[str]:
    """Tower and decoder, where their attention over whole rows is no call of cuDNN's: there scores
    of all pairs of tokens exist. Of a program that attends over rows (decoding reads caches)."""
    calls = {
        part_of(one.op_name)
        for line, _ in module.running()
        for one in module.inside(line)
        if one.target.startswith(_ATTENTION)
    }
    return [
        f"attention of the {part} is no call of cuDNN's, which takes 16-bit numbers, heads of a "
        "multiple of 8 up to 128, and rows of 256 tokens or more"
        for part in ("tower", "decoder")
        if part not in calls
    ]
