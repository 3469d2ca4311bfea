# SPDX-License-Identifier: Apache-2.0
"""The update of a group as a tree against its plain form (a row a completion), in one program.

    python scripts/bench/update.py --out update.json
    python scripts/bench/update.py --gpu --out update.json

Same prompts, same completions, same parameters, tower and head included, interleaved; seconds, and
the memory that the compiled update needs beside its arguments. Random weights and tokens: neither
changes the work.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median

import jax
import numpy as np
from checkpoint import SHAPES, flat_config, texts
from ours import time_of
from pairs import positive, report

from jaxvl.cli.runtime import as_command
from jaxvl.config import GRPO, Optim
from jaxvl.data.geometry import patch_coords
from jaxvl.data.tokenizer import train_tokenizer
from jaxvl.distributed.mesh import make_mesh, put_rows
from jaxvl.models import qwen_vl
from jaxvl.models.arch import Arch
from jaxvl.models.inputs import Prompt
from jaxvl.models.io import hf
from jaxvl.rl import learner
from jaxvl.rl.batch import TrainBatch


def architecture(shape: str) -> Arch:
    """The model of a bench checkpoint of this shape."""
    fields = SHAPES[shape]
    tokenizer = train_tokenizer(texts(0), vocab_size=min(fields["vocab_size"], 4096))
    return hf.arch_from_config(flat_config(tokenizer, **fields))


def random_batch(arch: Arch, args: argparse.Namespace, group: int, per_row: int) -> TrainBatch:
    """`prompts` prompts of T tokens that begin with one image, and `group` completions of each.

    Host arrays with one micro-batch; the rows of both forms hold the same data.
    """
    rng = np.random.default_rng(0)
    T, C, P = args.tokens, args.new_tokens, args.prompts
    side = args.image_size // 28 * 2
    patches = side * side
    merged = patches // 4
    if merged > T:
        raise SystemExit(f"--image-size gives {merged} tokens of --tokens {T}; lower it")
    slots = np.where(np.arange(T) < merged, np.arange(T), -1)
    prompt = {
        "tokens": rng.integers(0, 256, (P, T), np.int32),
        "length": np.full(P, T, np.int32),
        "positions": np.tile(np.arange(T, dtype=np.int32), (P, 3, 1)),
        "next_position": np.full(P, T, np.int32),
        "slots": np.tile(slots.astype(np.int32), (P, 1)),
        "prompt_id": np.arange(P, dtype=np.int32),
        "completion": np.zeros(P, np.int32),
        "patches": rng.normal(size=(P, patches, arch.vision.patch_values)).astype(np.float32),
        "coords": np.tile(patch_coords((1, side, side), 2), (P, 1, 1)),
        "segments": np.ones((P, patches), np.int32),
        "windows": np.ones((P, patches), np.int32),
    }
    rows = P * group // per_row
    shape = (1, rows, per_row, C)
    repeated = {name: np.repeat(x, group // per_row, axis=0)[None] for name, x in prompt.items()}
    repeated["completion"] = (np.arange(rows, dtype=np.int32) * per_row % group)[None]
    return TrainBatch(
        prompt=Prompt.from_arrays(repeated),
        tokens=rng.integers(0, 256, (P, group, C), np.int32).reshape(shape),
        mask=np.ones(shape, bool),
        advantages=rng.normal(size=(P, group)).astype(np.float32).reshape(shape[:3]),
        old_logps=np.zeros(shape, np.float32),
        ref_logps=np.full(shape, -np.log(arch.text.vocab), np.float32),
    )


def make(arch: Arch, args: argparse.Namespace) -> tuple[Callable, learner.TrainState]:
    """The learner's update and a fresh state for it."""
    policy = learner.Policy(qwen_vl.graphdef(arch), args.dtype, args.remat, 1.0, chunk=256)
    tx = learner.optimizer(Optim(), steps=1000)
    params = jax.jit(qwen_vl.init_params, static_argnums=0)(arch, jax.random.key(0))
    objective = learner.grpo_objective(policy, GRPO(beta=0.04))
    update = learner.make_update(objective, tx, learner.schedule(Optim(), steps=1000))
    return update, learner.init_state(params, tx)


def programs(update, state, arch: Arch, args: argparse.Namespace, mesh) -> dict:
    """(G, g) -> the compiled update and its batch, or None where the device has no room for it."""
    found = {}
    for group, per_row in [(G, g) for G in args.groups for g in (G, 1)]:
        print(f"G={group}, {per_row} completions a row: compiling", flush=True)
        batch = put_rows(random_batch(arch, args, group, per_row), mesh, lead=1)
        try:
            found[group, per_row] = update.lower(state, batch).compile(), batch
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            found[group, per_row] = None
    return found


def measure(compiled: dict, state: learner.TrainState, rounds: int) -> dict:
    """Seconds of every program in every round but the first, which warms up.

    A round runs all of them, in an order that turns back and forth: a machine that drifts in speed
    favours none.
    """
    order = [name for name, program in compiled.items() if program]
    seconds = {name: [] for name in order}
    for _ in range(rounds + 1):
        for name in order:
            program, batch = compiled[name]
            took, (state, _) = time_of(program, state, batch)
            seconds[name].append(took)
        order.reverse()
    return {name: took[1:] for name, took in seconds.items()}


def table(args: argparse.Namespace, compiled: dict, seconds: dict) -> list[dict]:
    """A line a group: medians, and medians of what was divided within a round.

    How the cost of a tree grows is told in multiples of a group of 4 (or the first there is).
    """
    base = 4 if 4 in args.groups else args.groups[0]

    def over(above, below, what=median):
        if not (above in seconds and below in seconds):
            return "-"
        return what(a / b for a, b in zip(seconds[above], seconds[below], strict=True))

    def mib(name):
        program = compiled[name]
        return program[0].memory_analysis().temp_size_in_bytes / 2**20 if program else "-"

    def of(name):
        return median(seconds[name]) if name in seconds else "-"

    return [
        {
            "G": G,
            "T": args.tokens,
            "C": args.new_tokens,
            "tree, s": of((G, G)),
            "plain, s": of((G, 1)),
            "ratio": over((G, 1), (G, G)),
            "min": over((G, 1), (G, G), min),
            "max": over((G, 1), (G, G), max),
            "tree, MiB": mib((G, G)),
            "plain, MiB": mib((G, 1)),
            f"tree, times G={base}": over((G, G), (base, base)),
        }
        for G in args.groups
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, help="default 9m, on a GPU 2b")
    parser.add_argument("--groups", type=positive, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--prompts", type=positive, default=2)
    parser.add_argument("--tokens", type=positive, default=600, help="T of a prompt")
    parser.add_argument("--new-tokens", type=positive, help="C; default 200, on a GPU 256")
    parser.add_argument("--image-size", type=positive, default=448, help="pixels of a side")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--remat", choices=("block", "products"), default="block")
    parser.add_argument("--gpu", action="store_true", help="bfloat16 at the 2b shape")
    parser.add_argument("--out", type=Path, help="JSON file for the table")
    args = parser.parse_args()
    args.dtype = "bfloat16" if args.gpu else "float32"
    args.new_tokens = args.new_tokens or (256 if args.gpu else 200)
    shape = args.shape or ("2b" if args.gpu else "9m")
    arch = architecture(shape)
    mesh = make_mesh(devices=jax.devices()[:1])
    print(f"{shape}, {args.dtype}, remat {args.remat}, load {os.getloadavg()[0]}", flush=True)
    with jax.set_mesh(mesh):
        update, state = make(arch, args)
        compiled = programs(update, state, arch, args, mesh)
        seconds = measure(compiled, state, args.rounds)
    print(f"load after: {os.getloadavg()[0]}")
    report(table(args, compiled, seconds), args.out)


if __name__ == "__main__":
    as_command(main)
