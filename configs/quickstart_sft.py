# SPDX-License-Identifier: Apache-2.0
"""The quickstart's data, learnt from right answers instead of rewards: the same three tasks, and as
many questions (3,200) as quickstart.py has prompts in its 200 steps."""

from pathlib import Path

from jaxvl.config import SFT, Data, Model, Optim, Run, SFTConfig
from jaxvl.data.example import Example
from jaxvl.data.scenes import Scenes
from jaxvl.data.templates import chat_question

TASKS = ("relation", "count", "depth")


def answer(example: Example) -> str:
    return f"<answer> {example.answer} </answer>"


def config() -> SFTConfig:
    return SFTConfig(
        model=Model(path=str(Path(__file__).parent / "quickstart_base"), remat="products"),
        data=Data(
            source=Scenes(size=20_000, tasks=TASKS),
            template=chat_question,
            prompt_buckets=(64,),
            patch_buckets=(64,),
        ),
        sft=SFT(target=answer, rows=32, target_length=16),
        optim=Optim(lr=5e-4, schedule="cosine", warmup_steps=20),
        run=Run(dir="runs/quickstart_sft", steps=100),
    )
