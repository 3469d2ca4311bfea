# SPDX-License-Identifier: Apache-2.0
"""VisualThinker's supervised baseline (arXiv 2503.05132): the plain answers to SAT's questions.

jaxvl sft configs/visualthinker_sft.py model.path=models/Qwen2-VL-2B data.source.path=data/SAT

`models/Qwen2-VL-2B` is the base checkpoint with the chat template and the tokenizer_config.json of
Qwen2-VL-2B-Instruct copied over its own, as the original prepared it. The settings are the public
code's: batches of 8, 2 epochs, learning rate 2e-5, everything trained, and a loss on all text,
the system's and the user's words too; sft.loss=answer is what one would choose today. The original
takes the mean of each example's own mean, two on a device; here it is over all tokens of a batch.
Figure 2 has it beside RL over 1,500 steps: configs/papers/visualthinker_sft_curve.py. Not run.
"""

from jaxvl.config import SFT, Data, Mesh, Model, Optim, Run, SFTConfig
from jaxvl.data.example import Example
from jaxvl.data.tasks import sat
from jaxvl.data.templates import VisualThinker


def answer(example: Example) -> str:
    return example.answer


def config() -> SFTConfig:
    return SFTConfig(
        model=Model(path="models/Qwen2-VL-2B", dtype="bfloat16"),
        data=Data(
            source=sat.paper("data/SAT"),
            min_pixels=4 * 28 * 28,
            max_pixels=512 * 28 * 28,
            template=VisualThinker(base=False, form="direct", literal=True),
            prompt_buckets=(640, 1024),
            patch_buckets=(2048,),
            too_long="drop",
        ),
        sft=SFT(target=answer, rows=8, micro_batches=2, target_length=64, loss="all"),
        optim=Optim(lr=2e-5, schedule="linear"),
        mesh=Mesh(fsdp=-1),
        run=Run(dir="runs/visualthinker_sft", epochs=2, seed=42, save_every=300),
    )
