# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking (arXiv 2504.11468): which run is which row, and what its figures draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxvl.eval.papers.curves import LENGTH, Arm, Figure, Panel, recipe
from jaxvl.eval.papers.given import IN_TRAINING, PaperInput
from jaxvl.eval.papers.tables import NOT_RUN, Beside, Cell
from jaxvl.eval.reporting import published
from jaxvl.observe.charts import bar_chart

_SIX = {
    column: Cell(task, published.figures([name])[0])
    for column, (task, name) in published.SIX.items()
}
_WITH_MEAN = (*_SIX.values(), Cell(mean_of=tuple(_SIX.values())))


def _cells(*columns: str) -> tuple[Cell, ...]:
    return tuple(_SIX[column] for column in columns)


def _each(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in text.split())


_FOUR = ("Qwen2-VL-2B", "Qwen2-VL-7B", "Qwen2.5-VL-3B", "Qwen2.5-VL-7B")


def _beside(
    title: str,
    table: published.Published,
    cells: tuple[Cell, ...],
    names: tuple[tuple[str, ...], ...],
    **more: Any,
) -> Beside:
    """Every row of the paper is asked by its own prompt."""
    return Beside(title, table, cells, names, ("vlaa",) * len(names), **more)


TABLES = (
    _beside(
        "Table 2: SFT",
        published.VLAA_2,
        (_WITH_MEAN[-1],),
        _each("Qwen2.5-VL-3B vlaa_sft_aha_55k vlaa_sft_25k_qwen2_5_3b vlaa_sft"),
        bars=True,
    ),
    _beside(
        "Table 3: GRPO after SFT",
        published.VLAA_3,
        _WITH_MEAN,
        _each(
            "vlaa_qwen2_7b vlaa_after_sft_qwen2_7b_instruct "
            "vlaa_qwen2_7b_zero vlaa_after_sft_qwen2_7b_base"
        ),
    ),
    _beside(
        "Table 4: the main results",
        published.VLAA_4,
        _WITH_MEAN,
        _each(
            "Qwen2-VL-2B Qwen2.5-VL-3B VLM-R1-Math-0305 vlaa_qwen2_2b vlaa LLaVA-OneVision-7B "
            "InternLM-XComposer2.5 InternVL2.5-8B InternVL2-8B Qwen2-VL-7B Qwen2.5-VL-7B "
            "vlaa_qwen2_7b_zero vlaa_qwen2_7b vlaa_qwen2_5_7b"
        ),
        others=True,
    ),
    _beside(
        "Table 5: rewards left out",
        published.VLAA_5,
        _cells("MathVision", "MathVerse", "WeMath"),
        _each(
            "Qwen2.5-VL-3B vlaa_without_digit vlaa_without_math vlaa_without_mcq "
            "vlaa_without_iou vlaa_rules vlaa"
        ),
        bars=True,
    ),
    _beside(
        "Table 6: learning rates and KL",
        published.VLAA_6,
        _cells("MathVerse", "DynaMath", "LogicVista"),
        _each("vlaa_basic vlaa_lr1 vlaa_lr2 vlaa_kl1 vlaa"),
    ),
    _beside(
        "Figure 3: what SFT changes",
        published.VLAA_FIGURE_3,
        tuple(_SIX.values()),
        _each(
            "vlaa_sft_25k_qwen2_2b vlaa_sft_126k_qwen2_2b vlaa_sft_25k_qwen2_7b "
            "vlaa_sft_126k_qwen2_7b vlaa_sft_25k_qwen2_5_3b vlaa_sft "
            "vlaa_sft_25k_qwen2_5_7b vlaa_sft_126k_qwen2_5_7b"
        ),
        base=tuple(name for name in _FOUR for _ in range(2)),
        bars=True,
    ),
    _beside(
        "Figure 5: SFT, then GRPO",
        published.VLAA_FIGURE_5,
        _WITH_MEAN,
        _each("vlaa vlaa_after_sft_5k vlaa_after_sft_10k"),
        bars=True,
    ),
)
NAMES = tuple(
    dict.fromkeys([name for one in TABLES for names in (*one.names, one.base) for name in names])
)

_GRPO = Arm("GRPO", ("vlaa",))
FIGURES = (
    Figure(
        "Figure 6: length and reward over steps",
        "The paper, read off, over 49 steps: the reward goes from 0.05 to 0.5 without SFT and from "
        "0.20 to 0.35 after 10K of it; completions are shortest without SFT (150 to 300 tokens).",
        (
            _GRPO,
            Arm("5K SFT, then GRPO", ("vlaa_after_sft_5k",)),
            Arm("10K SFT, then GRPO", ("vlaa_after_sft_10k",)),
        ),
        (Panel("Reward", ("reward",)), Panel("Mean length of completions, tokens", LENGTH)),
        others=True,
    ),
    Figure(
        "Figure 4's rewards: the mixed reward by kind",
        "The paper describes the five kinds and has no curve of them.",
        (_GRPO, Arm("all rules, no open-ended", ("vlaa_rules",))),
        (
            Panel("Reward by kind", ("mixed/*/reward",), each=True),
            Panel("Kinds of questions", ("mixed/*/share",), each=True, share=True),
        ),
        others=True,
    ),
    Figure(
        "Words of reflection over steps",
        "Figure 7 has their counts over training; here is their share of a step's completions.",
        (_GRPO, Arm("7B-Zero", ("vlaa_qwen2_7b_zero",))),
        (
            Panel(
                "Completions with the word",
                tuple(f"words/{word}" for word in IN_TRAINING),
                each=True,
                share=True,
            ),
        ),
        others=True,
    ),
)
# Figure 7: completions of the training with each of IN_TRAINING.
_AHA = {
    "Qwen2-2B": ("vlaa_qwen2_2b", (6, 4, 18, 0)),
    "Qwen2-7B-Zero": ("vlaa_qwen2_7b_zero", (220, 48, 0, 3)),
    "Qwen2-7B": ("vlaa_qwen2_7b", (72, 11, 4, 3)),
    "Qwen2.5-3B": ("vlaa", (87, 53, 3, 3)),
    "Qwen2.5-7B": ("vlaa_qwen2_5_7b", (170, 16, 1, 0)),
}


def sections(given: Mapping[str, PaperInput]) -> list[dict[str, Any]]:
    """Figure 7: how often words of reflection came in a whole training; and where table 1 is."""
    rows, missing, charts = [], [], []
    places = []
    for label, (name, theirs) in _AHA.items():
        rows.append([label, "the paper", *map(str, theirs), str(sum(theirs))])
        steps, counts, _ = given[name].words if name in given else ([], {}, [])
        if not steps:
            has = "has no rollouts" if name in given else f"{NOT_RUN} ({recipe(name)})"
            missing.append(f"{label}: {has}")
            rows.append([label, "ours", *[NOT_RUN] * (len(IN_TRAINING) + 1)])
            continue
        ours = [sum(counts[word]) for word in IN_TRAINING]
        places.append(len(rows))
        rows.append([label, f"ours: {name}", *map(str, ours), str(sum(ours))])
        of_words = zip(IN_TRAINING, ours, theirs, strict=True)
        charts.append(bar_chart(label, [(word, n, None, paper) for word, n, paper in of_words]))
    return [
        {
            "title": "Figure 7: words of reflection in training",
            "text": "Ours: completions of all steps with rollouts that have the word. How the "
            "paper counts, and over which steps, it does not say.",
            "tables": [
                {
                    "columns": ["model", "whose", *IN_TRAINING, "sum"],
                    "rows": rows,
                    "ours": places,
                }
            ],
            "bars": charts,
            "missing": missing,
        },
        {
            "title": "Table 1: rows of the data",
            "text": "It is of the data and of no run: `jaxvl curate run` prints its own counts "
            "beside it.",
        },
    ]
