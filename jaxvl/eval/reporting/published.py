# SPDX-License-Identifier: Apache-2.0
"""Figures of the papers and of model cards, in per cent, to stand beside ours and marked as theirs.

They were made with other prompts, extraction rules and often a judge model: nothing here was
measured by jaxvl. They stand as they are printed, also where the rest of a row contradicts them
(`CONTRADICTED`). `WHOLE` has its tables as they are printed,
`TABLES` what of them is about one benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence

PaperRow = tuple[str, ...]
# title, columns, rows with the model first
Published = tuple[str, tuple[str, ...], tuple[PaperRow, ...]]


def _rows(text: str) -> tuple[PaperRow, ...]:
    """A row a line: the model, and after the colon its figures."""
    split = [line.rsplit(":", 1) for line in text.strip().splitlines()]
    return tuple((name.strip(), *figures.split()) for name, figures in split)


# Of the columns of VLAA-Thinking's tables, which benchmark of ours it is, and what it is called.
SIX = {
    "MathVista": ("mathvista", "testmini"),
    "MathVision": ("mathvision", "full"),
    "MathVerse": ("mathverse", "vision-only"),
    "DynaMath": ("dynamath", "worst case"),
    "WeMath": ("wemath", "score, strict"),
    "LogicVista": ("logicvista", "test"),
}
_FOUR = ("Count", "Relation", "Depth", "Distance")
_KINDS = ("Exaggerated Risk", "Negated Harm", "Counterintuitive Interpretation")

VISUALTHINKER_3 = (
    "VisualThinker-R1-Zero, arXiv 2503.05132, table 3 (micro averages)",
    ("total", *_FOUR, "BLINK depth", "BLINK relation", "BLINK", "VSR"),
    # The paper prints 0.16 for Depth of the base; its total follows from 10.16.
    (
        ("Qwen2-VL-2B", "31.38", "54.69", "22.46", "0.16 (10.16?)", "31.66")
        + ("13.70", "0.69", "6.74", "0.0"),
        ("+ SFT on SAT", "57.84", "60.02", "68.92", "55.00", "45.83")
        + ("58.06", "47.55", "52.43", "35.80"),
        ("VisualThinker-R1-Zero", "59.47", "59.64", "66.76", "54.16", "56.66")
        + ("50.80", "55.94", "53.18", "62.32"),
    ),
)
VISUALTHINKER_4 = (
    "the same, table 4: from the instruct model (the answer-only row it speaks of is not printed)",
    ("total", *_FOUR),
    _rows("""
        Qwen2-VL-2B-Instruct: 55.64 45.43 68.92 58.66 51.66
        + RL, asked to reason: 66.03 69.54 61.84 66.50 65.50
    """),
)
VISUALTHINKER_5 = (
    "the same, table 5: from the instruct model with parts frozen",
    ("total", *_FOUR),
    _rows("""
        nothing frozen: 63.57 61.68 71.08 61.50 60.00
        vision encoder frozen: 68.34 64.21 78.00 65.67 66.00
        LLM frozen: 65.35 62.05 72.46 65.17 62.17
    """),
)
_GPG = (
    "GPG, arXiv 2504.02546, on the same base",
    ("total", *_FOUR),
    _rows("+ GPG: 76.15 66.62 83.23 81.66 75.50"),
)

_VLAA = "VLAA-Thinking, arXiv 2504.11468"
VLAA_2 = (
    f"{_VLAA}, table 2: Qwen2.5-VL-3B, average of the six benchmarks",
    ("average",),
    _rows("""
        Qwen2.5-VL-3B: 31.8
        SFT, 55K with reflection: 21.3
        SFT, 25K: 21.6
        SFT, 126K: 12.7
    """),
)
VLAA_3 = (
    f"{_VLAA}, table 3: GRPO of Qwen2-VL-7B, with SFT before it and without",
    (*SIX, "average"),
    _rows("""
        Instruct, GRPO: 59.6 19.8 33.9 15.2 30.5 36.0 32.5
        Instruct, SFT then GRPO: 43.7 14.7 19.0 3.2 11.1 27.3 19.8
        base, GRPO: 59.3 18.2 33.5 11.4 23.2 36.2 30.7
        base, SFT then GRPO: 49.5 16.4 25.0 6.4 20.4 32.7 25.7
    """),
)
VLAA_4 = (
    f"{_VLAA}, table 4, and the OpenCompass leaderboard",
    (*SIX, "average"),
    _rows("""
        Qwen2-VL-2B: 48.0 16.1 17.5 3.8 10.8 26.6 20.5
        Qwen2.5-VL-3B: 61.2 21.9 31.2 13.2 22.9 40.3 31.8
        VLM-R1-Math-0305 (3B): 62.7 21.9 32.2 13.0 30.0 40.5 33.4
        VLAA-Thinker-Qwen2-2B: 43.6 14.8 19.0 3.4 12.6 30.4 20.3
        VLAA-Thinker-Qwen2.5-3B: 61.0 24.4 36.4 18.2 33.8 38.5 35.4
        LLaVA-OneVision-7B: 58.6 18.3 19.3 9.0 20.9 33.3 26.6
        InternLM-XComposer2.5: 64.0 17.8 16.2 8.2 14.1 34.7 25.8
        InternVL2.5-8B: 64.5 17.0 22.8 9.4 23.5 36.0 28.9
        InternVL2-8B: 58.3 20.0 20.4 9.2 20.2 33.6 26.9
        Qwen2-VL-7B: 61.6 19.2 25.4 11.0 22.3 33.3 28.8
        Qwen2.5-VL-7B: 68.1 25.4 41.1 21.8 36.2 47.9 40.1
        VLAA-Thinker-Qwen2-7B-Zero: 59.3 18.2 33.5 11.4 23.2 36.2 30.7
        VLAA-Thinker-Qwen2-7B: 59.6 19.8 33.9 15.2 30.5 36.0 32.5
        VLAA-Thinker-Qwen2.5-7B: 68.0 26.4 48.2 22.4 41.5 48.5 42.5
    """),
)
VLAA_5 = (
    f"{_VLAA}, table 5: Qwen2.5-VL-3B, rewards left out",
    ("MathVision", "MathVerse", "WeMath"),
    _rows("""
        Qwen2.5-VL-3B: 21.9 31.2 22.9
        without digit: 23.5 34.6 28.8
        without math: 21.4 32.7 27.0
        without mcq: 21.5 33.9 18.4
        without iou: 22.8 35.3 30.0
        all rules, no open-ended: 22.2 34.9 30.1
        mixed: 24.4 36.4 33.8
    """),
)
VLAA_6 = (
    f"{_VLAA}, table 6: Qwen2.5-VL-3B, learning rates and KL",
    ("MathVerse", "DynaMath", "LogicVista"),
    _rows("""
        basic: 31.7 15.0 38.5
        LR1: 33.0 16.0 38.1
        LR2: 33.5 15.6 38.3
        KL1: 34.4 18.8 37.8
        KL2: 35.8 18.6 39.2
    """),
)
VLAA_FIGURE_3 = (
    f"{_VLAA}, figure 3: change by SFT in per cent of the model's own figure (not points)",
    tuple(SIX),
    _rows("""
        Qwen2-VL-2B, 25K: -30.8 -16.0 +8.1 -21.3 -13.6 +4.3
        Qwen2-VL-2B, 126K: -33.8 -26.5 +6.6 -57.9 -58.5 +3.5
        Qwen2-VL-7B, 25K: -28.6 -25.3 -27.0 -74.6 -56.9 -20.7
        Qwen2-VL-7B, 126K: -33.6 -23.7 -8.6 -94.5 -76.1 -10.7
        Qwen2.5-VL-3B, 25K: -24.3 -28.9 -24.7 -65.2 -68.0 -19.5
        Qwen2.5-VL-3B, 126K: -50.7 -41.4 -59.3 -98.5 -99.6 -50.0
        Qwen2.5-VL-7B, 25K: -25.7 -37.8 -39.8 -64.3 -47.1 -25.3
        Qwen2.5-VL-7B, 126K: -23.9 -38.0 -37.9 -93.6 -99.7 -22.0
    """),
)
VLAA_FIGURE_5 = (
    f"{_VLAA}, figure 5: Qwen2.5-VL-3B, GRPO with SFT before it and without",
    (*SIX, "average"),
    _rows("""
        GRPO: 60.80 23.20 35.80 18.56 29.43 39.15 34.49
        SFT on 5K, then GRPO: 42.40 15.62 22.72 5.79 9.62 29.75 20.98
        SFT on 10K, then GRPO: 43.60 14.93 21.32 5.19 14.10 31.54 21.78
    """),
)

_MOSSBENCH = "MOSSBench, arXiv 2406.17806"
MOSSBENCH_MODELS = (
    f"{_MOSSBENCH}, main results, judged by GPT-4",
    (*_KINDS, "refusal rate"),
    # The repository's front page has 55 for Claude 3 Opus, third column; its mean needs the 50.
    _rows("""
        GPT-4o (web): 6 2 4 4
        Gemini Advanced (web): 41 67 75 61
        Claude 3 Opus (web): 41 93 78 70.67
        GPT-4V: 3 3 3 3
        GPT-4o: 6 8 5 6.33
        Gemini-Pro Vision: 20 9 22 17
        Gemini-Pro 1.5: 25 28 35 29.33
        Claude 3 Opus: 11 43 50 34.67
        Claude 3 Sonnet: 39 65 61 55
        Claude 3 Haiku: 27 58 63 49.33
        Reka: 11 21 18 16.67
        IDEFICS-9b: 17 9 15 13.67
        Qwen-VL-Chat: 16 13 36 21.67
        InternLM-XComposer2-7b: 14 11 28 17.67
        InstructBLIP-7b: 21 23 3 15.67
        MiniCPM-V 2.0: 16 11 10 12.34
        MiniCPM-Llama3-V 2.5: 8 5 5 6
        LLaVA-1.5-7b: 18 10 9 12.33
        LLaVA-1.5-13b: 9 9 11 9.67
        mPLUG-Owl2: 11 7 12 10
    """),
)
MOSSBENCH_PEOPLE = (
    f"{_MOSSBENCH}, main results, judged by people",
    (*_KINDS, "refusal rate"),
    _rows("""
        GPT-4o (web): 2 3 1 2
        Gemini Advanced (web): 45 65 78 63.67
        Claude 3 Opus (web): 46 95 88 76.33
        GPT-4V: 1 3 2 2
        GPT-4o: 14 8 2 8
        Gemini-Pro Vision: 10 8 16 11.33
        Gemini-Pro 1.5: 30 31 43 34.67
        Claude 3 Opus: 4 44 44 30.67
        Claude 3 Sonnet: 56 76 64 65.33
        Claude 3 Haiku: 30 68 68 55.33
        Reka: 20 20 0 13.33
        IDEFICS-9b: 11 6 15 10.67
        Qwen-VL-Chat: 11 12 25 16
        InternLM-XComposer2-7b: 14 11 21 15.33
        InstructBLIP-7b: 17 20 3 13.33
        MiniCPM-V 2.0: 8 6 5 6.33
        MiniCPM-Llama3-V 2.5: 3 4 2 3
        LLaVA-1.5-7b: 10 4 6 6.67
        LLaVA-1.5-13b: 4 5 9 6
        mPLUG-Owl2: 2 0 0 0.67
    """),
)
MOSSBENCH_PROMPTS = (
    f"{_MOSSBENCH}, system prompts, Gemini-Pro 1.5 (helpfulness: its mean would be 24.7)",
    (*_KINDS, "refusal rate"),
    _rows("""
        none: 25 28 35 29.3
        helpfulness: 16 25 33 28.7
        scrutiny: 23 35 28 28.7
        safety: 38 43 55 45.3
    """),
)
MOSSBENCH_STAGES = (
    f"{_MOSSBENCH}, stages, of 10 refused requests of each type",
    (*_KINDS, "refusal rate"),
    _rows("""
        Claude 3 Opus, with description: 80 90 100 90
        Claude 3 Opus, with description and intent: 60 80 80 73.33
        Gemini-Pro 1.5, with description: 40 70 100 70
        Gemini-Pro 1.5, with description and intent: 30 60 80 56.67
    """),
)
# Which protocol of ours asks what a row of MOSSBENCH_PROMPTS has, and which figure of the protocol
# `stages` is held against what is behind the comma of a row of MOSSBENCH_STAGES.
PROMPTS = {"none": "paper", **{name: name for name in ("helpfulness", "scrutiny", "safety")}}
STAGES = {
    "with description": "refused with description",
    "with description and intent": "refused with intent",
}

# By the paper and the place in it.
WHOLE: dict[str, Published] = {
    "visualthinker table 3": VISUALTHINKER_3,
    "visualthinker table 4": VISUALTHINKER_4,
    "visualthinker table 5": VISUALTHINKER_5,
    "vlaa table 2": VLAA_2,
    "vlaa table 3": VLAA_3,
    "vlaa table 4": VLAA_4,
    "vlaa table 5": VLAA_5,
    "vlaa table 6": VLAA_6,
    "vlaa figure 3": VLAA_FIGURE_3,
    "vlaa figure 5": VLAA_FIGURE_5,
    "mossbench main results": MOSSBENCH_MODELS,
    "mossbench main results, people": MOSSBENCH_PEOPLE,
    "mossbench system prompts": MOSSBENCH_PROMPTS,
    "mossbench stages": MOSSBENCH_STAGES,
}


# Rows whose last figure is not the mean of the others, as it is said to be, and the mean.
CONTRADICTED = {
    ("vlaa table 3", "base, GRPO"): 30.3,
    ("vlaa table 3", "base, SFT then GRPO"): 25.07,
    ("vlaa table 4", "VLAA-Thinker-Qwen2-2B"): 20.63,
    ("vlaa table 4", "VLAA-Thinker-Qwen2-7B-Zero"): 30.3,
    ("mossbench main results, people", "Gemini Advanced (web)"): 62.67,
    ("mossbench system prompts", "helpfulness"): 24.67,
}


def columns_of(table: Published, wanted: dict[str, str]) -> Published:
    """Some columns of a table, by their names in it and the names they get."""
    title, columns, rows = table
    places = [columns.index(name) + 1 for name in wanted]
    return (
        title,
        tuple(wanted.values()),
        tuple((row[0], *(row[place] for place in places)) for row in rows),
    )


def _of_vlaa(column: str, *also: PaperRow) -> tuple[Published, ...]:
    """What VLAA-Thinking's tables have of one benchmark, and the vendor's figures."""
    tables = (VLAA_4, VLAA_3, VLAA_5, VLAA_6, VLAA_FIGURE_5)
    name = SIX[column][1]
    found = tuple(columns_of(table, {column: name}) for table in tables if column in table[1])
    return found + ((("the vendor's", (name,), also),) if also else ())


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


_CV_BENCH = {name: name for name in ("total", *_FOUR)}
_BLINK = {
    "BLINK depth": "Relative_Depth",
    "BLINK relation": "Spatial_Relation",
    "BLINK": "visualthinker",
}

TABLES: dict[str, tuple[Published, ...]] = {
    "cv_bench": (
        columns_of(VISUALTHINKER_3, _CV_BENCH),
        VISUALTHINKER_4,
        VISUALTHINKER_5,
        _GPG,
    ),
    "blink_spatial": (columns_of(VISUALTHINKER_3, _BLINK),),
    "vsr": (columns_of(VISUALTHINKER_3, {"VSR": "total"}),),
    "mathvista": _of_vlaa("MathVista", ("Qwen2-VL-2B", "43.0"), ("Qwen2-VL-7B", "58.2")),
    "mathvision": _of_vlaa("MathVision", ("Qwen2-VL-2B", "12.4"), ("Qwen2-VL-7B", "16.3")),
    "mathverse": _of_vlaa("MathVerse"),
    "dynamath": _of_vlaa("DynaMath"),
    "wemath": _of_vlaa("WeMath"),
    "logicvista": _of_vlaa("LogicVista"),
    "mmmu": (
        (
            "the vendor's",
            ("val",),
            _rows("""
                Qwen2-VL-2B: 41.1
                Qwen2-VL-7B: 54.1
                Qwen2.5-VL-3B: 53.1
                Qwen2.5-VL-7B: 58.6
            """),
        ),
    ),
    "mossbench": (MOSSBENCH_MODELS, MOSSBENCH_PEOPLE, MOSSBENCH_PROMPTS, MOSSBENCH_STAGES),
}
