# SPDX-License-Identifier: Apache-2.0
"""Replies of known worth: golds in many forms, golds of other questions, and nothing at all."""

import dataclasses
import random

import pytest

from tests.eval.benchmarks import published
from tests.eval.benchmarks.test_readers import EVERY, benchmark, read

TAGGED = (
    "<answer>{}</answer>",
    "<think>Is it one or the other? It is.</think>\n<answer>\n\n{}\n\n</answer>",
    "<answer>\\boxed{{{}}}</answer>",
    "<answer>**{}**</answer>",
    "<answer>The answer is {}.</answer>",
    "First I look.</think> <answer> ${}$ </answer><|im_end|>",
)
UNTAGGED = (
    "{}",
    "I look at the picture.\nSo the answer is {}.",
    "It follows that \\boxed{{{}}}",
    "**{}**",
    "I look.\n\nAnswer: {}",
    "<think>One or the other?</think>\n{}",
)


def forms(item):
    """The ways in which the gold of an item is said."""
    yield item.gold
    if item.kind == "mcq" and len(item.gold) == 1 and item.gold.isalpha():
        yield f"({item.gold})"
        if item.choices:
            text = item.choices["ABCDEFGHIJ".index(item.gold)]
            yield f"{item.gold}. {text}"
            if item.choices.count(text) == 1 and text not in "ABCDEFGHIJ":
                yield text


@pytest.mark.parametrize(("name", "layout"), EVERY, ids=" ".join)
def test_golds_are_right_however_they_are_said(name, layout, tmp_path):
    items, _ = read(name, layout, tmp_path)
    it = benchmark(name)
    wrong = [
        (item.id, said, mode)
        for item in items
        for form in forms(item)
        for mode, ways in (("strict", TAGGED), ("lenient", TAGGED + UNTAGGED))
        for said in (way.format(form) for way in ways)
        if it.mark(item, said, mode).value != 1
    ]
    assert wrong == []


@pytest.mark.parametrize("name", published.LAYOUTS)
def test_golds_of_other_questions_score_chance(name, tmp_path):
    layout = next(iter(published.LAYOUTS[name]))
    items, _ = read(name, layout, tmp_path)
    it, draw = benchmark(name), random.Random(0)
    for k in sorted({len(item.choices) for item in items if item.choices}):
        one = next(item for item in items if len(item.choices) == k)
        golds = list("ABCDEFGH"[:k]) if one.kind == "mcq" else list(one.choices)
        many = [dataclasses.replace(one, gold=draw.choice(golds)) for _ in range(800)]
        shuffled = [item.gold for item in many]
        draw.shuffle(shuffled)
        hits = sum(
            it.mark(item, f"<answer>{gold}</answer>", "strict").value
            for item, gold in zip(many, shuffled, strict=True)
        )
        # four standard deviations of a share of 800 that is 1/k
        assert abs(hits / 800 - 1 / k) < 4 * (1 / k * (1 - 1 / k) / 800) ** 0.5
    free = [item for item in items if not item.choices]
    for item in free:
        others = {other.gold for other in free if other.kind == item.kind} - {item.gold}
        assert all(it.mark(item, f"<answer>{x}</answer>", "strict").value == 0 for x in others)


EMPTY = ("", " \n", "<answer></answer>", "<think>hm</think>", "<answer> </answer>", "...")


@pytest.mark.parametrize("name", published.LAYOUTS)
def test_nothing_is_worth_nothing(name, tmp_path):
    items, _ = read(name, next(iter(published.LAYOUTS[name])), tmp_path)
    it = benchmark(name)
    marks = [
        it.mark(item, reply, mode)
        for item in items
        for reply in EMPTY
        for mode in ("strict", "lenient")
    ]
    assert {mark.value for mark in marks} == {0.0}
    assert {mark.canonical for mark in marks} <= {"", "..."}


def test_a_gold_that_cannot_be_verified_against_is_nobodys_fault(tmp_path):
    row = published.verse_row(7, "Domain: $[0, 3]$, Range: $[2, 11]$ where x is real")
    published.parquet(tmp_path / "testmini.parquet", [row])
    (item,), _ = benchmark("mathverse").read(tmp_path, "vlmevalkit")
    for reply in ("", "<answer>anything</answer>", f"<answer>{item.gold}</answer>"):
        assert benchmark("mathverse").mark(item, reply, "strict").value is None
    metric = benchmark("mathverse").metrics["accuracy"]
    from jaxvl.eval.benchmark import Grade, Scored

    assert metric([Scored(item, 0, Grade(None)), Scored(item, 1, Grade(1.0))]) == 0.5
