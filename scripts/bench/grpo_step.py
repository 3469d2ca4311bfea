# SPDX-License-Identifier: Apache-2.0
"""One whole GRPO step of jaxvl against one of TRL: same checkpoint, same work, interleaved.

    python scripts/bench/grpo_step.py --peer-python ENV/bin/python --out step.json
    python scripts/bench/grpo_step.py --gpu --peer-python ENV/bin/python --out step.json

On a CPU in float32, on a GPU in bfloat16 at the shape of Qwen2-VL-2B. Without TRL in the peer's
environment jaxvl is timed alone.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from checkpoint import SHAPES, write_checkpoint
from pairs import Worker, interleave, positive, report

HERE = Path(__file__).parent
PARTS = ("generate", "logprob", "update", "host")


def arguments(description: str, pairs: int = 7) -> argparse.ArgumentParser:
    """The command line of a bench against TRL; what differs on a GPU defaults to None."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--group", type=positive, default=8, help="completions a prompt")
    parser.add_argument("--new-tokens", type=positive, help="default 64, on a GPU 256")
    parser.add_argument("--image-size", type=positive, help="pixels; default 112, on a GPU 448")
    parser.add_argument("--pairs", type=positive, default=pairs)
    parser.add_argument("--gpu", action="store_true", help="bfloat16, TRL on CUDA")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter with trl")
    parser.add_argument("--checkpoint", type=Path, help="folder to keep random checkpoints in")
    parser.add_argument("--out", type=Path, help="JSON file for the table")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    args = parser.parse_args()
    args.new_tokens = args.new_tokens or (256 if args.gpu else 64)
    args.image_size = args.image_size or (448 if args.gpu else 112)
    args.dtype = "bfloat16" if args.gpu else "float32"
    return args


@contextlib.contextmanager
def checkpoint(shape: str, args: argparse.Namespace) -> Iterator[Path]:
    """A random checkpoint of this shape; one that --checkpoint already holds is used again."""
    with TemporaryDirectory(prefix="jaxvl-bench-") as folder:
        path = (args.checkpoint or Path(folder)) / f"{shape}-{args.dtype}"
        if not (path / "config.json").exists():
            print(f"writing a random checkpoint of shape {shape}", flush=True)
            write_checkpoint(path, shape, args.dtype)
        yield path


def has_trl(python: str) -> bool:
    """Whether the peer's interpreter can import what its side needs; says what it lacks."""
    command = [python, "-c", "import trl, hf_processor"]
    found = subprocess.run(command, capture_output=True, check=False, text=True, cwd=HERE)
    if found.returncode:
        said = found.stderr.strip().splitlines()[-1]
        print(f"TRL: skipped: {python} (see --peer-python) cannot import it: {said}", flush=True)
    return found.returncode == 0


def ours(path: Path, args: argparse.Namespace, **work) -> Worker:
    """jaxvl at `work`, arguments that `ours.Ours` and `peer_trl.TRLPeer` share, and its own."""
    settings = work | {"dtype": args.dtype}
    return Worker([sys.executable, HERE / "ours.py", path, json.dumps(settings)])


def theirs(path: Path, args: argparse.Namespace, **work) -> Worker:
    """TRL at the same work, on as many threads as this process may use."""
    threads = len(os.sched_getaffinity(0))
    settings = work | {"device": "cuda" if args.gpu else "cpu", "threads": threads}
    return Worker([args.peer_python, HERE / "peer_trl.py", path, json.dumps(settings)])


def measure(jaxvl: Worker, trl: Worker | None, pairs: int) -> dict:
    """Both warmed up, then `pairs` pairs of steps: the steps of each, the ratios, TRL's warm-up."""
    steps: dict[str, list] = {"jaxvl": [], "TRL": []}
    print("jaxvl: first step (compiles), second step", flush=True)
    first = jaxvl("step")["seconds"]
    jaxvl("step")
    peak = jaxvl("matmul_peak")
    warm = {"first": None, "plain": None, "checkpointed": None}
    if trl:
        print("TRL: warm-up with and without activation checkpointing", flush=True)
        warm = trl("warm")

    def one(name: str, step) -> float:
        steps[name].append(step())
        print(f"{name}: {steps[name][-1]['seconds']:.3f} s", flush=True)
        return steps[name][-1]["seconds"]

    def run_ours() -> float:
        return one("jaxvl", lambda: jaxvl("step"))

    def run_theirs() -> float:
        return one("TRL", lambda: trl("step", checkpointing=warm["checkpointing"]))

    if trl:
        paired = interleave(run_ours, run_theirs, pairs)
    else:
        paired = dict.fromkeys(("ratio", "ratio_min", "ratio_max"))
        for _ in range(pairs):
            run_ours()
    peak = max(peak, jaxvl("matmul_peak"))
    return {"steps": steps, "paired": paired, "first": first, "warm": warm, "peak": peak}


def table(found: dict) -> list[dict]:
    """Rows (measure, jaxvl, TRL); "-" where a side has no such figure or did not run."""
    rows = []

    def middle(side: str, of) -> float | None:
        steps = found["steps"][side]
        return median(map(of, steps)) if steps else None

    def row(measure: str, jaxvl, trl=None) -> None:
        cells = {"jaxvl": jaxvl, "TRL": trl}
        rows.append({"measure": measure} | {k: "-" if v is None else v for k, v in cells.items()})

    def both(measure: str, of_ours, of_theirs=None) -> None:
        row(measure, middle("jaxvl", of_ours), middle("TRL", of_theirs or of_ours))

    seconds = {side: middle(side, lambda step: step["seconds"]) for side in ("jaxvl", "TRL")}
    flops = found["steps"]["jaxvl"][0]["flops"]
    rates = {side: flops / s if s else None for side, s in seconds.items()}
    row("first step, s", found["first"], found["warm"]["first"])
    row("step, s", *seconds.values())
    both("  generate", lambda s: s["generate"], lambda s: s["generate_seconds"])
    for part in PARTS[1:]:
        row(f"  {part}", middle("jaxvl", lambda s, part=part: s[part]))
    both(
        "tokens/s, generating",
        lambda s: s["tokens"] / s["generate"],
        lambda s: s["tokens"] / s["generate_seconds"],
    )
    both("peak memory, MiB", lambda s: s["peak_mib"])
    row("useful GFLOP/s", *(rate and rate / 1e9 for rate in rates.values()))
    row("share of matmul peak", *(rate and rate / found["peak"] for rate in rates.values()))
    row("matmul peak, GFLOP/s", found["peak"] / 1e9)
    row("step without checkpointing, s", None, found["warm"]["plain"])
    row("step with checkpointing, s", None, found["warm"]["checkpointed"])
    for name in ("ratio", "ratio_min", "ratio_max"):
        row(f"TRL / jaxvl, {name}", None, found["paired"][name])
    return rows


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, help="default 9m, on a GPU 2b")
    parser.add_argument("--prompts", type=positive, default=4)
    parser.add_argument("--beta", type=float, default=0.04)
    parser.add_argument("--micro-batches", type=positive, default=1)
    parser.add_argument(
        "--remat",
        choices=("block", "products"),
        help="what jaxvl keeps for the backward pass; default products, on a GPU block",
    )
    args = parse(parser)
    shape = args.shape or ("2b" if args.gpu else "9m")
    remat = args.remat or ("block" if args.gpu else "products")
    names = ("prompts", "group", "new_tokens", "image_size", "beta", "micro_batches")
    work = {name: getattr(args, name) for name in names}
    print(f"{shape}, {args.dtype}, remat {remat}, {work}", flush=True)
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(checkpoint(shape, args))
        jaxvl = stack.enter_context(ours(path, args, remat=remat, **work))
        trl = None
        if has_trl(args.peer_python):
            trl = stack.enter_context(theirs(path, args, **work))
        before = os.getloadavg()[0]
        rows = table(measure(jaxvl, trl, args.pairs))
    rows.append({"measure": "load before, after", "jaxvl": before, "TRL": os.getloadavg()[0]})
    what = ", ".join(f"{name} {value}" for name, value in work.items())
    rows.insert(0, {"measure": "work", "jaxvl": f"{shape} {args.dtype}", "TRL": what})
    report(rows, args.out)


if __name__ == "__main__":
    from jaxvl.cli.runtime import as_command

    as_command(main)
