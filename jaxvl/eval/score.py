# SPDX-License-Identifier: Apache-2.0
"""What a set of answers is worth: accuracy and format with intervals, beside guessing."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxvl.data.example import Example
from jaxvl.rewards.visualthinker import accuracy, think_format


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of `count` answers with its 95% interval; of none there is no share."""

    value: float | None
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(p: float, count: float) -> tuple[float, float]:
    """Wilson's 95% score interval of a proportion `p` seen in `count` independent trials."""
    z = 1.959964
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def rate(hits_QN: np.ndarray, counted_QN: np.ndarray | None = None) -> Rate:
    """The mean over N samples of each of Q questions, with a 95% interval that knows they are kin.

    Samples of one question are not independent, so Wilson's interval is taken for the number of
    independent samples that would give the standard error seen between questions (the linearised
    one of cluster samples), at most all of them. Where every sample agrees that error says nothing,
    and a question counts as one sample. Samples not `counted` are left out; without any the value
    is None and the interval [0, 1].
    """
    counted_QN = np.ones(hits_QN.shape, bool) if counted_QN is None else counted_QN
    count_Q = counted_QN.sum(1)
    hits_Q = (hits_QN * counted_QN).sum(1)[count_Q > 0]
    count_Q = count_Q[count_Q > 0]
    questions, total = len(count_Q), int(count_Q.sum())
    if not total:
        return Rate(None, 0.0, 1.0, 0)
    p = float(hits_Q.sum() / total)
    independent = float(questions)
    if questions > 1 and 0 < p < 1:
        residual_Q = hits_Q - p * count_Q
        variance = questions / (questions - 1) * float((residual_Q**2).sum()) / total**2
        independent = min(p * (1 - p) / variance, total) if variance else total
    return Rate(p, *wilson(p, independent), total)


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores of N completions for each of Q questions."""

    accuracy: Rate
    format: Rate
    accuracy_in_format: Rate  # among well-formed replies only
    by_task: dict[str, Rate]  # accuracy


def result(
    examples: Sequence[Example], prompts: Sequence, texts: Sequence[Sequence[str]]
) -> Result:
    """Accuracy and format by VisualThinker's rules, for N texts to each of Q examples."""
    n = len(texts[0])
    flat = [text for row in texts for text in row]
    prompts = [prompt for prompt in prompts for _ in range(n)]
    answers = [example.answer for example in examples for _ in range(n)]
    shape = (len(examples), n)
    right = np.array(accuracy(prompts, flat, [()] * len(flat), answer=answers)).reshape(shape)
    formed = np.array(think_format(prompts, flat, [()] * len(flat))).reshape(shape) > 0
    tasks = np.array([example.task for example in examples])
    return Result(
        accuracy=rate(right),
        format=rate(formed.astype(float)),
        accuracy_in_format=rate(right, formed),
        by_task={task: rate(right[tasks == task]) for task in sorted(set(tasks))},
    )


@dataclasses.dataclass(frozen=True)
class Guessing:
    """What needs no picture: a random choice, and the best constant answer of each task."""

    chance: Rate
    majority: Rate


def guessing(examples: Sequence[Example]) -> Guessing | None:
    """Chance and majority of questions with choices; None where a question has none.

    The majority answer of a task is the most frequent position among the choices or the most
    frequent answer, whichever is right more often.
    """
    if not all(example.answer in example.choices for example in examples):
        return None
    count = len(examples)
    chance = sum(1 / len(example.choices) for example in examples)
    best = 0
    for task in {example.task for example in examples}:
        of_task = [example for example in examples if example.task == task]
        answers = Counter(example.answer for example in of_task)
        places = Counter(example.choices.index(example.answer) for example in of_task)
        best += max(answers.most_common(1)[0][1], places.most_common(1)[0][1])
    p = chance / count
    majority = best / count
    return Guessing(Rate(p, p, p, count), Rate(majority, *wilson(majority, count), count))
