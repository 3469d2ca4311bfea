# SPDX-License-Identifier: Apache-2.0
"""Figures of benchmarks during a run: what is of nothing is absent."""

import dataclasses
import gc
import math
import types
import weakref

import jax
import jax.numpy as jnp
import pytest

from jaxvl.config import Benchmark, Benchmarks
from jaxvl.errors import UserError
from jaxvl.train.benchmarks import During, figures


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


def test_a_later_model_needs_no_new_programs_and_the_earlier_one_is_let_go(vlm, tmp_path, caplog):
    during = During(Benchmarks((Benchmark("smoke", limit=2),), max_new_tokens=4, batch=2), tmp_path)
    first = dataclasses.replace(vlm, params=jax.tree.map(jnp.copy, vlm.params))
    during.evaluate(1, first, {})
    table = weakref.ref(jax.tree.leaves(first.params)[0])
    del first
    with jax.log_compiles():
        caplog.clear()
        during.evaluate(2, vlm, {})
    assert not [r for r in caplog.records if r.message.startswith("Compiling")]
    gc.collect()
    assert table() is None
