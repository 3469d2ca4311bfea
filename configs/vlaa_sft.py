# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking's supervised baseline (arXiv 2504.11468): distilled reasoning, word for word.

jaxvl sft configs/vlaa_sft.py data.source.path=data/VLAA-Thinking

`data/VLAA-Thinking` holds VLAA-Thinking-SFT-126K.json and its `images`. From the paper: batches of
128, one epoch (985 steps; run.steps=190 on its 25K subset), the tower frozen, the system prompt of
its reinforcement learning. Ours, where the paper says nothing: the learning rate with its cosine
and a warm-up over 3% of the steps (30 of 985, 6 of 190, 1 of the 40 on 5K), the pictures' size, and
that rows whose target is longer than 2,048 tokens are left out, as those are whose prompt does not
fit. For 8 GPUs: two rows at a time on each. Not run.
"""

from jaxvl.config import SFT, Data, Mesh, Model, Optim, Run, SFTConfig
from jaxvl.data.tasks.vlaa import VLAA, completion
from jaxvl.data.templates import vlaa


def config() -> SFTConfig:
    return SFTConfig(
        model=Model(
            path="Qwen/Qwen2.5-VL-3B-Instruct",
            dtype="bfloat16",
            max_pixels=256 * 32 * 32,
            train=("merger", "text"),
        ),
        data=Data(
            source=VLAA("data/VLAA-Thinking", part="sft"),
            template=vlaa,
            prompt_buckets=(512, 1024),
            patch_buckets=(1536,),
            too_long="drop",
        ),
        sft=SFT(target=completion, rows=128, micro_batches=8, target_length=2048),
        optim=Optim(lr=1e-5, schedule="cosine", warmup_steps=0.03),
        mesh=Mesh(fsdp=-1),
        run=Run(dir="runs/vlaa_sft", steps=985, save_every=200),
    )
