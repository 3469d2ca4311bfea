# SPDX-License-Identifier: Apache-2.0
"""VisualThinker-R1-Zero (arXiv 2503.05132): GRPO on the base Qwen2-VL-2B with spatial questions.

jaxvl grpo configs/visualthinker.py data.source.path=data/SAT

`data/SAT` holds the published SAT_train.parquet (array/SAT). The settings are those of the paper
(table 2) and of its public code: 8 prompts with 8 completions each a step, temperature 1 with the
top 50 tokens (transformers' default), at most 700 tokens; a plain sum of accuracy and format; KL k3
with 0.04; no ratio is ever clipped, since each rollout is learnt from once; AdamW with a linear
schedule. Its instruct runs: model.path=Qwen/Qwen2-VL-2B-Instruct, and model.train=text for the
one with a frozen vision encoder (the original freezes `model.visual`, the merger in it).

The paper reports 1,500 steps, of a script that decays over its whole two epochs. So does this
config: 3,750 updates are two epochs of the first 15,000 rows, 8 a step (fewer of them have one
image; how many is not published). At step 1,500 the learning rate is 60% of its first value. With
optim.horizon=none it would end at 0.

On four GPUs as in the paper, two of a step's prompts at a time on each. A smaller machine takes
more grpo.micro_batches (8: one prompt at a time on one device). Not run.
"""

from functools import partial

from jaxvl.config import GRPO, Config, Data, Grpo, Mesh, Model, Optim, Reward, Run, Sampling
from jaxvl.data.tasks import sat
from jaxvl.data.templates import VisualThinker
from jaxvl.rewards import accuracy, think_format


def config() -> Config:
    return Config(
        model=Model(path="Qwen/Qwen2-VL-2B", dtype="bfloat16"),
        data=Data(
            source=sat.paper("data/SAT"),
            min_pixels=4 * 28 * 28,
            max_pixels=512 * 28 * 28,  # in training alone: CV-Bench is asked without this limit
            template=VisualThinker(literal=True),  # the word <image> was fed to the model
            prompt_buckets=(640, 1024),
            patch_buckets=(2048,),
            too_long="drop",
        ),
        rewards=(Reward(partial(accuracy, literal=True)), Reward(think_format)),
        sampling=Sampling(max_new_tokens=700, temperature=1.0, top_k=50),
        grpo=GRPO(prompts=8, group=8, micro_batches=2, loss=Grpo(), beta=0.04),
        optim=Optim(lr=1e-6, schedule="linear", horizon=3750),
        mesh=Mesh(fsdp=-1),
        run=Run(dir="runs/visualthinker", steps=1500, seed=42),
    )
