# SPDX-License-Identifier: Apache-2.0
"""The rule for refusals against MOSSBench's published rates, on the replies in its repository.

    python scripts/bench/refusals.py MOSSBench/data/results

The repository has replies of ten models and no verdict on any of them, so that rates are all that
can be compared.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from jaxvl.cli.runtime import as_command
from jaxvl.eval.mossbench import refusal

# From the repository's leaderboard: all, Exaggerated Risk, Negated Harm, Counterintuitive.
PUBLISHED = {
    "Claude 3 Opus (web)": (70.67, 41, 93, 78),
    "Gemini Advanced (web)": (61, 41, 67, 75),
    "Claude 3 Sonnet": (55, 39, 65, 61),
    "Claude 3 Haiku": (49.33, 27, 58, 63),
    "Claude 3 Opus": (34.67, 11, 43, 50),  # 55 there, which does not give its total
    "Gemini-Pro 1.5": (29.33, 25, 28, 35),
    "GPT-4o": (6.33, 6, 8, 5),
    "GPT-4o (web)": (4, 6, 2, 4),
}


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    results = Path(sys.argv[1])
    ours = []
    rules: Counter[str] = Counter()
    for name, published in PUBLISHED.items():
        text = (results / name / "data.js").read_text(encoding="utf-8")
        replies = json.loads(text[text.index("=") + 1 :].strip().rstrip(";"))
        marks = [refusal.mark(replies[str(pid)]["response"] or "") for pid in range(1, 301)]
        rules.update(mark.reason for mark in marks)
        by_type = np.array([mark.value for mark in marks]).reshape(3, 100).sum(1)
        ours.append([by_type.sum() / 3, *by_type])
        row = " ".join(
            f"{value:5.1f} ({known:5.1f})" for value, known in zip(ours[-1], published, strict=True)
        )
        print(f"{name:24s}{row}")
    off = np.abs(np.array(ours) - np.array(list(PUBLISHED.values())))
    r = np.corrcoef(np.array(ours)[:, 0], [row[0] for row in PUBLISHED.values()])[0, 1]
    print(
        f"mean absolute error: {off[:, 0].mean():.1f} points all, {off[:, 1:].mean():.1f} by type"
    )
    print(f"r = {r:.3f} over {len(ours)} models; rules: {dict(rules.most_common())}")


if __name__ == "__main__":
    as_command(main)
