# SPDX-License-Identifier: Apache-2.0
"""What the digests of a checkpoint cost, as shares of saving and of restoring a state.

    python scripts/bench/digests.py [--gib 2] [--dir DIR] [--rounds 3]

The state is float32 parameters and two moments of them, on the first device. Printed are seconds:
the digests alone, the part of a save that the loop waits for, the whole save, and the restore, each
the median of the rounds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from pairs import positive

from jaxvl.checkpoints.digests import digests
from jaxvl.checkpoints.store import Checkpoints
from jaxvl.cli.runtime import as_command
from jaxvl.rl.learner import TrainState

WIDTH = 4096


def make_state(gib: float) -> TrainState:
    layers = max(1, round(gib * 2**30 / 3 / (4 * WIDTH * WIDTH)))
    keys = jax.random.split(jax.random.key(0), layers)
    params = {f"w{i}": jax.random.normal(key, (WIDTH, WIDTH)) for i, key in enumerate(keys)}
    moments = [jax.tree.map(lambda x, by=by: x * by, params) for by in (0.5, 0.25)]
    return TrainState(jnp.int32(1), params, tuple(moments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--dir", type=Path, help="where to save (default: a temporary directory)")
    args = parser.parse_args()
    state = jax.block_until_ready(make_state(args.gib))
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    jax.block_until_ready(digests(state))  # compiled
    found: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        folder = Path(tempfile.mkdtemp(dir=args.dir))
        checkpoints = Checkpoints(folder, keep=1)
        start = time.perf_counter()
        jax.block_until_ready(digests(state))
        seconds = {"digests": time.perf_counter() - start}
        start = time.perf_counter()
        checkpoints.save(1, state, {})
        seconds["save, waited for"] = time.perf_counter() - start
        checkpoints.manager.wait_until_finished()
        seconds["save"] = time.perf_counter() - start
        start = time.perf_counter()
        jax.block_until_ready(checkpoints.restore(1, like)[0])
        seconds["restore"] = time.perf_counter() - start
        checkpoints.close()
        shutil.rmtree(folder)
        for name, value in seconds.items():
            found.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in found.items()}
    print(f"{size / 2**30:.2f} GiB on {jax.devices()[0].device_kind}")
    for name, value in medians.items():
        share = medians["digests"] / value
        print(f"{name}: {value:.2f} s, of which digests {100 * share:.1f}%")


if __name__ == "__main__":
    as_command(main)
