# SPDX-License-Identifier: Apache-2.0
"""The quickstart with several seeds, one after the other, and a table of what came out.

    python scripts/quickstart_seeds.py --seeds 1 2 3 4 5 [--control] [--base DIR] [key=value ...]

Above the runs stands the base, as the quickstart asks it and as it was taught to be asked for a
worked reply. Runs that are finished are not run again, so an interrupted campaign goes on where it
was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

from make_quickstart_base import SHOW

import jaxvl
from jaxvl import config
from jaxvl.cli.runtime import as_command
from jaxvl.train.heldout import evaluate

ROOT = Path(__file__).parent.parent


def run(file: str, run_dir: Path, overrides: list[str]) -> dict:
    """eval.json of a run, which is made if it is not there, with the minutes it took."""
    done = run_dir / "eval.json"
    if not done.exists():
        command = [sys.executable, "-m", "jaxvl", "grpo", file, f"run.dir={run_dir}", *overrides]
        start = time.monotonic()
        with open(run_dir.with_suffix(".log"), "w") as log:
            subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=log)
        (run_dir / "seconds").write_text(f"{time.monotonic() - start:.0f}")
    return json.loads(done.read_text()) | {"seconds": float((run_dir / "seconds").read_text())}


def asked(base: Path) -> dict:
    """What the base does with the quickstart's held-out questions when told to show its work."""
    cfg = config.load(ROOT / "configs/quickstart.py", [f"model.path={base}"])
    vlm = jaxvl.load(base, dtype="float32")

    def template(example):
        ((*images, text),) = [turn["content"] for turn in cfg.data.template(example)]
        content = [*images, {"type": "text", "text": SHOW + text["text"]}]
        return [{"role": "user", "content": content}]

    examples = list(cfg.eval.source.load())
    length = cfg.sampling.max_new_tokens
    found = evaluate(vlm, examples, cfg.eval, template, length, cfg.rewards)
    return {"before": dataclasses.asdict(found)}


def cell(rate: dict) -> str:
    if rate["value"] is None:
        return "-"
    return f"{rate['value']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"


def row(name: str, found: dict, when: str) -> str:
    greedy, sampled = found[when]["greedy"], found[when]["sampled"]
    inside = sampled["first_in_format"]
    by_task = greedy["first_by_task"]
    tasks = " ".join(f"{task} {rate['value']:.2f}" for task, rate in by_task.items())
    rates = [of["rewards"][name] for name in ("accuracy", "format") for of in (greedy, sampled)]
    return (
        f"| {name} | {' | '.join(map(cell, rates))} | "
        f"{cell(inside)} (n={inside['count']}) | {tasks} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--base", type=Path, default=Path("configs/quickstart_base"))
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--control", action="store_true", help="also with shuffled rewards")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print("| run | greedy accuracy | sampled accuracy | greedy format | sampled format | "
          "sampled accuracy in format | greedy by task |")  # fmt: skip
    print("| --- " * 7 + "|")
    kinds = [("quickstart", "seed")] + [("quickstart_control", "control")] * args.control
    first = True
    for file, name in kinds:
        for seed in args.seeds if name == "seed" else args.seeds[:1]:
            overrides = [f"model.path={args.base}", f"run.seed={seed}", *args.overrides]
            found = run(f"configs/{file}.py", args.out / f"{name}_{seed}", overrides)
            if first:
                print(row("base", found, "before"), flush=True)
                print(row("base, told to show its work", asked(args.base), "before"), flush=True)
                first = False
            seconds = f"{name} {seed}, {found['seconds']:.0f} s"
            print(row(seconds, found, "after"), flush=True)


if __name__ == "__main__":
    as_command(main)
