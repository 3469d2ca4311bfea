# SPDX-License-Identifier: Apache-2.0
"""The papers' claims in miniature: arms x seeds of small runs, and tables (docs/miniature.md).

    python scripts/miniature.py [--part a ..] [--seeds 1 2 3] [--quick] [--out DIR]
    python scripts/miniature.py --list
    python scripts/miniature.py --report

What is finished is not done again, so that a campaign that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from miniature_parts.arms import FULL, PARTS, QUICK, TINY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"))
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="a half of the steps, fewer questions")
    sizes.add_argument("--tiny", action="store_true", help="one step, to see that all runs")
    args = parser.parse_args()
    chosen = QUICK if args.quick else TINY if args.tiny else FULL

    from miniature_parts.measure import measure
    from miniature_parts.runs import Place, train

    from jaxvl.cli.runtime import prepare_jax

    prepare_jax()
    for part in args.part:
        for seed in args.seeds:
            place = Place(args.out, seed, chosen)
            for arm in PARTS[part](chosen):
                train(place, arm.stages)
                measure(place, arm)


if __name__ == "__main__":
    main()
