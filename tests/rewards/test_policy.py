# SPDX-License-Identifier: Apache-2.0
"""The verdict on every example of the table of policy, and the table itself."""

import importlib.util
from pathlib import Path

import pytest

from jaxvl.rewards import verify
from tests.rewards import policy

ROOT = Path(__file__).parents[2]
CASES = list(policy.cases())


@pytest.mark.parametrize("number", range(len(policy.POLICY)))
def test_every_example_gets_its_row_s_verdict(number):
    row = policy.POLICY[number]
    for of, answer, gold, choices, text, mode in CASES:
        if of is row:
            verdict = verify(row.kind, text, gold, choices, mode)
            assert verdict.reward == float(row.credited), (row.form, answer, gold, verdict)


def test_the_page_shows_the_table_that_the_rows_give():
    spec = importlib.util.spec_from_file_location("table", ROOT / "scripts" / "policy_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    doc = script.DOC.read_text(encoding="utf-8")
    assert script.updated(doc) == doc, "run `python scripts/policy_table.py`"
    assert doc.count(script.BEGIN) == doc.count(script.END) == 1
