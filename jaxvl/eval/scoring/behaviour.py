# SPDX-License-Identifier: Apache-2.0
"""How replies are, whether right or wrong: their length, repetition, words of reflection."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxvl.data.reflection import WORDS, whole
from jaxvl.eval.benchmark import Scored
from jaxvl.eval.engines.predictions import Line

_WHOLE = {name: re.compile("|".join(map(whole, listed))) for name, listed in WORDS.items()}
REPEATS, LONGEST = 20, 100


def words(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each paper's list the share of replies with one of its words: anywhere in the text, and
    as whole words; and the share with each, anywhere."""
    low = [text.lower() for text in texts]
    found = {}
    for name, listed in WORDS.items():
        each = {word: _share(word in text for text in low) for word in listed}
        found[name] = {
            "anywhere": _share(any(word in text for word in listed) for text in low),
            "whole": _share(bool(_WHOLE[name].search(text)) for text in low),
            "each": each,
        }
    return found


def repetitive(texts: Sequence[str]) -> float:
    """The share of replies that end in a loop: see `loops`."""
    return _share(map(loops, texts))


def loops(text: str) -> bool:
    """Whether the text ends in one piece of at most LONGEST characters, REPEATS times or more."""
    for size in range(1, min(LONGEST, len(text) // REPEATS) + 1):
        piece = text[-size:]
        if not piece.isspace() and text.endswith(piece * REPEATS):
            return True
    return False


def lengths(scored: Sequence[Scored], lines: Sequence[Line]) -> dict[str, Any]:
    """Tokens of all replies, of the right and of the wrong ones, of thinking and of the rest, of
    each group; and accuracy by tenths of the replies, the shortest first. {} where the lengths are
    unknown."""
    known = [
        (one, line) for one, line in zip(scored, lines, strict=True) if line["tokens"] is not None
    ]
    if not known:
        return {}
    halves: dict[bool, list[Line]] = {True: [], False: []}
    groups: dict[str, dict[str, list[Line]]] = {}
    for one, line in known:
        halves[(one.mark.value or 0.0) >= 0.5].append(line)
        for name, group in one.item.groups.items():
            groups.setdefault(name, {}).setdefault(group, []).append(line)
    thinking = [line for _, line in known if line["thinking"] is not None]
    return {
        "all": _of_replies([line for _, line in known]),
        "right": _of_replies(halves[True]),
        "wrong": _of_replies(halves[False]),
        "thinking": _spread([line["thinking"] for line in thinking]),
        "answer": _spread([line["tokens"] - line["thinking"] for line in thinking]),
        "groups": {
            name: {group: _of_replies(of[group]) for group in sorted(of)}
            for name, of in groups.items()
        },
        "tenths": _tenths([(line["tokens"], one.mark.value or 0.0) for one, line in known]),
    }


def _of_replies(lines: Sequence[Line]) -> dict[str, float] | None:
    """Their spread, and the share that the limit cut off."""
    found = _spread([line["tokens"] for line in lines])
    return found and found | {"cut": _share(line["finish_reason"] == "length" for line in lines)}


def _spread(counts: Sequence[int]) -> dict[str, float] | None:
    if not counts:
        return None
    median, p95 = np.percentile(counts, (50, 95))
    mean = float(np.mean(counts))
    return {"count": len(counts), "mean": mean, "median": float(median), "p95": float(p95)}


def _tenths(rows: Sequence[tuple[int, float]]) -> list[dict[str, float]]:
    """Replies of one length are in one part, which may take the place of several."""
    tokens = sorted(count for count, _ in rows)
    parts: dict[int, list[tuple[int, float]]] = {}
    for row in rows:
        parts.setdefault(bisect.bisect_left(tokens, row[0]) * 10 // len(rows), []).append(row)
    return [
        {
            "from": min(count for count, _ in part),
            "to": max(count for count, _ in part),
            "count": len(part),
            "accuracy": float(np.mean([value for _, value in part])),
        }
        for _, part in sorted(parts.items())
    ]


def _share(hits: Any) -> float:
    hits = list(hits)
    return sum(hits) / len(hits) if hits else 0.0
