# SPDX-License-Identifier: Apache-2.0
"""MathVision's testmini: 304 of its problems. Published figures for small models are mostly of the
whole test set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxvl.data.example import Dropped
from jaxvl.eval.benchmark import Item
from jaxvl.eval.benchmarks import mathvision

_FILES = ("testmini-*.parquet", "testmini.parquet", "testmini.jsonl", "MathVision_MINI.tsv")


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `Benchmark`."""
    return mathvision.read_files(source, protocol, _FILES)


BENCHMARK = dataclasses.replace(
    mathvision.BENCHMARK, name="mathvision_mini", title="MathVision (testmini)", read=read
)
