# SPDX-License-Identifier: Apache-2.0
"""A few inputs of every target of `scripts/bench/fuzz.py`, the same in every run of the tests."""

import pytest

pytest.importorskip("hypothesis", reason="it makes the inputs")

from hypothesis import HealthCheck, given, settings

from scripts.bench.fuzz import TARGETS

COUNTS = {"config": 20, "rows": 15, "images": 40, "checkpoints": 3, "answers": 25, "endpoint": 25}


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_broken_is_a_message(name, tmp_path):
    check, parts = TARGETS[name](tmp_path)
    how = settings(
        max_examples=COUNTS[name],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    how(given(*parts)(check))()
