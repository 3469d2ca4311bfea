# SPDX-License-Identifier: Apache-2.0
"""Real rows, where there are some: JAXVL_BENCHMARK_DATA names a folder with `mathvision`
(test.jsonl and images) and `dynamath` (trial1, trial2, .. of its repository)."""

import importlib.util
import os
from pathlib import Path

import pytest

from jaxvl.data.image import load_image
from jaxvl.eval.benchmarks import dynamath, mathvision

DATA = Path(os.environ.get("JAXVL_BENCHMARK_DATA") or "/nowhere")


ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("name", "module"), [("mathvision", mathvision), ("dynamath", dynamath)])
def test_real_rows_are_read_and_their_golds_are_right(name, module):
    if not (DATA / name).is_dir():
        pytest.skip(f"JAXVL_BENCHMARK_DATA has no folder {name}")
    it = module.BENCHMARK
    items, dropped = it.read(DATA / name, next(iter(it.protocols)))
    assert items and not dropped
    assert all(load_image(image).width > 0 for item in items for image in item.images)
    wrong = [
        (item.id, item.gold)
        for item in items
        if it.mark(item, f"<think>..</think><answer>{item.gold}</answer>", "strict").value != 1
    ]
    assert wrong == []
    unset = [item.id for item in items if item.kind == "mcq" and not item.choices]
    assert unset == []
    if name == "dynamath":
        assert {item.groups["variant"] for item in items} >= {"1", "2"}
        assert 2 * len({item.cluster for item in items}) <= len(items)


def test_marks_agree_with_mathvisions_authors():
    files = sorted((DATA / "mathvision").glob("predictions-*.jsonl"))
    if not files:
        pytest.skip("JAXVL_BENCHMARK_DATA has no published replies in its folder mathvision")
    spec = importlib.util.spec_from_file_location(
        "agreement", ROOT / "scripts" / "mathvision_agreement.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    items, _ = mathvision.BENCHMARK.read(DATA / "mathvision", "vlmevalkit")
    for file in files:
        off = script.exceptions(file)
        rows = script.compare(file, {item.id: item for item in items}, off)
        agreed = sum((mark.value == 1) == verdict for _, _, mark, verdict in rows)
        assert len(off) <= 0.05 * len(items) and agreed >= 0.95 * len(rows) > 0
