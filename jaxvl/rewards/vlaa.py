# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking's mixed reward (arXiv 2504.11468, Sec. 4.1): five verifiers, one for each sample.

There is no separate reward for the format: where no valid answer can be extracted, every one of
the five gives 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxvl.data import gold
from jaxvl.errors import UserError
from jaxvl.rewards import completion_text, extract
from jaxvl.rewards.columns import rows_of
from jaxvl.rewards.judge import ChatJudge, OnFailure, Scorer, scored, settled, yes_or_no
from jaxvl.rewards.rules import Frames, judge_rows, log_in_frame, log_rates

VERIFIERS = ("digit", "mcq", "math", "iou", "open")

KINDS = {"digit": "number", "mcq": "mcq", "math": "math", "iou": "bbox"}
_ALIASES = {"bbox": "iou", "open-ended": "open", "open_ended": "open"}
# By the folder of a sample's image, which is how the released files name their sources.
_SOURCES = {
    "clevr_math": "digit",
    "geoqa170k": "mcq",
    "arxivqa": "mcq",
    "synthesis": "math",
    "coco": "iou",
    "vg": "iou",
    "docvqa": "open",
    "vizwiz": "open",
    "allava_laion": "open",
}


def verifier_of(row: Mapping[str, Any]) -> str:
    """Which of VERIFIERS a row asks for: by its `verifier_type`, else by its `source`.

    UserError where it names neither or an unknown one. For use when data is loaded.
    """
    where = f"row {row.get('id', '?')}"
    kind, source = row.get("verifier_type"), row.get("source")
    if kind:
        known = str(kind).strip().lower()
        known = _ALIASES.get(known, known)
        if known not in VERIFIERS:
            raise UserError(
                f"{where}: verifier_type is {kind!r}; expected one of {', '.join(VERIFIERS)}"
            )
        return known
    folder = str(source or "").strip().lower().split("/")[0]
    if folder not in _SOURCES:
        raise UserError(
            f"{where}: no `verifier_type`, and source is {source!r}; expected one of "
            f"{', '.join(_SOURCES)}"
        )
    return _SOURCES[folder]


@dataclasses.dataclass(frozen=True)
class Weights:
    """What the reward of each verifier is multiplied by. A prompt's completions are all of one
    verifier, so that a weight cancels where advantages are scaled by their own group's deviation
    (grpo.scale_rewards=group); take "batch" or "none"."""

    digit: float = 1.0
    mcq: float = 1.0
    math: float = 1.0
    iou: float = 1.0
    open: float = 1.0


@dataclasses.dataclass
class Mixed:
    """The reward function. `only` leaves out verifiers, for ablations: rows of the others get None,
    so leave those rows out of the data or give them another reward. `weights` are by verifier.

    Open-ended rows need a `scorer` S: with the gold answer as reference,

        R = 1 - exp(-beta (S(answer) - S(reference)))  where S(answer) > S(reference), else 0

    The paper does not give its beta. The scorer is not shown the reference, and has to grade: one
    that says yes or no says yes to the reference too, and then no answer is worth anything
    (`judge.graded`). References are scored once. What happens where the scorer fails is
    `on_failure`: "fail" the run, "mask" the completion, or a fixed reward. `frames` says in which
    units boxes are, see `Frames`.
    """

    scorer: Scorer | None = None
    beta: float = 1.0
    only: tuple[str, ...] = VERIFIERS
    frames: Frames = Frames()
    on_failure: OnFailure = "fail"
    weights: Weights = Weights()
    _references: dict[tuple, float] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self):
        unknown = set(self.only) - set(VERIFIERS)
        if unknown or not self.only:
            raise UserError(f"Mixed.only is {self.only}; expected some of {', '.join(VERIFIERS)}")
        if isinstance(self.scorer, ChatJudge) and self.scorer.parse is yes_or_no:
            raise UserError(
                "Mixed.scorer is a judge that says yes or no: it says yes to the reference too, "
                "and every right answer would get 0; take jaxvl.rewards.judge.graded(..)"
            )
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise UserError(f"Mixed.beta is {self.beta}; expected a positive number")
        for kind, weight in dataclasses.asdict(self.weights).items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise UserError(f"Mixed.weights.{kind} is {weight}; expected a number of 0 or more")

    def __call__(
        self,
        /,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Sequence[Any],
    ) -> list[Any]:
        """A reward in [0, 1], times its weight, for each completion; None for rows of other
        verifiers. Logs what it is made of (`_log`).

        Columns: `answer`, `verifier_type` or `source`; `choices`, `image_sizes` and
        `processed_sizes` where there are any; `images`, `question` and `id` for a scorer.
        """
        rows = rows_of(columns, len(completions))
        kinds = [verifier_of(row) for row in rows]
        rewards: list[Any] = [None] * len(completions)
        ruled = [i for i, kind in enumerate(kinds) if kind in self.only and kind != "open"]
        verdicts = judge_rows(
            [KINDS[kinds[i]] for i in ruled],
            [completions[i] for i in ruled],
            [rows[i] for i in ruled],
            frames=self.frames,
        )
        log_rates(verdicts, log_metric)
        boxes = [number for number, i in enumerate(ruled) if kinds[i] == "iou"]
        found = [verdicts[number] for number in boxes]
        log_in_frame(found, [rows[ruled[number]] for number in boxes], self.frames, log_metric)
        for i, verdict in zip(ruled, verdicts, strict=True):
            rewards[i] = verdict.reward
        asked = [i for i, kind in enumerate(kinds) if kind == "open" and "open" in self.only]
        answers = [extract.single(completion_text(completions[i])) for i in asked]
        values = self._open([rows[i] for i in asked], answers, log_metric)
        for i, value in zip(asked, values, strict=True):
            rewards[i] = value
        self._log(kinds, rewards, log_metric)
        return [
            getattr(self.weights, kind) * value if isinstance(value, float) else value
            for kind, value in zip(kinds, rewards, strict=True)
        ]

    def _log(
        self,
        kinds: Sequence[str],
        rewards: Sequence[Any],
        log_metric: Callable[[str, float], None] | None,
    ) -> None:
        """For each verifier in `only`: mixed/<kind>/reward, the mean before its weight;
        mixed/<kind>/share, of all completions; mixed/<kind>/count, how many. Beside these stands
        mixed/open/told_apart, the share of open answers whose score is not their reference's."""
        if log_metric is None:
            return
        for kind in self.only:
            for found, value in zip(kinds, rewards, strict=True):
                log_metric(f"mixed/{kind}/share", float(found == kind))
                log_metric(f"mixed/{kind}/count", float(found == kind))
                if found == kind and isinstance(value, float):  # else masked
                    log_metric(f"mixed/{kind}/reward", value)

    def _open(
        self,
        rows: list[Mapping[str, Any]],
        answers: list[str],
        log_metric: Callable[[str, float], None] | None,
    ) -> list[Any]:
        """Rewards of answers to open questions; 0, without a look, for one that is empty."""
        if not rows:
            return []
        if self.scorer is None:
            raise UserError(
                f"row {rows[0].get('id', '?')} is open-ended: give Mixed a scorer, or leave such "
                f"rows out (only={tuple(name for name in self.only if name != 'open')})"
            )
        answered = [(row, answer) for row, answer in zip(rows, answers, strict=True) if answer]
        references = self._scored_references(self.scorer, [row for row, _ in answered])
        scores = scored(self.scorer, *_columns(answered), self.on_failure)
        for score, reference in zip(scores, references, strict=True):
            if log_metric and score is not None and reference is not None:
                log_metric("mixed/open/told_apart", float(score != reference))
        gains = [
            None if score is None or reference is None else open_reward(score, reference, self.beta)
            for score, reference in zip(scores, references, strict=True)
        ]
        settled_ = iter(settled(gains, self.on_failure, self.scorer, log_metric))
        return [next(settled_) if answer else 0.0 for answer in answers]

    def _scored_references(
        self, scorer: Scorer, rows: list[Mapping[str, Any]]
    ) -> list[float | None]:
        """S(reference) of each row; asked for once and kept."""
        keys = [(row.get("id"), row.get("question"), gold.of_row(row)) for row in rows]
        new = {key: (row, key[2]) for key, row in zip(keys, rows, strict=True)}
        new = {key: pair for key, pair in new.items() if key not in self._references}
        values = scored(scorer, *_columns(list(new.values())), self.on_failure)
        for key, value in zip(new, values, strict=True):
            if value is not None:
                self._references[key] = value
        return [self._references.get(key) for key in keys]


def _columns(pairs: list[tuple[Mapping[str, Any], str]]) -> tuple[list[Any], list[str]]:
    return [row for row, _ in pairs], [text for _, text in pairs]


def open_reward(score: float, reference: float, beta: float) -> float:
    """1 - exp(-beta (score - reference)) where that is above 0, else 0; in [0, 1], no overflow."""
    return -math.expm1(-min(beta * max(0.0, score - reference), 700.0))
