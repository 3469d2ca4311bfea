# SPDX-License-Identifier: Apache-2.0
"""Figures of benchmarks during a run: what is of nothing is absent."""

import math
import types

import pytest

from jaxvl.errors import UserError
from jaxvl.train.benchmarks import figures


def refuses(scored):
    raise UserError("these items are not all")


def reply(text, finish_reason="stop", tokens=3):
    return types.SimpleNamespace(
        item=text, text=text, finish_reason=finish_reason, tokens=tokens, sample=0
    )


@pytest.mark.parametrize(
    ("replies", "metric", "expected"),
    [
        ([], lambda scored: math.nan, {}),
        ([], lambda scored: None, {}),
        ([reply("a")], lambda scored: math.nan, {}),
        ([reply("a")], refuses, {}),
        ([reply("a")], lambda scored: None, {}),
        ([reply("a"), reply("b")], lambda scored: 0.25, {"own_lenient": 0.25}),
    ],
)
def test_a_figure_of_nothing_is_absent(replies, metric, expected):
    mark = types.SimpleNamespace(value=1.0)
    benchmark = types.SimpleNamespace(
        name="toy", mark=lambda item, text, mode: types.SimpleNamespace(mark=mark, value=1.0),
        modes=("strict", "lenient"), metrics={"own": metric, "accuracy": lambda scored: math.nan},
    )  # fmt: skip
    found = figures(types.SimpleNamespace(benchmark=benchmark), replies)
    every = (
        ("accuracy_lenient", "accuracy_strict", "format", "truncated", "length") if replies else ()
    )
    assert found.keys() == {f"eval/toy/{name}" for name in (*every, *expected)}
    assert all(map(math.isfinite, found.values()))
