# SPDX-License-Identifier: Apache-2.0
"""Is the reward still measuring what it should? Numbers of a step that no reward can move, and a
warning when they part from it."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from einops import rearrange

from jaxvl.data import gold
from jaxvl.rewards import completion_text, extract
from jaxvl.rewards.columns import choices_of, rows_of
from jaxvl.rewards.kinds import number
from jaxvl.rewards.reasons import CRASH, REFUSED, TIMEOUT
from jaxvl.rewards.rules import judge_rows
from jaxvl.rewards.shaping import repeated

NGRAM, REPETITIVE = 4, 0.5  # a completion is repetitive where half of its 4-grams stood before
WINDOW = 20  # steps
_SHARES = {
    "audit/repetition": "repetitive completions",
    "audit/several_answers": "completions with several answer blocks",
}
# Metrics that are above 0 where a reward can pay: in how many steps in a row they are 0 before it
# is told, and what that means.
_NEVER = {
    "frac_live_rows": (
        5,
        "nothing could be learnt so far: all completions are masked (cut off ones are, by "
        "grpo.mask_truncated_completions), or the rewards of every group are equal",
    ),
    "boxes/in_frame": (
        1,
        "no box of the step lies in the frame that the reward reads boxes in; set its frames.model",
    ),
    "mixed/open/told_apart": (
        5,
        "the scorer gives every open answer the score of its reference, so none is worth anything; "
        "take one that grades",
    ),
}
NO_RESULT = (REFUSED, TIMEOUT, CRASH)

_BLOCK = re.compile(r"<answer>(?:(?!<answer>).)*?</answer>", re.DOTALL)
_KINDS = {"digit": "number", "mcq": "mcq", "math": "math"}


def examine(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What can be said of each of N completions from what their rewards were given, whatever the
    rewards are: columns of 1, 0 and NaN, where no rule applies, that `metrics` makes metrics of."""
    texts = [completion_text(item) for item in inputs["completions"]]
    rows = rows_of(inputs["columns"], len(texts))
    kinds = [kind_of(row) for row in rows]
    judged = [i for i, kind in enumerate(kinds) if kind]
    verdicts = judge_rows(
        [kinds[i] for i in judged],
        [texts[i] for i in judged],
        [rows[i] for i in judged],
        mode="lenient",
    )

    def of_judged(values: Sequence[bool]) -> np.ndarray:
        column_N = np.full(len(texts), np.nan)
        column_N[judged] = values
        return column_N

    columns = {"right": of_judged([verdict.reward == 1.0 for verdict in verdicts])}
    for reason in NO_RESULT:
        columns[reason] = of_judged([verdict.reason == reason for verdict in verdicts])
    valid = [bool(extract.blocks(extract.reply(text))) for text in texts]
    repeats = [repeated(ids, NGRAM) > REPETITIVE for ids in inputs["completion_ids"]]
    several = [len(_BLOCK.findall(text)) > 1 for text in texts]
    return columns | {
        "valid": np.array(valid),
        "repeats": np.array(repeats),
        "several": np.array(several),
    }


def metrics(
    columns: Mapping[str, np.ndarray], lengths_N: np.ndarray, group: int
) -> dict[str, float]:
    """Metrics of a step from the columns of `examine`, a prompt's completions side by side.

    audit/accuracy: share of right answers by `verify` in lenient mode, where a rule applies;
    audit/format: share with a valid answer block; audit/repetition: share that is repetitive;
    audit/several_answers: share with more than one answer block, equal ones too;
    audit/length_right and _wrong: mean tokens of both; audit/groups_right and _wrong: share of
    the judged groups with nothing but one of them; audit/refused, _timeout, _crash: shares of these
    comparisons that came to no result. What is of nothing is absent.
    """
    right_N = columns["right"]
    judged = ~np.isnan(right_N)
    # A rule judges all of a prompt's completions or none.
    groups_PG = rearrange(right_N[judged], "(P G) -> P G", G=group)
    values = {
        "accuracy": right_N[judged],
        "format": columns["valid"],
        "repetition": columns["repeats"],
        "several_answers": columns["several"],
        "length_right": lengths_N[right_N == 1],
        "length_wrong": lengths_N[right_N == 0],
        "groups_right": (groups_PG == 1).all(axis=1),
        "groups_wrong": (groups_PG == 0).all(axis=1),
        **{reason: columns[reason][judged] for reason in NO_RESULT},
    }
    return {f"audit/{name}": float(np.mean(of)) for name, of in values.items() if len(of)}


def kind_of(row: Mapping[str, Any]) -> str:
    """The kind by which a row's answer can be verified, "" for boxes and open questions.

    A declared `verifier_type` decides; else choices, and then the form of the answer.
    """
    declared = str(row.get("verifier_type") or "").lower()
    right = gold.of_row(row)
    if declared:
        return _KINDS.get(declared, "")
    if choices_of(row):
        return "mcq"
    if not isinstance(number.read(right), str):
        return "number"
    if not right or right.startswith("["):
        return ""
    return "math" if set("\\=^$") & set(right) else "text"


class Watch:
    """Compares the last WINDOW steps with the WINDOW before them, and tells once of rewards that
    cannot pay."""

    def __init__(self):
        self.seen: deque[Mapping[str, float]] = deque(maxlen=2 * WINDOW)
        self.quiet_until = 0
        # steps in a row in which a metric was 0
        self.silent: dict[str, float] = dict.fromkeys(_NEVER, 0)

    def see(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """Warnings after a step; after one that compares windows there is none for WINDOW steps."""
        return self._cannot_pay(step, metrics) + self._drifts(step, metrics)

    def _cannot_pay(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """Of metrics that were 0 in as many steps as `_NEVER` says, each told once."""
        told = []
        for name, (steps, text) in _NEVER.items():
            if name not in metrics:
                continue
            self.silent[name] += 1 if metrics[name] == 0 else -math.inf
            if self.silent[name] == steps:
                told.append(f"warning, step {step}: {text} ({name} is 0)")
        return told

    def _drifts(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        self.seen.append(metrics)
        if len(self.seen) < 2 * WINDOW or step < self.quiet_until:
            return []
        warnings = []
        reward, accuracy = self._change("reward"), self._change("audit/accuracy")
        if reward and accuracy and reward[2] > 4 and accuracy[2] < 1:
            warnings.append(
                f"reward rose from {reward[0]:.3f} to {reward[1]:.3f} while accuracy went from "
                f"{accuracy[0]:.3f} to {accuracy[1]:.3f}"
            )
        for name, what in _SHARES.items():
            share = self._change(name)
            if share and share[2] > 4 and share[1] - share[0] > 0.1:
                warnings.append(f"the share of {what} rose from {share[0]:.2f} to {share[1]:.2f}")
        if warnings:
            self.quiet_until = step + WINDOW
        since = f"warning, steps {step - 2 * WINDOW + 1} to {step}: "
        advice = f"; the model may be gaming a reward, look at rollouts/step_{step}.jsonl"
        return [since + warning + advice for warning in warnings]

    def _change(self, name: str) -> tuple[float, float, float] | None:
        """Mean of the earlier and of the later window, and their difference in standard errors.

        None where a step lacks the metric.
        """
        values = np.array([line.get(name, math.nan) for line in self.seen], float)
        if not np.isfinite(values).all():
            return None
        early, late = values[:WINDOW], values[WINDOW:]
        error = math.sqrt((early.var(ddof=1) + late.var(ddof=1)) / WINDOW)
        rise = late.mean() - early.mean()
        return early.mean(), late.mean(), rise / max(error, 1e-9)
