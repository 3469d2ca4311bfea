# SPDX-License-Identifier: Apache-2.0
"""XLA's flags: the one place where a run sets some, each with its reason.

No device has been measured with and without them. What the environment says already stays as it is:
`XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=false` takes one back. For TPUs there are none:
what puts gathers beside products on a v5e is refused elsewhere by newer compilers, as unsound.
"""

from __future__ import annotations

import importlib.util
from collections.abc import MutableMapping

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
_CUDA = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def set_flags(env: MutableMapping[str, str]) -> None:
    """Adds `GPU` to XLA_FLAGS where jax may take NVIDIA GPUs; too late, and so nothing, where it
    has touched a device."""
    platforms = env.get("JAX_PLATFORMS", "")
    wanted = not platforms or {"cuda", "gpu"} & set(platforms.split(","))
    there = any(importlib.util.find_spec(name) for name in _CUDA)
    if not (wanted and there) or xla_bridge.backends_are_initialized():
        return
    said = env.get("XLA_FLAGS", "").split()
    named = {flag.lstrip("-").partition("=")[0] for flag in said}
    added = [f"--{name}={value}" for name, value in GPU.items() if name not in named]
    env["XLA_FLAGS"] = " ".join([*said, *added])
