# SPDX-License-Identifier: Apache-2.0
"""Host seconds of a step for its patches: collated, put in order, handed to the device.

    python scripts/bench/host.py --out host.json

Prompts of one image each, encoded before. Each form makes what a step makes of them: the batch, and
what sampling, reference and update read of it; with an update that leaves dead rows out (`--beta
0`) rows are put in order. On a CPU device an upload is a copy in memory, on an accelerator it goes
over its bus.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np
from pairs import positive, report
from PIL import Image

from jaxvl.cli.runtime import as_command
from jaxvl.data import prompts as data_prompts
from jaxvl.data.prompts import Processor, step_up
from jaxvl.distributed.mesh import make_mesh
from jaxvl.models.inputs import Prompt
from jaxvl.rl.placement import Placement

BASE = Path(__file__).parents[2] / "configs/quickstart_base"


def measure(processor: Processor, args: argparse.Namespace, live_R: np.ndarray) -> dict:
    """Seconds by part, the best of some repeats, and bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (args.height, args.width, 3), np.uint8)
    text = "<|vision_start|><|image_pad|><|vision_end|>Which of the two is nearer?"
    start = time.perf_counter()
    one = processor.encode(text, [Image.fromarray(pixels)])
    sizes = {"encode, s an image": time.perf_counter() - start}
    encoded = [one] * args.prompts
    mesh, placement = make_mesh(devices=jax.devices()[:1]), Placement(1, args.micro_batches, 1)
    best: dict[str, float] = {}
    for _ in range(args.repeats):
        laps = [time.perf_counter()]
        arrays = data_prompts.collate(
            encoded,
            range(args.prompts),
            pad_id=processor.pad_id,
            prompt_bucket=step_up(len(one.tokens)),
            patch_bucket=step_up(len(one.segments)),
        )
        laps.append(time.perf_counter())
        with jax.set_mesh(mesh):
            on_device = jax.block_until_ready(placement.put(Prompt.from_arrays(arrays), mesh))
            laps.append(time.perf_counter())
            order = placement.order(live_R, whole=False)
            jax.block_until_ready(placement.cut_out(on_device, order, mesh))
            laps.append(time.perf_counter())
        parts = zip(("collate, s", "upload, s", "micro-batches, s"), np.diff(laps), strict=True)
        best = {name: min(best.get(name, np.inf), float(x)) for name, x in parts}
        del on_device
    nbytes = arrays["patches"].nbytes
    return (
        sizes
        | {"patches": len(one.segments), "tokens": len(one.tokens)}
        | best
        | {
            "GB": nbytes / 1e9,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=positive, default=512)
    parser.add_argument("--height", type=positive, default=728, help="pixels; by default, with the")
    parser.add_argument("--width", type=positive, default=728, help="width, is 689 tokens a prompt")
    parser.add_argument("--micro-batches", type=positive, default=8)
    parser.add_argument("--beta", type=float, default=0.04, help="0: half of the rows are dead")
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.prompts % args.micro_batches:
        parser.error(f"--prompts {args.prompts} is no multiple of {args.micro_batches}, its parts")
    live_R = np.arange(args.prompts) % 2 == 0 if args.beta == 0 else np.ones(args.prompts, bool)
    processor = Processor.from_pretrained(BASE, max_pixels=args.height * args.width)
    forms = {
        "bytes": processor.as_bytes(),
        "bfloat16": processor.with_dtype("bfloat16"),
        "float32": processor,
    }
    rows = []
    for name, of in forms.items():
        print(name, flush=True)
        rows.append({"patches as": name} | measure(of, args, live_R))
    report(rows, args.out)


if __name__ == "__main__":
    as_command(main)
