# SPDX-License-Identifier: Apache-2.0
"""An evaluation's prompts on a TPU chip, alone in rows or several in a row, by its compiler.

    python scripts/bench/shared_prompts.py --topology v6e:1x1 --out shared.json

Nothing runs: prefill of all prompts and the decode loop of `jaxvl eval run` are compiled for a chip
that is not there, and the cycles that the compiler writes beside operations are added up, kernels
of attention at the chip's peak (`jaxvl plan` does the same for training).
"""

import argparse
import dataclasses
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from pairs import positive, report

from jaxvl.cli.runtime import as_command
from jaxvl.config import Data
from jaxvl.data.image_settings import BYTES
from jaxvl.distributed.mesh import ROWS, make_mesh, param_shardings
from jaxvl.errors import UserError
from jaxvl.models import public, qwen_vl
from jaxvl.models.arch import Arch
from jaxvl.models.inputs import Prompt, Suffixes
from jaxvl.models.io import hf
from jaxvl.observe import flops
from jaxvl.plan import hlo
from jaxvl.plan.chips import Topology
from jaxvl.plan.compile import compile_program, tpu_devices
from jaxvl.plan.forecast import forecast
from jaxvl.plan.program import Program, ProgramWork
from jaxvl.plan.sampling import PAD, STOP
from jaxvl.rl import shapes
from jaxvl.rl.sampler import Sampler
from jaxvl.rl.sampling import SamplingParams


def prompts(args: argparse.Namespace, arch: Arch, mesh, questions: int) -> Prompt:
    """The shapes of all prompts with so many questions in a row."""
    rows = args.prompts // questions
    tokens = args.shared + (args.own if questions == 1 else 0)
    sizes = Data("", None, prompt_buckets=(tokens,), patch_buckets=(args.patches,))
    (prompt,) = shapes.prompts(sizes, rows, arch.vision.patch_bytes, mesh, BYTES)
    if questions == 1:
        return prompt

    def shape(*more: int) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, P(ROWS, None, *(None,) * len(more)))
        return jax.ShapeDtypeStruct((rows, questions, *more), jnp.int32, sharding=sharding)

    texts = {name: shape(args.own) for name in ("tokens", "positions")}
    numbers = ("length", "next_position", "prompt_id", "completion")
    suffixes = Suffixes(**texts, **{name: shape() for name in numbers})
    return dataclasses.replace(prompt, suffixes=suffixes)


def attention(args: argparse.Namespace, arch: Arch, questions: int) -> float:
    """FLOPs of attention in prefill, which kernels compute and HLO does not show."""
    rows = args.prompts // questions
    work = flops.Work.full(rows, args.shared, args.patches, 0, 0)
    own = np.full((rows, questions), args.own)
    behind = flops.decode(arch.text, dataclasses.replace(work, completions=own))
    parts = flops.tower(arch.vision, work), flops.prefill(arch.text, work), behind
    return sum(part.attention for part in parts)


def measure(args: argparse.Namespace, topology: Topology, questions: int) -> dict:
    """A row of the table."""
    arch = hf.arch_from_config(public.config(args.model))
    if args.layers:
        arch = dataclasses.replace(arch, text=dataclasses.replace(arch.text, layers=args.layers))
    mesh, chip = make_mesh(devices=tpu_devices(topology)), topology.chip
    how = SamplingParams(questions, args.new_tokens, STOP, PAD, arch.never_sampled, 0.0)
    sampler = Sampler(qwen_vl.graphdef(arch), how, "bfloat16")
    with jax.set_mesh(mesh):
        wide = qwen_vl.abstract_params(arch)
        params = jax.tree.map(
            lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
            jax.eval_shape(lambda p: qwen_vl.to_compute_dtype(p, "bfloat16", arch.text), wide),
            param_shardings(wide, mesh),
        )
        asked, key = prompts(args, arch, mesh, questions), jax.eval_shape(lambda: jax.random.key(0))
        inputs, state, _ = jax.eval_shape(sampler.start, params, asked, key)
        number, none = jax.ShapeDtypeStruct((), jnp.int32), ProgramWork(0.0, 0.0)
        found = {"questions a row": questions}
        for name, function, args_of, kernels in (
            ("prefill", sampler.start, (params, asked, key), attention(args, arch, questions)),
            ("a token", sampler.decode_steps, (inputs, state, number, number), 0.0),
        ):
            call = Program(name, function, dict(enumerate(args_of)), {}, {}, none)
            done = compile_program(call)
            seconds = forecast(hlo.Module(done.text, 1), chip.clock, kernels / chip.flops)
            found[f"{name} ms"] = 1e3 * seconds.seconds
            parts = seconds.parts | {"kernels": seconds.kernels}
            found |= {f"{name}: {part}": 1e3 * value for part, value in parts.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v6e:1x1")
    parser.add_argument("--model", default="Qwen/Qwen2-VL-2B")
    parser.add_argument("--layers", type=positive, help="of the decoder; all where not given")
    parser.add_argument("--prompts", type=positive, default=128)
    parser.add_argument("--questions", type=positive, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument(
        "--shared", type=positive, default=384, help="tokens, an image's among them"
    )
    parser.add_argument("--own", type=positive, default=64, help="tokens of a question")
    parser.add_argument("--patches", type=positive, default=1024)
    parser.add_argument("--new-tokens", type=positive, default=256)
    parser.add_argument("--out", type=Path, help="JSON file for the table")
    args = parser.parse_args()
    for questions in args.questions:
        if args.prompts % questions:
            raise UserError(f"--prompts {args.prompts} is no multiple of --questions {questions}")
    topology = Topology.parse(args.topology)
    report([measure(args, topology, questions) for questions in args.questions], args.out)


if __name__ == "__main__":
    as_command(main)
