# SPDX-License-Identifier: Apache-2.0
"""The verdicts of the benchmark `mathvision` against those of its authors on published replies.

    python scripts/mathvision_agreement.py DIR

DIR holds MathVision's files (test.jsonl with images/) and `predictions-*.jsonl` (id, response,
correct). The replies have no answer tags, so they are marked in lenient mode. Rows whose published
verdict is wrong by inspection stand in `mathvision_exceptions.json` beside this script, with the
reason, and are taken off. Prints the agreement, the credit that only we give (false) or only they
give (missed), every row where we differ, and how the marks came about.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from jaxvl.errors import UserError
from jaxvl.eval.benchmarks.mathvision import BENCHMARK


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    items, dropped = BENCHMARK.read(folder, next(iter(BENCHMARK.protocols)))
    files = sorted(folder.glob("predictions-*.jsonl"))
    if not files:
        raise UserError(f"no predictions-*.jsonl in {folder}")
    for row in dropped:
        print(f"not used: row {row.id}: {row.found}")
    listed = json.loads(Path(__file__).with_name("mathvision_exceptions.json").read_text())
    for file in files:
        report(file, {item.id: item for item in items}, listed.get(file.name, {}))


def report(file: Path, items: dict, exceptions: dict[str, str]) -> None:
    """Print how one file of replies compares."""
    outcomes, reasons, differing = Counter(), Counter(), []
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        item = items.get(row["id"])
        if item is None or row["id"] in exceptions:
            continue
        mark = BENCHMARK.mark(item, row["response"], "lenient")
        reasons[mark.reason] += 1
        outcome = (mark.value == 1, row["correct"])
        outcomes[outcome] += 1
        if outcome[0] != outcome[1]:
            differing.append((row["id"], item.kind, mark.reason, mark.extracted, item.gold))
    count = sum(outcomes.values())
    agreed = outcomes[True, True] + outcomes[False, False]
    print(f"{file.name}: {agreed} of {count} agree ({agreed / count:.1%})")
    print(f"  false credit: {outcomes[True, False]}, missed credit: {outcomes[False, True]}")
    for id, kind, reason, extracted, gold in differing:
        print(f"  {id} ({kind}, {reason}): {extracted!r:.60} against {gold!r}")
    for id, why in exceptions.items():
        print(f"  taken off: {id}: {why}")
    print(f"  reasons: {dict(reasons)}")


if __name__ == "__main__":
    main()
