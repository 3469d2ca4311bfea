# SPDX-License-Identifier: Apache-2.0
"""What a command does before jax touches a device."""

from __future__ import annotations

import os
from pathlib import Path

from jaxvl.errors import UserError


def parse_mesh(text: str) -> tuple[int, int, int]:
    """`--mesh DATA,FSDP,TENSOR`."""
    try:
        data, fsdp, tensor = (int(size) for size in text.split(","))
    except ValueError:
        raise UserError(f"--mesh {text!r}: expected DATA,FSDP,TENSOR, such as 4,1,2") from None
    return data, fsdp, tensor


def prepare_jax() -> None:
    """Before jax touches a device: programs compiled once are kept, unless
    JAX_COMPILATION_CACHE_DIR already says where, and of a GPU more is taken than jax's own 75%."""
    import jax

    from jaxvl.plan.chips import GPU_SHARE

    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # its old name; both are an error
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", str(GPU_SHARE))
    if not jax.config.values["jax_compilation_cache_dir"]:
        cache = Path.home() / ".cache" / "jaxvl" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))
