# SPDX-License-Identifier: Apache-2.0
"""The image at the top of the README, from what a run of the quickstart has left:

    python scripts/quickstart_chart.py runs/quickstart docs/img/quickstart.svg

Needs matplotlib (the notebook extra).
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jaxvl.cli.runtime import as_command
from jaxvl.observe.metrics import read_metrics

WINDOW = 10  # steps of the running mean


def running(values: np.ndarray) -> np.ndarray:
    """The mean over the steps around each."""
    ones = np.ones(WINDOW)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def chart(run: Path) -> Figure:
    """Accuracy and format over a run's steps, and its held-out accuracy before and after."""
    lines = read_metrics(run)
    steps = np.array([line["step"] for line in lines])
    seconds = sum(line["step_time"] for line in lines)
    held_out = json.loads((run / "eval.json").read_text())
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2.4, 1))
    shown = (("accuracy", "right", "#2563eb"), ("think_format", "in format", "#9ca3af"))
    for name, label, colour in shown:
        values = np.array([line[f"rewards/{name}/mean"] for line in lines])

        left.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        left.plot(steps, running(values), color=colour, label=label)
    left.set(xlabel=f"step ({seconds:.0f} s in all)", ylim=(0, 1.02), xlim=(1, steps[-1]))
    left.set_title("share of sampled answers, in training", fontsize=10)
    left.legend(frameon=False, loc="lower right", fontsize=9)
    greedy = [held_out[when]["greedy"]["rewards"]["accuracy"] for when in ("before", "after")]
    values = [found["value"] for found in greedy]
    spread = [[v - f["low"] for v, f in zip(values, greedy, strict=True)],
              [f["high"] - v for v, f in zip(values, greedy, strict=True)]]  # fmt: skip
    look = {"color": ["#cbd5e1", "#2563eb"], "width": 0.6, "capsize": 4}
    bars = right.bar(["before", "after"], values, yerr=spread, **look)
    right.bar_label(bars, [f"{value:.2f}" for value in values], label_type="center", fontsize=11)
    right.set_ylim(0, 1.02)
    right.set_title(f"{greedy[0]['count']} held-out questions", fontsize=10)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    matplotlib.rcParams["svg.hashsalt"] = "jaxvl"  # the same run, the same file
    args.out.parent.mkdir(parents=True, exist_ok=True)
    chart(args.run).savefig(args.out, metadata={"Date": None}, facecolor="white")
    print(args.out)


if __name__ == "__main__":
    as_command(main)
