# SPDX-License-Identifier: Apache-2.0
"""What `gpu_checks.sh` has measured as tables in docs/performance.md, in the place of those before.

    python scripts/bench/gpu_tables.py DIR

A table a piece, with the day its file was written and the machine that the bench says.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/performance.md"
BEGIN, END = "<!-- gpu tables: begin -->", "<!-- gpu tables: end -->"


def table(file: Path) -> str:
    """One piece: its name, day and machine, and its rows."""
    found = json.loads(file.read_text())
    machine = found.get("machine", {})
    day = datetime.fromtimestamp(file.stat().st_mtime, UTC).date()
    said = ", ".join(f"{name} {machine[name]}" for name in sorted(machine))
    lines = [f"**{file.stem}**, {day}{', ' if said else ''}{said}", ""]
    if not found["rows"]:
        return "\n".join([*lines[:1], ": passed"]).replace("\n", "")
    names = list(found["rows"][0])
    lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in found["rows"]:
        cells = (f"{x:.4g}" if isinstance(x, float) else str(x) for x in map(row.get, names))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def merged(page: str, tables: list[str]) -> str:
    """The page with the tables between its marks, in the place of what stood there."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page has no {BEGIN} .. {END}")
    return "\n\n".join([before + BEGIN, *tables, END + after])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what gpu_checks.sh wrote")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    files = sorted(args.folder.glob("*.json"))
    if not files:
        print(f"{args.folder} holds no piece (*.json) of gpu_checks.sh", file=sys.stderr)
        sys.exit(2)
    page = args.page.read_text(encoding="utf-8")
    args.page.write_text(merged(page, [table(file) for file in files]), encoding="utf-8")
    print(f"{args.page}: {len(files)} tables")


if __name__ == "__main__":
    main()
