# SPDX-License-Identifier: Apache-2.0
"""A small config file."""

from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
FILE = """
from __future__ import annotations
import dataclasses
from pathlib import Path
from jaxvl.config import *

@dataclasses.dataclass(frozen=True)
class Toy:
    count: int = 3
    where: Path | None = None
    def load(self):
        return []

def template(example):
    return example.question

def accuracy(prompts, completions, completion_ids, **columns):
    return [1.0] * len(completions)

def config():
    return Config(
        model=Model(path="m"),
        data=Data(source=Toy(), template=template),
        rewards=(Reward(accuracy), Reward(accuracy, 0.5, name="second")),
        run=Run(dir="out", steps=10),
    )
"""


def write_toy(folder):
    file = folder / "toy.py"
    file.write_text(FILE)
    return file
