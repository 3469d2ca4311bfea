# SPDX-License-Identifier: Apache-2.0
"""What a set of answers is worth: accuracy and format with intervals, beside what guessing gives."""

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
    """A share of `count` questions with its 95% interval."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(hits: int, count: int) -> Rate:
    """A proportion with Wilson's score interval (95%); NaN with [0, 1] where count is 0."""
    if not count:
        return Rate(math.nan, 0.0, 1.0, 0)
    z, p = 1.959964, hits / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2))
    return Rate(p, max(0.0, centre - half), min(1.0, centre + half), count)


def clustered(hits_QN: np.ndarray, counted_QN: np.ndarray | None = None) -> Rate:
    """A mean over several samples of each question, with a 95% interval that knows they are kin.

    Samples of one question are not independent: the standard error is that of a ratio of totals
    over questions (linearised, as for cluster samples). Samples not `counted` are left out. With
    one sample a question it is Wilson's interval.
    """
    counted = np.ones(hits_QN.shape, bool) if counted_QN is None else counted_QN
    hits_Q, count_Q = (hits_QN * counted).sum(1), counted.sum(1)
    total = int(count_Q.sum())
    questions = int((count_Q > 0).sum())
    if hits_QN.shape[1] == 1 or questions < 2:
        return wilson(int(hits_Q.sum()), total)
    p = hits_Q.sum() / total
    residual_Q = (hits_Q - p * count_Q)[count_Q > 0]
    se = math.sqrt(questions / (questions - 1) * (residual_Q**2).sum()) / total
    return Rate(float(p), max(0.0, p - 1.96 * se), min(1.0, p + 1.96 * se), total)


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores of N completions for each of Q questions."""

    accuracy: Rate
    format: Rate
    accuracy_in_format: Rate  # among well-formed replies only
    by_task: dict[str, Rate]  # accuracy

    def to_json(self) -> dict:
        return dataclasses.asdict(self)


def result(examples: Sequence[Example], prompts: Sequence, texts: Sequence[Sequence[str]]) -> Result:
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
        accuracy=clustered(right),
        format=clustered(formed.astype(float)),
        accuracy_in_format=clustered(right, formed),
        by_task={task: clustered(right[tasks == task]) for task in sorted(set(tasks))},
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
    return Guessing(Rate(p, p, p, count), wilson(best, count))
