# SPDX-License-Identifier: Apache-2.0
"""The quickstart: a small base model that sees learns to answer, on a laptop's CPU."""

from pathlib import Path

from jaxvl.config import GRPO, Config, Data, Eval, Model, Optim, Reward, Run, Sampling
from jaxvl.data.scenes import Scenes
from jaxvl.data.templates import chat_question
from jaxvl.rewards import accuracy, think_format

TASKS = ("relation", "count", "depth")


def config() -> Config:
    return Config(
        model=Model(path=str(Path(__file__).parent / "quickstart_base"), remat="products"),
        data=Data(
            source=Scenes(size=20_000, tasks=TASKS),
            template=chat_question,
            prompt_buckets=(64,),
            patch_buckets=(64,),
        ),
        rewards=(Reward(accuracy), Reward(think_format)),
        sampling=Sampling(max_new_tokens=48),
        grpo=GRPO(prompts=16, group=8, beta=0.0, logprob_chunk=384),
        optim=Optim(lr=1e-4, warmup_steps=5, b2=0.99),
        eval=Eval(source=Scenes(size=600, split="test", tasks=TASKS), samples=4),
        run=Run(dir="runs/quickstart", steps=200, save_every=100),
    )
