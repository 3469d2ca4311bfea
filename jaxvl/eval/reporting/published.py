# SPDX-License-Identifier: Apache-2.0
"""Figures of the papers and of model cards, in per cent, to stand beside ours and marked as theirs.

They were made with other prompts, extraction rules and often a judge model: nothing here was
measured by jaxvl.
"""

from __future__ import annotations

from collections.abc import Sequence

Row = tuple[str, ...]
Published = tuple[
    str, tuple[str, ...], tuple[Row, ...]
]  # title, columns, rows with the model first

_VISUALTHINKER = "VisualThinker-R1-Zero, arXiv 2503.05132 (micro average)"
_VLAA = "VLAA-Thinking, arXiv 2504.11468, table 4, and the OpenCompass leaderboard"
_MODELS = (
    "Qwen2-VL-2B",
    "Qwen2.5-VL-3B",
    "VLM-R1-Math-0305 (3B)",
    "VLAA-Thinker-Qwen2-2B",
    "VLAA-Thinker-Qwen2.5-3B",
    "Qwen2-VL-7B",
    "Qwen2.5-VL-7B",
    "VLAA-Thinker-Qwen2-7B-Zero",
    "VLAA-Thinker-Qwen2-7B",
    "VLAA-Thinker-Qwen2.5-7B",
)


def _vlaa(title: str, column: str, *figures: str, also: tuple[Row, ...] = ()) -> Published:
    rows = tuple(zip(_MODELS, figures, strict=True))
    return f"{_VLAA}{title}", (column,), rows + also


# What a column is called there: the name of our metric or group that it is to be held against.
_OURS = {
    "total": "accuracy",
    "testmini": "accuracy",
    "full": "accuracy",
    "vision-only": "accuracy",
    "score, strict": "score (strict)",
    "test": "accuracy",
    "val": "accuracy",
    "refusal rate": "refusals",
}


def figures(columns: Sequence[str]) -> list[str]:
    """Our names of the columns of a published table."""
    return [_OURS.get(column, column) for column in columns]


TABLES: dict[str, tuple[Published, ...]] = {
    "cv_bench": (
        (
            _VISUALTHINKER + "; GPG, arXiv 2504.02546",
            ("total", "Count", "Relation", "Depth", "Distance"),
            (
                # The paper prints 0.16 for Depth; its total follows from 10.16.
                ("Qwen2-VL-2B", "31.38", "54.69", "22.46", "0.16 (10.16?)", "31.66"),
                ("+ SFT on SAT", "57.84", "60.02", "68.92", "55.00", "45.83"),
                ("VisualThinker-R1-Zero", "59.47", "59.64", "66.76", "54.16", "56.66"),
                ("+ GPG", "76.15", "66.62", "83.23", "81.66", "75.50"),
            ),
        ),
    ),
    "mathvista": (
        _vlaa(
            *("", "testmini", "48.0", "61.2", "62.7", "43.6", "61.0", "61.6"),
            *("68.1", "59.3", "59.6", "68.0"),
            also=(("Qwen2-VL-2B, vendor", "43.0"), ("Qwen2-VL-7B, vendor", "58.2")),
        ),
    ),
    "mathvision": (
        _vlaa(
            *("", "full", "16.1", "21.9", "21.9", "14.8", "24.4", "19.2"),
            *("25.4", "18.2", "19.8", "26.4"),
            also=(("Qwen2-VL-2B, vendor", "12.4"), ("Qwen2-VL-7B, vendor", "16.3")),
        ),
    ),
    "mathverse": (
        _vlaa(
            *("", "vision-only", "17.5", "31.2", "32.2", "19.0", "36.4", "25.4"),
            *("41.1", "33.5", "33.9", "48.2"),
        ),
    ),
    "dynamath": (
        _vlaa(
            *("", "worst case", "3.8", "13.2", "13.0", "3.4", "18.2", "11.0"),
            *("21.8", "11.4", "15.2", "22.4"),
        ),
    ),
    "wemath": (
        _vlaa(
            *("", "score, strict", "10.8", "22.9", "30.0", "12.6", "33.8", "22.3"),
            *("36.2", "23.2", "30.5", "41.5"),
        ),
    ),
    "logicvista": (
        _vlaa(
            *("", "test", "26.6", "40.3", "40.5", "30.4", "38.5", "33.3"),
            *("47.9", "36.2", "36.0", "48.5"),
        ),
    ),
    "mmmu": (
        (
            "the vendor's",
            ("val",),
            (
                ("Qwen2-VL-2B", "41.1"),
                ("Qwen2-VL-7B", "54.1"),
                ("Qwen2.5-VL-3B", "53.1"),
                ("Qwen2.5-VL-7B", "58.6"),
            ),
        ),
    ),
    "mossbench": (
        (
            "MOSSBench, arXiv 2406.17806, judged by a model",
            ("refusal rate",),
            (
                ("Claude 3 Opus (web)", "70.67"),
                ("GPT-4o", "6.33"),
                ("Qwen-VL-Chat", "21.67"),
                ("MiniCPM-Llama3-V 2.5", "6.0"),
            ),
        ),
    ),
}
