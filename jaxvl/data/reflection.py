# SPDX-License-Identifier: Apache-2.0
"""Words of reflection: which they are, and where a text has them."""

from __future__ import annotations

import re

# Of VLAA-Thinking (arXiv 2504.11468, appendix) and of VisualThinker-R1-Zero (its authors, on their
# repository). The papers look for them anywhere, so that "again" is found in "against".
WORDS = {
    "VLAA-Thinking": (
        "wait",
        "again",
        "double-check",
        "hmm",
        "mistake",
        "alternatively",
        "check",
        "i should confirm",
    ),
    "VisualThinker": ("aha", "check", "possibl", "verify", "wait", "yet"),
}


def whole(word: str) -> str:
    """The pattern of a listed word as a whole word, for Python and JavaScript alike. "possibl" is
    none as it stands, and is for those that begin with it."""
    return rf"\b{re.escape(word)}{'[a-z]*' if word == 'possibl' else ''}\b"
