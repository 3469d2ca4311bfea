# SPDX-License-Identifier: Apache-2.0
"""BLINK (arXiv 2404.12390), the three subsets that VisualThinker-R1-Zero names: relative depth,
spatial relation and multi-view reasoning, of the validation split (the test answers are hidden).

As published: BLINK-Benchmark/BLINK (a folder of parquet a subset) and VLMEvalKit's BLINK.tsv.
"""

from __future__ import annotations

from pathlib import Path

from jaxvl.data.example import Dropped, FilteredRow
from jaxvl.eval.benchmark import BenchmarkSpec, Item
from jaxvl.eval.scoring import figures, formats, marks, protocols
from jaxvl.eval.scoring.formats import Row
from jaxvl.eval.scoring.protocols import KIT, LMMS, QWEN

SUBSETS = ("Relative_Depth", "Spatial_Relation", "Multi-view_Reasoning")
_FILES = (tuple(f"{name}/val*.parquet" for name in SUBSETS), "val*.parquet", "BLINK.tsv")
_IMAGES = ("image", "image_1", "image_2", "image_3", "image_4")


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    return formats.collect(source, _FILES, lambda row: [_item(row, protocol)])


def _item(row: Row, protocol: str) -> Item:
    subset = row.text("sub_task", "category")
    if subset not in SUBSETS:
        raise FilteredRow("another subset", f"the subset is {subset}")
    question, choices = row.text("question"), row.choices("choices")
    kit = protocols.kit_choice(question, choices, row.word("hint"))
    own = row.word("prompt") or kit
    wordings = {
        KIT: kit,
        QWEN: protocols.qwen_choice(question, choices, row.word("hint")),
        LMMS: protocols.lmms_note(own, choices),
    }
    return Item(
        id=row.word("idx", "index") or f"{subset}-{row.number}",
        gold=formats.letter(row.text("answer"), choices),
        choices=choices,
        groups={"subset": subset},
        **protocols.asked(protocol, wordings, row.pictures(*_IMAGES)),
    )


BENCHMARK = BenchmarkSpec(
    name="blink_spatial",
    title="BLINK, spatial subsets",
    protocols=protocols.offered(KIT, QWEN, LMMS),
    read=read,
    mark=marks.by_kind,
    metrics={
        "accuracy": figures.accuracy,
        "macro": figures.macro("subset"),
        # VisualThinker's average: over the questions of two subsets.
        "visualthinker": figures.among("subset", *SUBSETS[:2]),
    },
)
