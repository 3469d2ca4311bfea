# SPDX-License-Identifier: Apache-2.0
"""jaxvl's sampler on random weights and prompts, its prefill and its decoding timed apart."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
from checkpoint import SHAPES
from pairs import positive
from update import architecture, random_batch

from jaxvl.distributed.mesh import put_rows
from jaxvl.models import qwen_vl
from jaxvl.rl.sampler import Sampler
from jaxvl.rl.sampling import SamplingParams


def arguments(description: str) -> argparse.ArgumentParser:
    """The command line that benches of decoding share; what differs on a GPU defaults to None."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shape", choices=SHAPES, help="default 9m, on a GPU 2b")
    parser.add_argument("--group", type=positive, default=8, help="completions a prompt")
    parser.add_argument("--tokens", type=positive, help="of a prompt; default 64, on a GPU 576")
    parser.add_argument("--image-size", type=positive, help="pixels; default 112, on a GPU 616")
    parser.add_argument("--gpu", action="store_true", help="bfloat16 at the 2b shape")
    parser.add_argument("--out", type=Path, help="JSON file for the table")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    args = parser.parse_args()
    args.dtype = "bfloat16" if args.gpu else "float32"
    args.shape = args.shape or ("2b" if args.gpu else "9m")
    args.tokens = args.tokens or (576 if args.gpu else 64)
    args.image_size = args.image_size or (616 if args.gpu else 112)  # 616: 484 tokens of an image
    return args


class Work:
    """`prompts` prompts with `group` completions each, and the weights, on the mesh in force."""

    def __init__(self, args: argparse.Namespace, prompts: int, new_tokens: int, mesh):
        arch = architecture(args.shape)
        shape = argparse.Namespace(
            prompts=prompts,
            tokens=args.tokens,
            new_tokens=1,
            image_size=args.image_size,
        )
        rows = jax.tree.map(lambda x: x[0], random_batch(arch, shape, args.group, args.group))
        self.arch, self.group, self.new_tokens = arch, args.group, new_tokens
        self.dtype = args.dtype
        self.prompt = put_rows(rows.prompt, mesh)
        self.graphdef = qwen_vl.graphdef(arch)

        @jax.jit
        def init(key):
            return qwen_vl.to_compute_dtype(qwen_vl.init_params(arch, key), args.dtype, arch.text)

        self.params = init(jax.random.key(0))

    def sampler(self, slots: int = 0, stop_ids: tuple[int, ...] = ()) -> Sampler:
        how = SamplingParams(self.group, self.new_tokens, stop_ids, pad_id=0, slots=slots)
        return Sampler(self.graphdef, how, self.dtype)

    def run(self, sampler: Sampler, seed: int = 0) -> dict:
        """One rollout: seconds of prefill and of decoding, tokens, decode steps and slot-steps."""
        start = time.perf_counter()
        prefilled = steps = slot_steps = 0
        for state in sampler.states(self.params, self.prompt, jax.random.key(seed)):
            now = int(state.step)  # waits for the device
            prefilled = prefilled or time.perf_counter()
            slot_steps += (now - steps) * state.request.size
            steps = now
        rollout = jax.block_until_ready(sampler.read(self.prompt, state))
        return {
            "prefill": prefilled - start,
            "decode": time.perf_counter() - prefilled,
            "tokens": int(rollout.mask.sum()),
            "steps": steps,
            "slot_steps": slot_steps,
        }
