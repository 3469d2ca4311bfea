# SPDX-License-Identifier: Apache-2.0
"""What a run says of its updates: skipped ones, in a row, and gradients much above their median."""

import json
import math

import pytest

from jaxvl.train.guard import FEWEST, WINDOW, Guard


def stats(norm=1.0, skipped=False):
    loss = math.nan if skipped else 0.5
    return {"skipped": skipped, "loss": loss, "grad_norm": math.inf if skipped else norm}


@pytest.mark.parametrize(
    ("flags", "limit", "last"),
    [  # a step's updates each: 1 is skipped
        ([[1], [1], [1]], 3, (2, 0)),
        ([[1, 1, 1, 0]], 3, (0, 2)),  # all of a step's updates are done before they are seen
        ([[0, 1], [1, 1]], 3, (1, 1)),
        ([[1], [1], [0], [1], [1], [0]], 3, None),
        ([[0, 1, 0, 1, 0, 1]], 2, None),
        ([[1]], 1, (0, 0)),
        ([[1, 1], [0, 1], [1, 1, 1]], 4, (2, 2)),
    ],
)
def test_so_many_in_a_row_are_the_last(flags, limit, last):
    guard, found = Guard(limit, None), None
    for step, updates in enumerate(flags):
        for event in guard.see([stats(skipped=bool(flag)) for flag in updates]):
            if event.last:
                found = found or (step, event.update)
    assert found == last
    assert guard.skipped == sum(map(sum, flags))


@pytest.mark.parametrize(
    ("norms", "multiple", "told"),
    [
        ([1, 1, 1, 11], 10, 3),
        ([1, 1, 1, 9], 10, None),
        ([1, 1, 100], 10, None),  # too few for a median
        ([0, 0, 0, 5], 10, None),  # nothing was learnt in those
        ([5, 1, 3, 7, 2], 2, 3),
        ([1, 2, 3, 1e9], None, None),
        ([*[1.0] * WINDOW, *[8.0] * WINDOW, 70], 10, None),  # the median runs along
    ],
)
def test_a_norm_above_a_multiple_of_the_median_is_told(norms, multiple, told):
    guard = Guard(3, multiple)
    events = {i: guard.see([stats(float(x))]) for i, x in enumerate(norms)}
    assert [i for i, found in events.items() if found] == ([] if told is None else [told])
    assert not any(event.last for found in events.values() for event in found)
    assert FEWEST == 3


@pytest.mark.parametrize("after", range(1, 6))
def test_a_resumed_guard_goes_on(after):
    """Through JSON, as a checkpoint keeps it."""
    updates = [stats(x, x is None) for x in (1.0, None, 1.1, 0.9, None, None, 30.0, None)]
    updates = [stats(skipped=True) if u["skipped"] else u for u in updates]
    whole, first, second = Guard(3, 10), Guard(3, 10), Guard(3, 10)
    expected = [whole.see([u]) for u in updates]
    found = [first.see([u]) for u in updates[:after]]
    second.set_state(json.loads(json.dumps(first.get_state())))
    assert found + [second.see([u]) for u in updates[after:]] == expected
    assert second.skipped == whole.skipped == 4


def test_a_run_in_which_nothing_was_learnt_says_so():
    guard = Guard(3, None)
    assert guard.verdict() == ""
    guard.see([stats(0.0), stats(0.0)])
    assert "none of the run's 2 updates had anything to learn from" in guard.verdict()
    again = Guard(3, None)
    again.set_state(guard.get_state())
    again.see([stats(0.0)])
    assert "3 updates" in again.verdict()
    again.see([stats(1.0)])
    assert again.verdict() == ""
