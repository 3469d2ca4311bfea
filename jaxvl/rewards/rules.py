# SPDX-License-Identifier: Apache-2.0
"""Rewards by rule: `verify` as a reward function, and boxes in declared frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxvl.data import gold
from jaxvl.errors import UserError
from jaxvl.rewards import completion_text, pool
from jaxvl.rewards.columns import choices_of, rows_of
from jaxvl.rewards.kinds import box
from jaxvl.rewards.reasons import BAD_GOLD, CRASH, MATCH, MISMATCH, NO_ANSWER, REFUSED, TIMEOUT
from jaxvl.rewards.verdict import Verdict, verify

FAMILY = "family"


@dataclasses.dataclass(frozen=True)
class Frames:
    """In which frame the model writes a box and in which the dataset does: "unit" (0 to 1),
    "thousand" (0 to 1000, Qwen2-VL), "processed" (pixels of the resized image, Qwen2.5-VL) or
    "original" (pixels of the file). The model's may be "family": what the model that a run trains
    was taught, which the run says in the column `box_frame`."""

    model: str = "unit"
    gold: str = "unit"

    def __post_init__(self):
        for frame, known in ((self.model, (*box.FRAMES, FAMILY)), (self.gold, box.FRAMES)):
            if frame not in known:
                raise UserError(f"box frame is {frame!r}; expected one of {', '.join(known)}")

    def of_row(self, row: Mapping[str, Any]) -> Frames:
        """These with the family's frame in place of its name."""
        if self.model != FAMILY:
            return self
        if row.get("box_frame") not in box.FRAMES:
            raise UserError(
                f"row {row.get('id', '?')}: the model's family, and so the frame of its boxes, is "
                f"not known here; set frames.model to one of {', '.join(box.FRAMES)}"
            )
        return dataclasses.replace(self, model=row["box_frame"])


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
    """The reward of `verify` for each completion, against the columns `answer` (or, where a row has
    none, `solution`) and `choices`.

    `kind`, `mode` and `frames` are set with `functools.partial`. Logs the shares of `log_rates`.
    """
    count = len(completions)
    verdicts = judge_rows([kind] * count, completions, rows_of(columns, count), mode, frames)
    log_rates(verdicts, log_metric)
    if kind == "bbox":
        log_in_frame(verdicts, rows_of(columns, count), frames, log_metric)
    return [verdict.reward for verdict in verdicts]


def judge_rows(
    kinds: Sequence[str],
    completions: Sequence[Any],
    rows: Sequence[Mapping[str, Any]],
    mode: str = "strict",
    frames: Frames = Frames(),
) -> list[Verdict]:
    """`verify` on each completion by its row's gold and `choices`, several at a time."""

    def judge(kind: str, completion: Any, row: Mapping[str, Any]) -> Verdict:
        right = gold.of_row(row)
        if not right:
            return Verdict(0.0, "", "", BAD_GOLD)
        verdict = verify(kind, completion_text(completion), right, choices_of(row), mode)
        if kind != "bbox" or not verdict.canonical:
            return verdict
        own = frames.of_row(row)
        return verdict if own.model == own.gold else _in_gold_frame(verdict, row, own)

    asks = [kind == "math" for kind in kinds]  # a worker
    return pool.map_threads(judge, kinds, completions, rows, where=asks)


def _in_gold_frame(verdict: Verdict, row: Mapping[str, Any], frames: Frames) -> Verdict:
    """The verdict on a box, with the answer brought into the gold's frame first."""
    sizes = {"original": row.get("image_sizes"), "processed": row.get("processed_sizes")}
    for frame in (frames.model, frames.gold):
        if frame in sizes and len(sizes[frame] or ()) != 1:
            raise UserError(
                f"row {row.get('id', '?')}: a box in the frame {frame!r} needs one picture, found "
                f"{len(sizes[frame] or ())}"
            )
    original, processed = (tuple(of[0]) if of else None for of in sizes.values())
    found, right = box.read(verdict.canonical), box.read(gold.of_row(row))
    assert not isinstance(found, str) and not isinstance(right, str)  # the verdict is on boxes
    value = box.iou(box.convert(found, frames.model, frames.gold, original, processed), right)
    return dataclasses.replace(verdict, reward=value, reason=MATCH if value > 0 else MISMATCH)


def log_in_frame(
    verdicts: Sequence[Verdict],
    rows: Sequence[Mapping[str, Any]],
    frames: Frames,
    log_metric: Callable[[str, float], None] | None,
) -> None:
    """Of the boxes that were found, the share that lies within the sides of the model's frame, as
    the metric boxes/in_frame: where it is 0 the model writes in another frame than is declared."""
    if log_metric is None:
        return
    for verdict, row in zip(verdicts, rows, strict=True):
        found = box.read(verdict.canonical) if verdict.canonical else ""
        if not isinstance(found, str):
            frame = frames.of_row(row).model
            sizes = row.get("image_sizes" if frame == "original" else "processed_sizes")
            size = tuple(sizes[0]) if sizes else None
            inside = box.within(found, frame, size)
            log_metric("boxes/in_frame", float(inside))


def log_rates(verdicts: Sequence[Verdict], log_metric: Callable[[str, float], None] | None) -> None:
    """Of the comparisons that rewards made, the shares that came to no result, as the metrics
    verify/no_answer, verify/refused, verify/timeout, verify/crash and verify/bad_gold."""
    if log_metric is None:
        return
    for verdict in verdicts:  # a number each: shares are then of all functions and processes
        for reason in (NO_ANSWER, REFUSED, TIMEOUT, CRASH, BAD_GOLD):
            log_metric(f"verify/{reason}", float(verdict.reason == reason))
