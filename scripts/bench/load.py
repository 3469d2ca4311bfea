# SPDX-License-Identifier: Apache-2.0
"""How long a checkpoint takes to load, and how much of the host's memory.

    python scripts/bench/load.py --out load.json
    python scripts/bench/load.py --path QWEN --out load.json

Writes a random checkpoint of `--shape` in a temporary directory (2b: 4.4 GB in bfloat16) unless
`--path` is one, and loads it once in every form in a process of its own, on CPU devices: there the
parameters lie in the host's memory themselves. A first process that counts for nothing reads the
files, so that all find them in the page cache.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checkpoint import SHAPES, write_checkpoint
from pairs import report

# Of each line of the table: the dtype that is asked for, and the mesh (data, fsdp, tensor).
FORMS = [("bfloat16", (1, 1, 1)), ("float32", (1, 1, 1)), ("bfloat16", (1, 4, 2))]


def load_once(path: Path, dtype: str, mesh: tuple[int, ...]) -> dict:
    """Load in this process: GiB of parameters, of host memory that loading added at most, seconds.

    The peak is the resident set's, pages of mapped files included. The time of the processor is
    seconds too, but not those in which it did something else.
    """
    import jax
    from ours import peak_mib

    from jaxvl.data.prompts import Processor
    from jaxvl.distributed.mesh import make_mesh
    from jaxvl.vlm import load

    mesh = make_mesh(*mesh)
    Processor.from_pretrained(path)  # for what it imports
    before, wall, processor = peak_mib(), time.perf_counter(), time.process_time()
    vlm = load(path, dtype, mesh)
    return {
        "parameters, GiB": sum(x.nbytes for x in jax.tree.leaves(vlm.params)) / 2**30,
        "peak, GiB": (peak_mib() - before) / 2**10,
        "seconds": time.perf_counter() - wall,
        "processor, s": time.process_time() - processor,
    }


def in_a_process(path: Path, dtype: str, mesh: tuple[int, ...]) -> dict:
    """`load_once` in a fresh process with as many CPU devices as the mesh has."""
    devices = mesh[0] * mesh[1] * mesh[2]
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps([str(path), dtype, mesh])],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(path: Path) -> list[dict]:
    """The lines of the table."""
    files = [file.stat().st_size for file in path.glob("*.safetensors")]
    stored = {"files, GiB": sum(files) / 2**30, "largest file, GiB": max(files) / 2**30}
    print(f"loading {path} (load average {os.getloadavg()[0]:.1f})", flush=True)
    in_a_process(path, *FORMS[0])
    rows = []
    for dtype, mesh in FORMS:
        found = in_a_process(path, dtype, mesh)
        rows.append({"dtype": dtype, "mesh": mesh} | stored | found)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="2b")
    parser.add_argument("--path", type=Path, help="a checkpoint instead of a random one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        path, dtype, mesh = json.loads(args.child)
        print(json.dumps(load_once(Path(path), dtype, mesh)))
    elif args.path:
        if not list(args.path.glob("*.safetensors")):
            parser.error(f"--path {args.path}: no .safetensors there; give a checkpoint's folder")
        report(measure(args.path), args.out)
    else:
        with tempfile.TemporaryDirectory() as directory:
            print(f"writing a random checkpoint of shape {args.shape}", flush=True)
            write_checkpoint(directory, args.shape, "bfloat16")
            report(measure(Path(directory)), args.out)


if __name__ == "__main__":
    from jaxvl.cli.runtime import as_command

    as_command(main)
