# SPDX-License-Identifier: Apache-2.0
"""Programs compiled ahead of time for TPU chips that are not there, by the TPU's own compiler."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from jaxvl.errors import UserError
from jaxvl.plan.chips import Topology
from jaxvl.plan.program import Program

# What libtpu would otherwise ask the machine it runs on, which on a TPU host it would also claim.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5e-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # Its warnings to stderr, where they are read, and not to a file alone.
    "TPU_STDERR_LOG_LEVEL": "1",
    "TPU_MIN_LOG_LEVEL": "0",
}
# Two cores of a v4 chip work as one jax device, as they do where programs run.
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}
REMAT = "nvoluntary full rematerialization"


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip while a program runs."""

    arguments: float
    outputs: float  # those that take no argument's place
    temporaries: float
    code: float

    @property
    def total(self) -> float:
        """Bytes of one device."""
        return self.arguments + self.outputs + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler made of a program, or in which words it refused."""

    seconds: float
    memory: Memory | None  # None: it refused
    text: str = ""  # HLO after all optimizations; "" where it refused
    refused: str = ""
    wanted: float = 0.0  # bytes of HBM that a refused program wants; 0: the compiler does not say
    too_large: tuple[tuple[float, str, str], ...] = ()  # of it: bytes, shape, where, if it says
    warnings: tuple[str, ...] = ()  # that an array is made whole on every chip by accident


def tpu_devices(topology: Topology) -> list[Any]:
    """The devices of slices, to compile for. Nothing is started.

    UserError without libtpu, or where there is no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "a plan for a TPU needs the TPU compiler, which is not installed: "
            "pip install 'jaxvl[tpu]' (no TPU is needed)"
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": topology.slices}
    options |= _OPTIONS.get(topology.chip.name, {})
    if any(size % 2 for size in topology.shape[:2]):  # less than a host's grid of 2 x 2
        options["chips_per_host_bounds"] = (*topology.shape, 1)[:3]
    try:
        found = topologies.get_topology_desc(topology.slice_name, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"--topology {topology.slice_name}: libtpu knows no such slice ({error})"
        ) from error
    return list(found.devices)


def compile_program(program: Program) -> Compiled:
    """Lowered and compiled for the devices of the mesh in force."""
    lowered = program.lower()
    start = time.perf_counter()
    with _stderr() as lines:
        try:
            done = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            wanted, largest = read_exhausted(str(error))
            words = str(error).strip().splitlines()[0]
            return Compiled(time.perf_counter() - start, None, "", words, wanted, largest)
    seconds = time.perf_counter() - start
    stats = done.memory_analysis()
    assert stats is not None, "the compiler does not say what memory a program takes"
    memory = Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )
    warnings = tuple(line for line in lines if REMAT in line)
    return Compiled(seconds, memory, done.as_text() or "", warnings=warnings)


def read_exhausted(message: str) -> tuple[float, tuple[tuple[float, str, str], ...]]:
    """What the TPU compiler says when a program does not fit: bytes of HBM that it wants, arguments
    included (0 where another memory is short), and its largest allocations, if it lists them."""
    used = re.search(r"Used ([\d.]+[KMG]?) of \S+ hbm", message)
    # What cannot even be placed is told in other words.
    used = used or re.search(r"required for HLO temporaries \(([\d.]+[KMG]?)\) .*HBM", message)
    largest = []
    for block in re.split(r"\n\s*\d+\. Size: ", message)[1:]:
        where = re.search(r'op_name="([^"]*)"', block)
        shape = re.search(r"Shape: (\S+)", block)
        size = _size(block.split()[0])
        largest.append((size, shape[1] if shape else "", where[1] if where else ""))
    return _size(used[1]) if used else 0.0, tuple(largest)


def _size(text: str) -> float:
    """Bytes of "1.5G"."""
    scale = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30}.get(text[-1], 1.0)
    return float(text.rstrip("KMG")) * scale


@contextmanager
def _stderr() -> Iterator[list[str]]:
    """What is written to the process's stderr meanwhile, by libraries too, as lines.

    It is passed on, unless the block ends without an error: compilers are talkative.
    """
    lines: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        failed = True
        try:
            yield lines
            failed = False
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()
            if failed:
                sys.stderr.writelines(f"{line}\n" for line in lines)


def coordinates(devices: Sequence[Any]) -> list[tuple[int, ...]]:
    """The places in the slice of a mesh's devices."""
    return [tuple(device.coords) for device in devices]
