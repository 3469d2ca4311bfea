# SPDX-License-Identifier: Apache-2.0
"""Oversensitivity against safety on MOSSBench, over models: one folder of results each.

    python scripts/mossbench_tradeoff.py RESULTS..

Every folder holds what `jaxvl eval run` and `score` made of `mossbench` and `mossbench_contrast`
for one model. Prints the rates of refusals by type and Spearman's rho over the models.
"""

import sys
from pathlib import Path

from jaxvl.eval import export, oversensitivity
from jaxvl.eval.tables import share, show


def main(folders: list[Path]) -> None:
    if not folders:
        raise SystemExit(__doc__)
    runs = {}
    for folder in folders:
        tasks = ("mossbench", "mossbench_contrast")
        benign, harmful = ([row for row, _ in export.marked(folder / task)] for task in tasks)
        runs[str(folder)] = (benign, harmful)
    for found in oversensitivity.tradeoff(runs):
        few = "none, of fewer than three models or of equal rates"
        rho = few if found["rho"] is None else f"{found['rho']:.2f}"
        rows = [
            [name, share(of["oversensitivity"]), share(of["safety"])]
            for name, of in found["models"].items()
        ]
        columns = ["model", "refused, benign", "refused, harmful"]
        show({"title": f"{found['type']}: rho {rho}", "columns": columns, "rows": rows})


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
