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

from jaxvl.errors import UserError
from jaxvl.rewards import completion_text, extract, pool
from jaxvl.rewards.judge import OnFailure, Scorer, scored, settled
from jaxvl.rewards.rules import Frames, judge_row, log_rates

VERIFIERS = ("digit", "mcq", "math", "iou", "open")

_KINDS = {"digit": "number", "mcq": "mcq", "math": "math", "iou": "bbox"}
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


@dataclasses.dataclass
class Mixed:
    """The reward function. `only` leaves out verifiers, for ablations: rows of the others get None,
    so leave those rows out of the data or give them another reward.

    Open-ended rows need a `scorer` S: with the gold answer as reference,

        R = 1 - exp(-beta (S(answer) - S(reference)))  where S(answer) > S(reference), else 0

    The paper does not give its beta. References are scored once. What happens where the scorer
    fails is `on_failure`: "fail" the run, "mask" the completion, or a fixed reward.
    """

    scorer: Scorer | None = None
    beta: float = 1.0
    only: tuple[str, ...] = VERIFIERS
    frames: Frames = Frames()
    on_failure: OnFailure = "fail"
    _references: dict[tuple, float] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self):
        unknown = set(self.only) - set(VERIFIERS)
        if unknown or not self.only:
            raise UserError(f"Mixed.only is {self.only}; expected some of {', '.join(VERIFIERS)}")
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise UserError(f"Mixed.beta is {self.beta}; expected a positive number")

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Sequence[Any],
    ) -> list[Any]:
        """A reward in [0, 1] for each completion, None for rows of other verifiers.

        Columns: `answer`, `verifier_type` or `source`; `choices`, `image_sizes` and
        `processed_sizes` where there are any; `images`, `question` and `id` for a scorer.
        """
        count = len(completions)
        rows = [{name: values[i] for name, values in columns.items()} for i in range(count)]
        kinds = [verifier_of(row) for row in rows]
        ruled = [i for i in range(count) if kinds[i] in self.only and kinds[i] != "open"]
        verdicts = pool.map_threads(
            lambda i: judge_row(
                _KINDS[kinds[i]],
                completions[i],
                rows[i]["answer"],
                rows[i].get("choices") or (),
                "strict",
                self.frames,
                rows[i].get("image_sizes") or (),
                rows[i].get("processed_sizes") or (),
            ),
            ruled,
        )
        log_rates(verdicts, log_metric)
        rewards: list[Any] = [None] * count
        for i, verdict in zip(ruled, verdicts, strict=True):
            rewards[i] = verdict.reward
        if "open" in self.only:
            asked = [i for i in range(count) if kinds[i] == "open"]
            answers = {i: single_answer(completions[i]) for i in asked}
            for i in asked:
                rewards[i] = 0.0
            answered = [i for i in asked if answers[i]]
            values = self._open(
                [rows[i] for i in answered], [answers[i] for i in answered], log_metric
            )
            for i, value in zip(answered, values, strict=True):
                rewards[i] = value
        return rewards

    def _open(
        self,
        rows: list[Mapping[str, Any]],
        answers: list[str],
        log_metric: Callable[[str, float], None] | None,
    ) -> list[Any]:
        """Rewards of answers to open questions."""
        if not rows:
            return []
        if self.scorer is None:
            raise UserError(
                f"row {rows[0].get('id', '?')} is open-ended: give Mixed a scorer, or leave such "
                f"rows out (only={tuple(name for name in self.only if name != 'open')})"
            )
        keys = [(row.get("id"), row.get("question"), str(row["answer"])) for row in rows]
        missing = {
            key: row for key, row in zip(keys, rows, strict=True) if key not in self._references
        }
        asked = [*rows, *missing.values()]
        texts = [*answers, *(str(row["answer"]) for row in missing.values())]
        values = scored(self.scorer, asked, texts, self.on_failure)
        for key, value in zip(missing, values[len(rows) :], strict=True):
            if value is not None:
                self._references[key] = value
        gains = [
            None
            if value is None or key not in self._references
            else open_reward(value, self._references[key], self.beta)
            for value, key in zip(values, keys, strict=False)
        ]
        return settled(gains, self.on_failure, "the open-ended scorer", log_metric)


def open_reward(score: float, reference: float, beta: float) -> float:
    """1 - exp(-beta (score - reference)) where that is above 0, else 0; in [0, 1], no overflow."""
    gain = beta * max(0.0, score - reference)
    return -math.expm1(-min(gain, 700.0))


def single_answer(completion: Any) -> str:
    """The content of the valid answer block of a completion, "" where there is none."""
    found = extract.blocks(extract.reply(completion_text(completion)))
    return found[0] if found and len(found) == 1 else ""
