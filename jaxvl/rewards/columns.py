# SPDX-License-Identifier: Apache-2.0
"""The columns that reward functions are given: made from questions and completions, and read row by
row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxvl.config.overrides import SERVICES
from jaxvl.data.example import Example
from jaxvl.data.image import load_image, smart_resize

if TYPE_CHECKING:
    from jaxvl.data.prompts import Processor

ImageSizes = tuple[tuple[int, int], ...]  # (width, height) of each image


@dataclasses.dataclass(frozen=True)
class AskedColumns:
    """A question as it was put to a model: its images' sizes as they were given, and as the
    model sees them."""

    example: Example
    prompt: Any  # a string or chat messages
    image_sizes: ImageSizes
    processed_sizes: ImageSizes
    box_frame: str = ""  # in which the model's family writes boxes, see `rules.Frames`

    @classmethod
    def of(cls, example: Example, prompt: Any, processor: Processor) -> AskedColumns:
        """As a model with this processor would be asked, without its patches."""
        how = processor.image
        sizes = tuple(load_image(image).size for image in example.images)
        step = how.patch_size * how.merge_size
        limits = how.min_pixels, how.max_pixels
        seen = [smart_resize(height, width, step, *limits) for width, height in sizes]
        shown = tuple((width, height) for height, width in seen)
        return cls(example, prompt, sizes, shown, processor.box_frame)


def inputs(
    questions: Sequence[AskedColumns], texts: Sequence[str], ids: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """What `rewards.score` takes: TRL's three arguments and a column for every field of the data.

    The completions of a question stand side by side, the same number of each. A completion is a
    string where the prompt is one, else a list with an assistant's message, as in TRL. A field
    that only some examples have is None in the others.
    """
    group = len(texts) // len(questions)
    asked = [question for question in questions for _ in range(group)]
    completions = [
        text if isinstance(each.prompt, str) else [{"role": "assistant", "content": text}]
        for each, text in zip(asked, texts, strict=True)
    ]
    names = {name for question in questions for name in question.example.columns}
    columns = {name: [each.example.columns.get(name) for each in asked] for name in sorted(names)}
    for name in ("id", "question", "answer", "choices", "task", "images"):
        columns[name] = [getattr(each.example, name) for each in asked]
    for name in ("image_sizes", "processed_sizes", "box_frame"):
        columns[name] = [getattr(each, name) for each in asked]
    return {
        "prompts": [each.prompt for each in asked],
        "completions": completions,
        "completion_ids": list(ids),
        "columns": columns,
    }


def rows_of(columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """The columns of a batch as a dict a row.

    What a function is given beside them (TRL's services, and whatever else holds no item for each
    completion) is no column.
    """
    kept = {name: x for name, x in columns.items() if name not in SERVICES and _is_column(x, count)}
    return [{name: values[i] for name, values in kept.items()} for i in range(count)]


def choices_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The options of a row, () where it has none."""
    choices = row.get("choices")
    return () if choices is None or isinstance(choices, str) else tuple(choices)


def _is_column(values: Any, count: int) -> bool:
    sequence = hasattr(values, "__getitem__") and hasattr(values, "__len__")
    return sequence and not isinstance(values, (str, bytes, Mapping)) and len(values) == count
