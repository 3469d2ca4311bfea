# SPDX-License-Identifier: Apache-2.0
"""GRPO on your own questions, one JSON object a line:

jaxvl grpo configs/jsonl.py model.path=Qwen/Qwen2-VL-2B-Instruct data.source.path=my.jsonl
"""

from jaxvl.config import GRPO, Config, Data, Model, Optim, Reward, Run, Sampling
from jaxvl.data.tasks.records import Records
from jaxvl.data.templates import VisualThinker
from jaxvl.rewards import accuracy, think_format


def config() -> Config:
    return Config(
        model=Model(path="Qwen/Qwen2-VL-2B-Instruct", dtype="bfloat16", max_pixels=512 * 28 * 28),
        data=Data(
            source=Records(path="questions.jsonl"),
            template=VisualThinker(base=False),
            prompt_buckets="auto",
            patch_buckets="auto",
        ),
        rewards=(Reward(accuracy), Reward(think_format)),
        sampling=Sampling(max_new_tokens=700),
        grpo=GRPO(prompts=8, group=8, beta=0.04, micro_batches=8),
        optim=Optim(lr=1e-6, schedule="linear"),
        run=Run(dir="runs/jsonl", steps=500),
    )
