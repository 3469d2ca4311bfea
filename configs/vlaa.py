# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinker (arXiv 2504.11468): GRPO with a mixed reward on an instruct model.

jaxvl grpo configs/vlaa.py data.source.path=data/VLAA-Thinking

`data/VLAA-Thinking` holds VLAA-Thinking-GRPO-25K.json and its `images`. The paper's models are
Qwen2-VL-2B-Instruct, Qwen2-VL-7B-Instruct, Qwen2.5-VL-3B-Instruct and Qwen2.5-VL-7B-Instruct:
model.path=.. takes another. From the paper: 512 prompts with 4 completions each a step, temperature
0.8, 49 steps, a cosine from its peak to 5e-7 after a warm-up of 3%, KL with an adaptive coefficient
that starts at 1e-3 and holds 5e-4 ("LR2" and "KL2", its best).

The training code is not public. Ours, where the paper says nothing: a peak of 1e-6 and a horizon of
10,000 (defaults of OpenRLHF, which it was built on); a train batch of 256 as so many completions,
as OpenRLHF counts, which makes 8 updates of a step; clip 0.2; 1,024 tokens; the images' size (the
paper's own in evaluation); the reward's beta of open answers; that all parts train, the tower too;
k3 as the estimate of the KL; advantages divided by the group's standard deviation; boxes in what
the model's family writes, where the data has parts of the sides.

A reward model has to be served for open questions (InternLM-XComposer2.5-Reward in the paper): it
is asked at `SCORER`. For 8 GPUs: one prompt at a time on each. Not run.
"""

from jaxvl.config import (
    GRPO,
    AdaptiveKL,
    Config,
    Data,
    Grpo,
    Mesh,
    Model,
    Optim,
    Reward,
    Run,
    Sampling,
)
from jaxvl.data.tasks.vlaa import VLAA
from jaxvl.data.templates import vlaa
from jaxvl.rewards import Mixed, RewardEndpoint
from jaxvl.rewards.endpoint import Endpoint
from jaxvl.rewards.rules import Frames

SCORER = "http://localhost:8000/score"
STEPS, UPDATES = 49, 8


def config() -> Config:
    mixed = Mixed(scorer=RewardEndpoint(Endpoint(SCORER)), frames=Frames(model="family"))
    return Config(
        model=Model(path="Qwen/Qwen2.5-VL-3B-Instruct", dtype="bfloat16", max_pixels=256 * 32 * 32),
        data=Data(
            source=VLAA("data/VLAA-Thinking"),
            template=vlaa,
            prompt_buckets=(512, 1024),
            patch_buckets=(1536,),
            too_long="drop",
        ),
        rewards=(Reward(mixed, name="mixed"),),
        sampling=Sampling(max_new_tokens=1024, temperature=0.8),
        grpo=GRPO(
            prompts=512,
            group=4,
            mini_batches=UPDATES,
            micro_batches=8,
            loss=Grpo(epsilon=0.2),
            beta=1e-3,
            adaptive_kl=AdaptiveKL(target=5e-4, horizon=10_000),
        ),
        optim=Optim(
            lr=1e-6,
            schedule="cosine",
            min_lr=5e-7,
            warmup_steps=0.03,
        ),
        mesh=Mesh(fsdp=-1),
        run=Run(dir="runs/vlaa", steps=STEPS, save_every=10),
    )
