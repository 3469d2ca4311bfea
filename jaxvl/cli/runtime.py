# SPDX-License-Identifier: Apache-2.0
"""What a command does before jax touches a device, and how its process ends."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import glob
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxvl.errors import TrainingFailed, UserError

M_ARENA_MAX = -8  # of glibc's malloc.h


def parse_mesh(text: str) -> tuple[int, int, int]:
    """`--mesh DATA,FSDP,TENSOR`."""
    try:
        data, fsdp, tensor = (int(size) for size in text.split(","))
    except ValueError:
        raise UserError(f"--mesh {text!r}: expected DATA,FSDP,TENSOR, such as 4,1,2") from None
    return data, fsdp, tensor


def prepare_jax() -> None:
    """Before jax touches a device: programs compiled once are kept, unless
    JAX_COMPILATION_CACHE_DIR already says where, of a GPU more is taken than jax's own 75%, and
    where none is, the compiler that plans for one is not asked for NVIDIA's libraries."""
    if not glob.glob("/dev/nvidia[0-9]*"):  # jax prints a traceback over each command otherwise
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    import jax

    from jaxvl.plan.chips import GPU_SHARE

    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # its old name; both are an error
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", str(GPU_SHARE))
    if not jax.config.values["jax_compilation_cache_dir"]:
        cache = Path.home() / ".cache" / "jaxvl" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def one_arena() -> None:
    """All threads allocate from one arena of malloc, where it is glibc's and nothing in the
    environment says otherwise. Call it before any thread has started.

    By default there are eight for every processor. What one thread allocates and another frees
    leaves holes in each of them, and a long run's resident memory grows by holes.
    """
    if "MALLOC_ARENA_MAX" in os.environ or "arena_max" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library's
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def run_and_leave(command: Callable[[], object]) -> None:
    """`command()`, after which the process ends with the exit code that it asked for.

    Python waits for threads and calls what was registered with atexit, as ever. Then the process
    leaves, without the end of the interpreter: a thread of a library (tensorstore's, jax's) that is
    in C++ meanwhile and comes back to Python ends the process by SIGABRT, with all done. Call it
    first: what was registered with atexit before it is not called.
    """
    code = 1  # of an error that nobody caught, which Python prints
    told = sys.unraisablehook

    def tell(unraised: Any) -> None:
        """Of a write that failed tensorstore's threads tell the loop of orbax, which has left: what
        failed is told by the save itself, and this would stand around it dozens of times."""
        error = unraised.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            told(unraised)

    sys.unraisablehook = tell

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # a pipe that is gone, or closed
                stream.flush()
        os._exit(code)

    atexit.register(leave)
    try:
        command()
        code = 0
    except SystemExit as over:
        code = over.code if isinstance(over.code, int) else int(over.code is not None)
        raise


def as_command(act: Callable[[], object]) -> None:
    """`act()`, of a command or a script: a user's mistake is one message and exit code 2, a run
    that failed and a file that cannot be used one and 1."""
    try:
        act()
    except (UserError, TrainingFailed) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        if isinstance(error, UserError):
            sys.exit(2)
        os._exit(1)  # after a save that failed, orbax's threads may wait for what will not come
    except OSError as error:  # of the machine: a file that may not be read, a volume that is gone
        print(f"error: {_said(error)}", file=sys.stderr, flush=True)
        sys.exit(1)


def _said(error: OSError) -> str:
    """The file, what is wrong with it, and what to do."""
    if error.filename is None:
        return f"{type(error).__name__}: {error}"
    return f"{error.filename}: {error.strerror}; see whether it is there, and whose it is"
