# SPDX-License-Identifier: Apache-2.0
"""Answers of a model to a held-out set, greedy and sampled, and the table people read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxvl.config import Eval
from jaxvl.data.example import Example
from jaxvl.eval import score
from jaxvl.vlm import VLM


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One model on one set."""

    greedy: score.Result
    sampled: score.Result

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

    def answer(n: int, temperature: float) -> score.Result:
        rows = vlm.generate(
            prompts,
            images,
            n=n,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=cfg.seed,
        )
        texts = [[completion.text for completion in row] for row in rows]
        return score.result(examples, [vlm.processor.render(p) for p in prompts], texts)

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
    guess = score.guessing(examples)
    if guess is not None:
        rows.append(["chance", "", f"{guess.chance.value:.3f}"] + [""] * (3 + len(tasks)))
        rows.append(["majority answer", "", str(guess.majority)] + [""] * (3 + len(tasks)))
    title = f"Held-out questions: {len(examples)}; intervals are 95%"
    return {"title": title, "columns": columns + tasks, "rows": rows}


def show(found: dict[str, Any]) -> None:
    """Prints a table made by `table`."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=found["title"], title_justify="left")
    for name in found["columns"]:
        grid.add_column(name, no_wrap=True)
    for row in found["rows"]:
        grid.add_row(*(str(cell) for cell in row))
    # A log file has no width: the table is wider than 80 columns and must not be cut there.
    Console(width=None if Console().is_terminal else 160).print(grid)
