# SPDX-License-Identifier: Apache-2.0
"""Real rows, where there are some: JAXVL_BENCHMARK_DATA names a folder with `mathvision`
(test.jsonl and images) and `dynamath` (trial1, trial2, .. of its repository)."""

import os
from pathlib import Path

import pytest

from jaxvl.data.image import load_image
from jaxvl.eval.benchmarks import dynamath, mathvision

DATA = Path(os.environ.get("JAXVL_BENCHMARK_DATA") or "/nowhere")


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
