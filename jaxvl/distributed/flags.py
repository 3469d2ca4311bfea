# SPDX-License-Identifier: Apache-2.0
"""XLA's flags: the one place where a run sets some, each with its reason.

No device has been measured with and without them. What the environment says already stays as it is:
`XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=false` takes one back, LIBTPU_INIT_ARGS one of
the TPU's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, MutableMapping

from jax._src import xla_bridge  # jax has no public door to whether a device was touched

_MIB = 2**20
GPU = {
    # Weights are gathered, and gradients scattered, while products run that do not need them.
    "xla_gpu_enable_latency_hiding_scheduler": "true",
    # The weights of a layer are gathered in one exchange, and its gradients leave in one: a layer
    # of 3B is 150 MB, and exchanges of a weight each are bound by their number.
    "xla_gpu_all_gather_combine_threshold_bytes": str(256 * _MIB),
    "xla_gpu_reduce_scatter_combine_threshold_bytes": str(256 * _MIB),
}
TPU = {
    # Weights are gathered beside products that do not need them: so by itself on v5e, but not on
    # v5p and v6e, where each gather stands between two products.
    "xla_enable_async_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
}
_CUDA = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def set_flags(env: MutableMapping[str, str]) -> None:
    """Adds `GPU` to XLA_FLAGS where jax may take NVIDIA GPUs, `TPU` to LIBTPU_INIT_ARGS where it
    may take TPUs; too late, and so nothing, where it has touched a device."""
    if xla_bridge.backends_are_initialized():
        return
    if _may_take(env, {"cuda", "gpu"}, _CUDA):
        _add(env, "XLA_FLAGS", GPU)
    if _may_take(env, {"tpu"}, ("libtpu",)):
        set_tpu_flags(env)


def set_tpu_flags(env: MutableMapping[str, str]) -> None:
    """Adds `TPU` to what libtpu reads when it is loaded, which a plan does too."""
    _add(env, "LIBTPU_INIT_ARGS", TPU)


def _may_take(env: Mapping[str, str], platforms: set[str], packages: tuple[str, ...]) -> bool:
    """Whether jax is free to take devices of such platforms, and one of the packages is there."""
    said = env.get("JAX_PLATFORMS", "")
    wanted = not said or platforms & set(said.split(","))
    return bool(wanted) and any(importlib.util.find_spec(name) for name in packages)


def _add(env: MutableMapping[str, str], name: str, flags: Mapping[str, str]) -> None:
    said = env.get(name, "").split()
    named = {flag.lstrip("-").partition("=")[0] for flag in said}
    added = [f"--{flag}={value}" for flag, value in flags.items() if flag not in named]
    env[name] = " ".join([*said, *added])
