# SPDX-License-Identifier: Apache-2.0
"""GRPO of low-rank adapters beside Qwen2-VL-2B, for one GPU of 24 GB, on your own questions:

jaxvl grpo configs/lora_24gb.py data.source.path=my.jsonl

The whole checkpoint is frozen and held once, in bfloat16: policy, reference and base are the same
arrays. What takes memory, in GB (10^9 bytes); "temporaries" are XLA's own figures for the programs
of this config, compiled for a CPU in float32, where every activation is twice as large:

    weights, 2.209 G parameters in bfloat16, tower and head included         4.42
    adapters of rank 16, 18.5 M: float32 masters and two moments             0.22
    one program at a time:
        update, one row of 1024 + 8 * 512 tokens a micro-batch     at most   4.0
        log-probabilities of the reference                         at most   0.9
        sampling, 64 completions: caches, the layers' weights
        cut apart (2.6), the tower's scores for 8 rows (2.1)       at most  14.4
    after the last step: the merged weights in float32                       8.8

So 19.1 at most while it samples, 8.7 while it learns, of the 22 that jaxvl takes of such a GPU when
it starts (XLA_CLIENT_MEM_FRACTION changes that share). Where memory is short, halve
grpo.prompts. On a GPU: not run, so there is no speed here.

Adapters do not drop out: the policy that sampled is then the policy that learns.
"""

from jaxvl.config import GRPO, Config, Data, LoRA, Model, Optim, Reward, Run, Sampling
from jaxvl.data.tasks.records import Records
from jaxvl.data.templates import VisualThinker
from jaxvl.rewards import accuracy, think_format


def config() -> Config:
    return Config(
        model=Model(
            path="Qwen/Qwen2-VL-2B-Instruct",
            dtype="bfloat16",
            max_pixels=512 * 28 * 28,
            train=(),
            lora=LoRA(rank=16, alpha=32),
        ),
        data=Data(
            source=Records(path="questions.jsonl"),
            template=VisualThinker(base=False),
            prompt_buckets=(1024,),
            patch_buckets=(2048,),
        ),
        rewards=(Reward(accuracy), Reward(think_format)),
        sampling=Sampling(max_new_tokens=512),
        grpo=GRPO(prompts=8, group=8, beta=0.04, micro_batches=8),
        optim=Optim(lr=1e-5, schedule="linear"),
        run=Run(dir="runs/lora_24gb", steps=500, save_every=50),
    )
