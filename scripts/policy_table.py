# SPDX-License-Identifier: Apache-2.0
"""The table of policy in docs/rewards.md, made of the rows of tests/rewards/policy.py.

python scripts/policy_table.py          writes it
python scripts/policy_table.py --check  exits with 1 where it is not what the rows give
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOC = ROOT / "docs" / "rewards.md"
BEGIN, END = "<!-- the table of policy begins -->", "<!-- it ends -->"


def table() -> str:
    """The rows as Markdown."""
    sys.path.insert(0, str(ROOT))
    from tests.rewards.policy import POLICY

    lines = ["| kind | form of the answer | credited | why | examples, against the gold |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row in POLICY:
        shown = "; ".join(f"{_code(answer)} ({_code(gold)})" for answer, gold, *_ in row.examples)
        mark = "yes" if row.credited else "no"
        lines.append(f"| `{row.kind}` | {row.form} | {mark} | {row.why} | {shown} |")
    return "\n".join(lines)


def _code(text: str) -> str:
    """A text in code quotes that a table's cell can hold."""
    text = text.replace("\n", "⏎").replace("|", "\\|")
    quotes = "``" if "`" in text else "`"
    return f"{quotes}{text.strip() or ' '}{quotes}"


def updated(doc: str) -> str:
    """The page with the table that the rows give."""
    before, _, rest = doc.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main() -> None:
    doc = DOC.read_text(encoding="utf-8")
    new = updated(doc)
    if "--check" in sys.argv[1:]:
        raise SystemExit(0 if new == doc else f"{DOC}: run `python scripts/policy_table.py`")
    DOC.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
