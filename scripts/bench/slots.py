# SPDX-License-Identifier: Apache-2.0
"""Completions that take turns in slots against all of them at a time, a static batch.

    python scripts/bench/slots.py --out slots.json
    python scripts/bench/slots.py --gpu --out slots.json

Two kinds of lengths, which chance decides: exponential with a mean of 0.3 of the cap,
and all equal to the cap. "Kept" is the share of slot-steps (slots of a compiled loop times its
steps) that give a token of a completion. Equal lengths are also sampled in static batches of as
many completions as there are slots, one batch after the other. Runs are interleaved.
"""

import argparse
import os
from collections.abc import Callable
from statistics import median

import jax
import jax.numpy as jnp
from decoding import Work, arguments, parse
from pairs import positive, report

from jaxvl.cli.runtime import as_command
from jaxvl.distributed.mesh import make_mesh
from jaxvl.rl import sampler, sampling, slots

STOP, OTHER = 1, 2  # token ids
MEAN = 0.3  # of the cap


def end_by_chance(cap: int) -> None:
    """From now on samplers that may end a completion do so after a number of tokens that chance
    decides, exponential but for `cap`: every token is the last with the same probability."""

    def sample_token(logits, seed, how):
        token, logp = sampling.sample_token(logits, seed, how)
        if not how.stop_ids:
            return token, logp
        going_on = jnp.where(token == STOP, OTHER, token)
        return jnp.where(seed < 2**32 / (MEAN * cap), STOP, going_on), logp

    sampler.sample_token = slots.sample_token = sample_token


def forms(args: argparse.Namespace, mesh) -> dict[tuple[str, str], Callable[[int], dict]]:
    """(lengths, form) -> a rollout of all completions with this seed."""
    prompts = args.completions // args.group
    work = Work(args, prompts, args.new_tokens, mesh)
    found = {}
    for lengths, stop_ids in (("exponential", (STOP,)), ("equal", ())):
        for name, at_once in ((f"{args.slots} slots", args.slots), ("all at a time", 0)):
            made = work.sampler(at_once, stop_ids)
            found[lengths, name] = lambda seed, made=made: work.run(made, seed)
    part = Work(args, args.slots // args.group, args.new_tokens, mesh)
    static = part.sampler()

    def in_turn(seed: int) -> dict:
        runs = [part.run(static, seed) for _ in range(args.completions // args.slots)]
        return {name: sum(run[name] for run in runs) for name in runs[0]}

    found["equal", f"batches of {args.slots}"] = in_turn
    return found


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--completions", type=positive, default=512)
    parser.add_argument("--slots", type=positive, default=128)
    parser.add_argument("--new-tokens", type=positive, help="the cap; default 128, on a GPU 700")
    parser.add_argument("--runs", type=positive, default=3)
    args = parse(parser)
    args.new_tokens = args.new_tokens or (700 if args.gpu else 128)
    end_by_chance(args.new_tokens)
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        found = forms(args, mesh)
        for name, run in found.items():
            print("compiling and warming up:", *name, flush=True)
            run(0)
        runs = {name: [] for name in found}
        for seed in range(args.runs):
            for name, run in found.items():
                runs[name].append(run(seed))
    rows = []
    for (lengths, form), results in runs.items():
        decoded = sum(run["tokens"] - args.completions for run in results)
        rows.append(
            {
                "lengths": lengths,
                "form": form,
                "kept": decoded / sum(run["slot_steps"] for run in results),
                "decode steps": median(run["steps"] for run in results),
                "tokens": median(run["tokens"] for run in results),
                "prefill, s": median(run["prefill"] for run in results),
                "decode, s": median(run["decode"] for run in results),
                "tok/s decoding": median(run["tokens"] / run["decode"] for run in results),
                "load": os.getloadavg()[0],
            }
        )
    report(rows, args.out)


if __name__ == "__main__":
    as_command(main)
