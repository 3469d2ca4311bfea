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
from collections.abc import Collection
from pathlib import Path

from jaxvl.cli.runtime import as_command
from jaxvl.errors import UserError
from jaxvl.eval.benchmark import Item
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
    for file in files:
        report(file, {item.id: item for item in items}, exceptions(file))


def exceptions(file: Path) -> dict[str, str]:
    """The rows of a file of replies whose published verdict is wrong, each with the reason."""
    listed = Path(__file__).with_name("mathvision_exceptions.json")
    return json.loads(listed.read_text(encoding="utf-8")).get(file.name, {})


def compare(file: Path, items: dict[str, Item], off: Collection[str]) -> list[tuple]:
    """(id, item, our mark, published verdict) of the replies in a file that are not `off`."""
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [
        (row["id"], item, BENCHMARK.mark(item, row["response"], "lenient"), row["correct"])
        for row in rows
        if row["id"] not in off and (item := items.get(row["id"]))
    ]


def report(file: Path, items: dict[str, Item], off: dict[str, str]) -> None:
    """Print how one file of replies compares."""
    rows = compare(file, items, off)
    differing = [row for row in rows if (row[2].value == 1) != row[3]]
    agreed, false = len(rows) - len(differing), sum(mark.value == 1 for _, _, mark, _ in differing)
    print(f"{file.name}: {agreed} of {len(rows)} agree ({agreed / len(rows):.1%})")
    print(f"  false credit: {false}, missed credit: {len(differing) - false}")
    for id, item, mark, _ in differing:
        print(f"  {id} ({item.kind}, {mark.reason}): {mark.extracted!r:.60} against {item.gold!r}")
    for id, why in off.items():
        print(f"  taken off: {id}: {why}")
    print(f"  reasons: {dict(Counter(mark.reason for _, _, mark, _ in rows))}")


if __name__ == "__main__":
    as_command(main)
