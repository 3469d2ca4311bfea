# SPDX-License-Identifier: Apache-2.0
"""Our verdicts against those of MathVision's authors on published replies.

    python scripts/mathvision_agreement.py DIR

DIR holds `test.jsonl` (id, options, answer) and `predictions-*.jsonl` (id, response, correct). The
replies have no answer tags, so they are judged in lenient mode. Rows whose published verdict is
wrong by inspection stand in `mathvision_exceptions.json` beside this script, with the reason, and
are taken off. Prints the agreement, every row where we differ, and how many rows gave no answer.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from jaxvl.errors import UserError
from jaxvl.rewards import verify


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    questions = {row["id"]: row for row in read(folder / "test.jsonl")}
    listed = json.loads(Path(__file__).with_name("mathvision_exceptions.json").read_text())
    files = sorted(folder.glob("predictions-*.jsonl"))
    if not files:
        raise UserError(f"no predictions-*.jsonl in {folder}")
    for file in files:
        exceptions = listed.get(file.name, {})
        reasons, differing, agreed, counted, off = Counter(), [], 0, 0, 0
        for row in read(file):
            question = questions[row["id"]]
            kind = "mcq" if question["options"] else "math"
            verdict = verify(
                kind, row["response"], question["answer"], question["options"], mode="lenient"
            )
            reasons[verdict.reason] += 1
            if row["id"] in exceptions:
                off += 1
                continue
            counted += 1
            agreed += (verdict.reward == 1) == row["correct"]
            if (verdict.reward == 1) != row["correct"]:
                differing.append((row["id"], kind, verdict.extracted, question["answer"]))
        print(f"{file.name}: {agreed} of {counted} agree ({agreed / counted:.1%}), {off} taken off")
        for row_id, kind, extracted, gold in differing:
            print(f"  {row_id} ({kind}): {extracted!r:.60} against {gold!r}")
        for row_id, why in exceptions.items():
            print(f"  taken off: {row_id}: {why}")
        print(f"  reasons: {dict(reasons)}")


if __name__ == "__main__":
    main()
