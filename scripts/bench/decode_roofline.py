# SPDX-License-Identifier: Apache-2.0
"""How near decoding is to the memory's speed: the bytes a step must move, by its seconds.

    python scripts/bench/decode_roofline.py --out roofline.json
    python scripts/bench/decode_roofline.py --gpu --out roofline.json

Every completion runs to its full length, all at a time. The bytes are those that no implementation
avoids: see `step_bytes`. The memory's speed is measured in the same run, by a large array that is
read and written; the datasheet's stands beside it where it is known.
"""

import argparse
import os
from statistics import median

import jax
import jax.numpy as jnp
from decoding import Work, arguments, parse
from ours import time_of
from pairs import positive, report

from jaxvl.cli.runtime import as_command
from jaxvl.distributed.mesh import make_mesh
from jaxvl.models.arch import TextArch

DATASHEET = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.04e12}  # bytes/s, SXM; A100 of 80 GB


def step_bytes(
    arch: TextArch, itemsize: int, *, prompts: int, tokens: int, completions: int, new_tokens: int
) -> float:
    """Bytes that one decode step must read, in the mean over a rollout.

    The decoder's weights and its head's table once; the keys and values of every prompt once; and
    of every completion those of its own tokens so far, new_tokens / 2 in the mean:

        itemsize * (L * (2 D N H + 2 D K H + 3 D F) + V * D
                    + 2 L K H * (prompts * tokens + completions * new_tokens / 2))

    Logits, activations and what is written are left out: the figure is a little low.
    """
    width = arch.heads * arch.head_dim
    kv_width = arch.kv_heads * arch.head_dim
    layer = 2 * arch.dim * (width + kv_width) + 3 * arch.dim * arch.hidden
    weights = arch.layers * layer + arch.vocab * arch.dim
    seen = prompts * tokens + completions * new_tokens / 2
    return itemsize * (weights + 2 * arch.layers * kv_width * seen)


def copy_speed(gpu: bool) -> float:
    """Bytes/s of reading and writing a large array, the best of ten."""
    x = jnp.zeros((2**30 if gpu else 2**26,), jnp.float32)
    add = jax.jit(lambda x: x + 1)
    time_of(add, x)
    return 2 * x.nbytes / min(time_of(add, x)[0] for _ in range(10))


def measure(args: argparse.Namespace, completions: int, new_tokens: int, mesh) -> dict:
    prompts = max(completions // args.group, 1)
    work = Work(args, prompts, new_tokens, mesh)
    sampler = work.sampler()
    first = work.run(sampler)
    runs = [work.run(sampler) for _ in range(args.runs)]
    step = median(run["decode"] / run["steps"] for run in runs)
    moved = step_bytes(
        work.arch.text,
        jnp.dtype(args.dtype).itemsize,
        prompts=prompts,
        tokens=args.tokens,
        completions=prompts * args.group,
        new_tokens=new_tokens,
    )
    speed = copy_speed(args.gpu)
    kind = jax.devices()[0].device_kind
    known = next((value for name, value in DATASHEET.items() if name in kind), None)
    return {
        "shape": args.shape,
        "slots": prompts * args.group,
        "T": args.tokens,
        "C": new_tokens,
        "first rollout, s": first["prefill"] + first["decode"],
        "prefill, s": median(run["prefill"] for run in runs),
        "step, ms": step * 1e3,
        "tok/s": median(run["tokens"] / (run["prefill"] + run["decode"]) for run in runs),
        "MiB a step": moved / 2**20,
        "GB/s": moved / step / 1e9,
        "copy, GB/s": speed / 1e9,
        "share of copy": moved / step / speed,
        "share of datasheet": moved / step / known if known else "-",
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--slots", type=positive, nargs="+", help="default 32, on a GPU 64 and 512")
    parser.add_argument("--new-tokens", type=positive, nargs="+", help="default 64; GPU 256, 700")
    parser.add_argument("--runs", type=positive, default=5)
    args = parse(parser)
    for slots in args.slots or []:
        if slots % args.group:
            parser.error(f"--slots {slots} is no multiple of --group {args.group}")
    mesh = make_mesh(devices=jax.devices()[:1])
    rows = []
    for completions in args.slots or ([64, 512] if args.gpu else [32]):
        for new_tokens in args.new_tokens or ([256, 700] if args.gpu else [64]):
            print(f"{args.shape}: {completions} slots, {new_tokens} tokens", flush=True)
            with jax.set_mesh(mesh):
                rows.append(measure(args, completions, new_tokens, mesh))
    report(rows, args.out)


if __name__ == "__main__":
    as_command(main)
