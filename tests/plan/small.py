# SPDX-License-Identifier: Apache-2.0
"""A run of two layers, in the form of a config file, whose model is a config.json alone."""

import json
from pathlib import Path

from jaxvl.config import GRPO, SFT, Config, Data, Mesh, Model, Reward, Run, Sampling, SFTConfig
from jaxvl.data.tasks.records import Records
from jaxvl.data.templates import VisualThinker
from jaxvl.models import public
from jaxvl.rewards import accuracy

VOCAB, DIM = 1536, 256  # as the tests of arrays ask, no other axis has these sizes


def write_model(path: Path) -> Path:
    """config.json of Qwen2-VL-2B's family, heads of 128 numbers as the kernels want them."""
    config = public.config("Qwen/Qwen2-VL-2B")
    vision = config["vision_config"] | {"depth": 2, "embed_dim": 256, "num_heads": 2}
    path.mkdir(parents=True, exist_ok=True)
    small = config | {
        "hidden_size": DIM,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 384,
        "vocab_size": VOCAB,
        "vision_config": vision | {"hidden_size": DIM},
    }
    (path / "config.json").write_text(json.dumps(small))
    return path


def small_config(model: Path, **mesh: int) -> Config:
    """Eight rows of 128 + 4 * 128 tokens."""
    return Config(
        model=Model(path=str(model), dtype="bfloat16"),
        data=Data(
            source=Records(path="none.jsonl"),
            template=VisualThinker(),
            prompt_buckets=(128,),
            patch_buckets=(256,),
        ),
        rewards=(Reward(accuracy),),
        run=Run(dir="runs/none", steps=2),
        sampling=Sampling(max_new_tokens=128),
        grpo=GRPO(prompts=8, group=4, logprob_chunk=64),
        mesh=Mesh(**mesh),
    )


def small_sft(model: Path) -> SFTConfig:
    """Its supervised counterpart, whose only program is the update: a row of 128 + 512 tokens."""
    cfg = small_config(model, fsdp=-1)
    return SFTConfig(
        model=cfg.model,
        data=cfg.data,
        sft=SFT(target=str, rows=8, target_length=512, logprob_chunk=64),
        run=cfg.run,
        mesh=cfg.mesh,
    )
