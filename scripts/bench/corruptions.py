# SPDX-License-Identifier: Apache-2.0
"""What becomes of a run whose newest checkpoint was damaged: 40 random bits of its data files, and
20 faults of its folder, a kind each.

    python scripts/bench/corruptions.py [--flips 40] [--seed 0] [--dir DIR]

A small supervised run of four steps is made once; each fault is put into a copy of it, which then
goes on as a run does. Printed is a line a fault (where the run goes on from, and why), and how many
were found. A fault is silent where the newest checkpoint was taken with other arrays in it, and
harmless where all arrays are the ones that were saved.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxvl import config
from jaxvl.checkpoints.folders import COMMITTED
from jaxvl.checkpoints.store import Checkpoints
from jaxvl.cli.runtime import as_command, run_and_leave
from jaxvl.errors import UserError
from jaxvl.rl import learner
from jaxvl.train import resume, sft
from jaxvl.train.setup import init_run, partition_trainable

ROOT = Path(__file__).parents[2]
STEPS = (2, 4)  # that are saved
SMALL = "run.steps=4 run.save_every=2 run.export=false sft.rows=4 optim.warmup_steps=0".split()
SMALL += ["data.source.size=4", "data.shuffle=false"]


def data_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that hold arrays."""
    return sorted(file for file in folder.rglob("d/*") if file.is_file())


def largest(folder: Path) -> Path:
    return max(data_files(folder), key=lambda file: file.stat().st_size)


def flip(file: Path, bit: int) -> None:
    with open(file, "r+b") as f:
        f.seek(bit // 8)
        byte = f.read(1)[0]
        f.seek(bit // 8)
        f.write(bytes([byte ^ 1 << bit % 8]))


def flip_any(folder: Path, rng: np.random.Generator) -> str:
    """One bit, every bit of the data files as likely as any other."""
    files = data_files(folder)
    sizes = np.array([file.stat().st_size for file in files])
    at = int(rng.integers(8 * sizes.sum()))
    for file, size in zip(files, sizes, strict=True):
        if at < 8 * size:
            flip(file, at)
            return f"bit {at} of {file.relative_to(folder)}"
        at -= 8 * int(size)
    raise AssertionError


def overwrite(file: Path, start: int, data: bytes) -> None:
    with open(file, "r+b") as f:
        f.seek(start)
        f.write(data)


def copy_step(folder: Path) -> None:
    """The older checkpoint under the newer one's name."""
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name(str(STEPS[0])), folder)


def swap_state(folder: Path) -> None:
    """The older one's arrays beside the newer one's position in the data."""
    shutil.rmtree(folder / "state")
    shutil.copytree(folder.with_name(str(STEPS[0])) / "state", folder / "state")


def swap_data(folder: Path) -> None:
    shutil.rmtree(folder / "data")
    shutil.copytree(folder.with_name(str(STEPS[0])) / "data", folder / "data")


def truncate(file: Path, keep: float) -> None:
    os.truncate(file, int(file.stat().st_size * keep))


def middle(file: Path) -> int:
    return file.stat().st_size // 2


FAULTS: dict[str, Callable[[Path], object]] = {
    "4 KiB of zeros in the arrays": lambda f: overwrite(
        largest(f), middle(largest(f)), bytes(4096)
    ),
    "4 KiB of noise in the arrays": lambda f: overwrite(
        largest(f), middle(largest(f)), np.random.default_rng(0).bytes(4096)
    ),
    "the largest file without its last byte": lambda f: os.truncate(
        largest(f), largest(f).stat().st_size - 1
    ),
    "the largest file cut in half": lambda f: truncate(largest(f), 0.5),
    "the largest file empty": lambda f: truncate(largest(f), 0),
    "the largest file missing": lambda f: largest(f).unlink(),
    "the largest file longer": lambda f: largest(f).write_bytes(
        largest(f).read_bytes() + bytes(512)
    ),
    "the smallest data file missing": lambda f: min(
        data_files(f), key=lambda file: file.stat().st_size
    ).unlink(),
    "two data files for each other": lambda f: (
        data_files(f)[0].rename(f / "x"),
        data_files(f)[0].rename(data_files(f)[0].with_name("y")),
    ),
    "manifest.ocdbt missing": lambda f: (f / "state/manifest.ocdbt").unlink(),
    "manifest.ocdbt zeros": lambda f: overwrite(f / "state/manifest.ocdbt", 0, bytes(64)),
    "_METADATA missing": lambda f: (f / "state/_METADATA").unlink(),
    "_METADATA cut in half": lambda f: truncate(f / "state/_METADATA", 0.5),
    "state missing": lambda f: shutil.rmtree(f / "state"),
    "data missing": lambda f: shutil.rmtree(f / "data"),
    "another position in the data": lambda f: (f / "data/metadata").write_text('{"position": 1}'),
    "the digests missing": lambda f: shutil.rmtree(f / "manifest"),
    "a bit of the digests": lambda f: flip(f / "manifest/metadata", 999),
    "the older checkpoint under the newer's name": copy_step,
    "the older one's arrays": swap_state,
    "the older one's position": swap_data,
    "the word that it is whole missing": lambda f: (f / COMMITTED).unlink(),
    "an empty folder": lambda f: (shutil.rmtree(f), f.mkdir()),
    "orbax's notes broken": lambda f: (f / "_CHECKPOINT_METADATA").write_text("{"),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of which the newest checkpoint is damaged, and what it was before."""

    cfg: config.SFTConfig
    like: learner.TrainState
    states: dict[int, learner.TrainState]

    @classmethod
    def make(cls, folder: Path) -> Run:
        cfg = config.load(
            ROOT / "configs/quickstart_sft.py", [*SMALL, f"run.dir={folder}"], config.SFTConfig
        )
        sft.train(cfg)
        (folder / resume.FINISHED).unlink()
        vlm, checkpoints = init_run(cfg)
        _, fresh, _, _ = partition_trainable(vlm, cfg)
        with jax.set_mesh(vlm.mesh):
            like = learner.init_state(fresh, learner.optimizer(cfg.optim, cfg.run.steps))
            states = {step: checkpoints.restore(step, like)[0] for step in STEPS}
        checkpoints.close()
        return cls(cfg, like, states)

    def after(self, folder: Path, damage: Callable[[Path], object]) -> tuple[str, str]:
        """What became of a copy of the run in `folder`, and what was said."""
        shutil.copytree(self.cfg.run.dir, folder)
        newest = folder / "checkpoints" / str(STEPS[-1])
        damage(newest)
        empty = not any(newest.iterdir())  # and so nothing that could be lost
        cfg = dataclasses.replace(self.cfg, run=dataclasses.replace(self.cfg.run, dir=str(folder)))
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                resume.check(cfg)
                checkpoints = Checkpoints(folder, keep=2)
                found = resume.go_on(cfg, checkpoints, self.like)
                checkpoints.close()
        except UserError as error:
            return "refused", str(error)
        if found is None:
            return "began again", said.getvalue()
        same = jax.tree.map(np.array_equal, found.state, self.states[found.step])
        if not jax.tree.all(same):
            return "silent", said.getvalue()
        kept = empty or (folder / "set_aside").is_dir()
        if found.step == STEPS[-1]:
            return "harmless", said.getvalue()
        return ("went on from the older" if kept else "lost the newer"), said.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flips", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, help="where to work (default: a temporary directory)")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    counts: dict[str, Counter[str]] = {"bits": Counter(), "folder": Counter()}
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        run = Run.make(Path(name) / "whole")
        cases = [("bits", f"flip {i}", lambda f: flip_any(f, rng)) for i in range(args.flips)]
        cases += [("folder", what, damage) for what, damage in FAULTS.items()]
        for kind, what, damage in cases:
            became, said = run.after(Path(name) / "copy", damage)
            shutil.rmtree(Path(name) / "copy")
            counts[kind][became] += 1
            why = " | ".join(line for line in said.splitlines() if "not used" in line)
            print(f"{kind}: {what}: {became}  {why.replace(name, '')}", flush=True)
    print(json.dumps(counts))


if __name__ == "__main__":
    # A restore that failed leaves threads of libraries behind.
    run_and_leave(lambda: as_command(main))
