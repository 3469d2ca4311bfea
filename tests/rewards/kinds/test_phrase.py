# SPDX-License-Identifier: Apache-2.0
"""Words are equal as a whole, case, spaces and punctuation aside."""

import pytest

from jaxvl.rewards import verify

# (answer, gold, reward)
TABLE = [
    ("right", "right", 1),
    ("Right.", "right", 1),
    ("  to   the\nright ", "To the right", 1),
    ("ice-cream", "ice cream", 1),
    ("don't", "don\u2019t", 1),
    ("Straße", "STRASSE", 1),
    ("café", "cafe\u0301", 1),
    ("ｒｉｇｈｔ", "right", 1),
    ("3.5", "3.5", 1),
    ("$12", "$12", 1),
    ("**right**", "right", 1),
    ("\\text{right}", "right", 1),
    ("?!", "?!", 1),
    ("upright", "right", 0),
    ("right or left", "right", 0),
    ("right", "to the right", 0),
    ("3.5", "35", 0),
    ("-2", "2", 0),
    ("1/2", "12", 0),
    ("50%", "50", 0),
    ("?!", "right", 0),
    ("", "right", 0),
    ("cafe", "café", 0),
]


@pytest.mark.parametrize(("answer", "gold", "reward"), TABLE)
def test_table(answer, gold, reward):
    text = f"<think>right</think><answer>{answer}</answer>"
    assert verify("text", text, gold).reward == reward
