# SPDX-License-Identifier: Apache-2.0
"""Rewards by rule: `verify` as a reward function, and boxes in declared frames."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from jaxvl.errors import UserError
from jaxvl.rewards import completion_text, pool
from jaxvl.rewards.kinds import box
from jaxvl.rewards.verdict import (
    CRASH,
    MATCH,
    MISMATCH,
    NO_ANSWER,
    REFUSED,
    TIMEOUT,
    Verdict,
    verify,
)

Size = tuple[int, int]  # width, height


@dataclasses.dataclass(frozen=True)
class Frames:
    """In which frame the model writes a box and in which the dataset does: "unit" (0 to 1),
    "thousand" (0 to 1000, Qwen2-VL), "processed" (pixels of the resized picture, Qwen2.5-VL) or
    "original" (pixels of the file)."""

    model: str = "unit"
    gold: str = "unit"

    def __post_init__(self):
        for frame in (self.model, self.gold):
            if frame not in box.FRAMES:
                raise UserError(f"box frame is {frame!r}; expected one of {', '.join(box.FRAMES)}")


def verified(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    *,
    kind: str,
    mode: str = "strict",
    frames: Frames = Frames(),
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Sequence[Any],
) -> list[float]:
    """The reward of `verify` for each completion, against the columns `answer` and `choices`.

    `kind`, `mode` and `frames` are set with `functools.partial`. Logs the shares of completions
    without an answer, refused, timed out and crashed.
    """
    count = len(completions)
    rows = (
        [kind] * count,
        completions,
        columns["answer"],
        columns.get("choices") or [()] * count,
        [mode] * count,
        [frames] * count,
        columns.get("image_sizes") or [()] * count,
        columns.get("processed_sizes") or [()] * count,
    )
    verdicts = pool.map_threads(judge_row, *rows)
    log_rates(verdicts, log_metric)
    return [verdict.reward for verdict in verdicts]


def judge_row(
    kind: str,
    completion: Any,
    gold: Any,
    choices: Sequence[str],
    mode: str = "strict",
    frames: Frames = Frames(),
    image_sizes: Sequence[Size] = (),
    processed_sizes: Sequence[Size] = (),
) -> Verdict:
    """`verify`, with the answer's box brought into the gold's frame first where they differ."""
    verdict = verify(kind, completion_text(completion), gold, choices or None, mode)
    if kind != "bbox" or frames.model == frames.gold or not verdict.canonical:
        return verdict
    sizes = {"original": image_sizes, "processed": processed_sizes}
    for frame in (frames.model, frames.gold):
        if frame in sizes and len(sizes[frame]) != 1:
            raise UserError(
                f"a box in the frame {frame!r} needs one picture, found {len(sizes[frame])}"
            )
    found, right = box.read(verdict.canonical), box.read(str(gold))
    original, processed = (
        tuple(size[0]) if size else None for size in (image_sizes, processed_sizes)
    )
    value = box.iou(box.convert(found, frames.model, frames.gold, original, processed), right)
    reason = MATCH if value > 0 else MISMATCH
    return dataclasses.replace(verdict, reward=value, reason=reason)


def log_rates(verdicts: Sequence[Verdict], log_metric: Callable[[str, float], None] | None) -> None:
    """The shares of verdicts that came to no comparison, as metrics."""
    if log_metric is None or not verdicts:
        return
    reasons = Counter(verdict.reason for verdict in verdicts)
    for reason in (NO_ANSWER, REFUSED, TIMEOUT, CRASH):
        log_metric(f"verify/{reason}", reasons[reason] / len(verdicts))
