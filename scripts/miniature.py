# SPDX-License-Identifier: Apache-2.0
"""The papers' claims in miniature: arms x seeds of small runs, and tables (docs/miniature.md).

    python scripts/miniature.py [--part a ..] [--seeds 1 2 3] [--out DIR]
    python scripts/miniature.py --list
    python scripts/miniature.py --report [--part a ..] [--out DIR]

What is finished is not done again, so that a campaign that was stopped goes on where it was.
DIR/index.html links the page of every run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from miniature_parts.arms import PARTS, TINY, TITLES, Sizes, stages_of

from jaxvl.cli.runtime import as_command

# Seconds of a step of each kind, of a start (programs are made again for every run) and of an
# answered question, on two quiet cores: rough, for --list alone.
STEP = {"sft": 0.7, "rl": 0.7}
START, REPLY = 8.0, 0.004


def estimate(part: str, sizes: Sizes, done: set) -> float:
    """Seconds of a part with one seed, but for the runs that are in `done`, which it adds to."""
    arms, seconds = PARTS[part](sizes), 0.0
    for stages in stages_of(arms):
        if stages not in done:
            done.add(stages)
            seconds += START + STEP[stages[-1].kind] * stages[-1].of
    replies = sizes.questions * sizes.samples + sizes.greedy
    for arm in arms:
        if (arm.stages, arm.asked) not in done:
            done.add((arm.stages, arm.asked))
            seconds += START + REPLY * replies
    return seconds


def listed(parts: list[str], seeds: list[int], sizes: Sizes) -> None:
    done: set = set()
    total = 0.0
    for part in parts:
        minutes = len(seeds) * estimate(part, sizes, done) / 60
        total += minutes
        arms = "; ".join(arm.name for arm in PARTS[part](sizes))
        print(f"{part:5} {minutes:4.0f} min  {TITLES[part]}\n      {arms}")
    print(f"{total:10.0f} min in all with {len(seeds)} seeds, on two quiet cores (an estimate)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--out", type=Path, help="default: runs/miniature, runs/miniature-tiny")
    parser.add_argument("--list", action="store_true", help="what would be run, and how long")
    parser.add_argument("--report", action="store_true", help="tables of what is finished")
    parser.add_argument("--tiny", action="store_true", help="one step, to see that all runs")
    args = parser.parse_args()
    chosen = TINY if args.tiny else Sizes()
    out = args.out or Path("runs/miniature-tiny" if args.tiny else "runs/miniature")
    if args.list:
        listed(args.part, args.seeds, chosen)
        return

    from miniature_parts.runs import Place

    places = [Place(out, seed, chosen) for seed in args.seeds]
    if args.report:
        from miniature_parts.report import tables

        for part in args.part:
            print("\n".join(tables(part, places, PARTS[part](chosen))))
        return

    from miniature_parts import pages
    from miniature_parts.measure import measure
    from miniature_parts.runs import train

    from jaxvl.cli.runtime import prepare_jax

    prepare_jax()
    for part in args.part:
        for place in places:
            for arm in PARTS[part](chosen):
                train(place, arm.stages)
                measure(place, arm)
                pages.write(out, chosen)


if __name__ == "__main__":
    as_command(main)
