# SPDX-License-Identifier: Apache-2.0
"""A held-out set of a training run: a model's answers, greedy and sampled, and what they are worth
beside guessing, by VisualThinker's rules."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxvl.config import Eval
from jaxvl.data.example import Example
from jaxvl.eval.reporting import stats
from jaxvl.eval.reporting.stats import Estimate
from jaxvl.rewards.visualthinker import accuracy, think_format

if TYPE_CHECKING:
    from jaxvl.vlm import VLM


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores of N completions for each of Q questions."""

    accuracy: Estimate
    format: Estimate
    accuracy_in_format: Estimate  # among well-formed replies only
    by_task: dict[str, Estimate]  # accuracy


def result(
    examples: Sequence[Example], prompts: Sequence, texts: Sequence[Sequence[str]]
) -> Result:
    """Accuracy and format by VisualThinker's rules, for N texts to each of Q examples."""
    n = len(texts[0])
    flat = [text for row in texts for text in row]
    prompts = [prompt for prompt in prompts for _ in range(n)]
    answers = [example.answer for example in examples for _ in range(n)]
    right = np.array(accuracy(prompts, flat, [()] * len(flat), answer=answers))
    formed = np.array(think_format(prompts, flat, [()] * len(flat))) > 0
    questions = np.repeat(np.arange(len(examples)), n)
    tasks = np.repeat([example.task for example in examples], n)

    def accuracy_of(chosen: np.ndarray) -> Estimate:
        return stats.rate(right[chosen], questions[chosen])

    return Result(
        accuracy=stats.rate(right, questions),
        format=stats.rate(formed, questions),
        accuracy_in_format=accuracy_of(formed),
        by_task={task: accuracy_of(tasks == task) for task in sorted(set(tasks))},
    )


@dataclasses.dataclass(frozen=True)
class Guessing:
    """What needs no picture: a random choice, and the best constant answer of each task."""

    chance: Estimate
    majority: Estimate


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
    best = Estimate(majority, *stats.wilson(majority, count), count)
    return Guessing(Estimate(p, p, p, count), best)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One model on one set."""

    greedy: Result
    sampled: Result

    def metrics(self) -> dict[str, float]:
        """The figures as run metrics, under the names that begin with eval_."""
        out = {}
        for how, result in (("greedy", self.greedy), ("sampled", self.sampled)):
            out[f"eval_accuracy/{how}"] = result.accuracy.value
            out[f"eval_format/{how}"] = result.format.value
        return out


def evaluate(
    vlm: VLM, examples: Sequence[Example], cfg: Eval, template: Any, max_new_tokens: int
) -> Evaluation:
    """Greedy answers and `cfg.samples` sampled ones (temperature 1) to every example."""
    pixels = vlm.processor.with_pixels(cfg.min_pixels, cfg.max_pixels)
    vlm = dataclasses.replace(vlm, processor=pixels)
    prompts = [template(example) for example in examples]
    images = [list(example.images) for example in examples]

    def answer(n: int, temperature: float) -> Result:
        rows = vlm.generate(
            prompts,
            images,
            n=n,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=cfg.seed,
        )
        texts = [[completion.text for completion in row] for row in rows]
        return result(examples, [vlm.processor.render(p) for p in prompts], texts)

    return Evaluation(greedy=answer(1, 0.0), sampled=answer(cfg.samples, 1.0))


def table(
    examples: Sequence[Example], before: Evaluation | None, after: Evaluation
) -> dict[str, Any]:
    """{"title", "columns", "rows"} of before and after, beside what guessing gives."""
    columns = ["model", "answers", "accuracy", "format", "accuracy in format", "in format"]
    tasks = list(after.greedy.by_task)
    rows = []
    for name, evaluation in (("before", before), ("after", after)):
        if evaluation is None:
            continue
        for how in ("greedy", "sampled"):
            result = getattr(evaluation, how)
            row = [name, how, str(result.accuracy), str(result.format)]
            row += [str(result.accuracy_in_format), result.accuracy_in_format.count]
            rows.append(row + [f"{result.by_task[task].value:.3f}" for task in tasks])
    guess = guessing(examples)
    if guess is not None:
        rows.append(["chance", "", f"{guess.chance.value:.3f}"] + [""] * (3 + len(tasks)))
        rows.append(["majority answer", "", str(guess.majority)] + [""] * (3 + len(tasks)))
    title = f"Held-out questions: {len(examples)}; intervals are 95%"
    return {"title": title, "columns": columns + tasks, "rows": rows}
