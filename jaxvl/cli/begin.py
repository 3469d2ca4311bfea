# SPDX-License-Identifier: Apache-2.0
"""A config to begin with, for one's data and hardware, with comments."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import jax

from jaxvl import rewards
from jaxvl.config.fields import describe
from jaxvl.config.grpo import GRPO
from jaxvl.config.schema import Config, Data, LoRA, Mesh, Model, Optim, Reward, Run, Sampling
from jaxvl.config.source import python
from jaxvl.config.validate import validate
from jaxvl.data import hub
from jaxvl.data.tasks import conversations
from jaxvl.data.tasks.records import Records
from jaxvl.data.templates import chat_question
from jaxvl.errors import UserError
from jaxvl.models.io.find import checkpoint_dir, is_hub_id
from jaxvl.models.io.hf_config import arch_from_config, read_config
from jaxvl.models.qwen_vl import abstract_params

# Bytes a parameter: bfloat16 weights with float32 masters and two moments, or adapters beside one
# copy of the weights. The same again is left for activations and caches.
_WHOLE, _ADAPTERS = 16, 2
_COMMENTED = (
    "model.path model.dtype model.max_pixels model.train model.lora data.source data.template "
    "data.prompt_buckets sampling.max_new_tokens grpo.prompts grpo.group grpo.beta "
    "grpo.micro_batches optim.lr optim.schedule mesh.fsdp run.dir run.steps run.save_every"
).split()


def begin(data: str, model: str, memory: int, devices: int) -> tuple[str, list[str]]:
    """The text of a config file, and what was found out for it, in words."""
    if not data:
        raise UserError("--data: expected a file of questions, a folder or a hub dataset")
    for option, value in (("--memory", memory), ("--devices", devices)):
        if value < 1:
            raise UserError(f"{option}: expected at least 1, found {value}")
    source, told = Records(path=data), []
    if Path(data).exists():
        seen = source.recognised()
        source = seen.source
        told += [f"data: {line}" for line in seen.told]
        if name := source.unread_picture():
            source = dataclasses.replace(source, image=(name,))
            told.append(f"data: `{name}` has the pictures")
        example = source.load()[0]
        told.append(f"data: the first question is {example.question!r:.80}, its answer "
                    f"{example.answer!r:.40}, with {len(example.images)} images")  # fmt: skip
    elif hub.on_hub(data):
        told.append(f"data: there is no {data} here; a run looks for it on the hub")
    else:
        raise UserError(
            f"--data: there is no file or folder {data}; expected one, or a hub dataset OWNER/NAME"
        )
    if not Path(model).is_dir() and is_hub_id(model):
        told.append(f"model: there is no directory {model} here; a run looks for it on the hub")
    size = _billions(model)
    adapters = (size or 0) * _WHOLE > memory * devices / 2
    told.append(_fit(model, size, adapters, f"{devices} times {memory} GB"))
    cfg = Config(
        model=Model(
            path=model,
            dtype="bfloat16",
            max_pixels=512 * 28 * 28,
            train=() if adapters else ("tower", "merger", "text"),
            lora=LoRA() if adapters else None,
        ),
        data=Data(
            source=source,
            template=conversations.as_given if source.conversation else chat_question,
            prompt_buckets="auto",
            patch_buckets="auto",
        ),
        rewards=(Reward(rewards.accuracy), Reward(rewards.think_format)),
        sampling=Sampling(max_new_tokens=512),
        grpo=GRPO(prompts=8 * devices, group=8, micro_batches=8, beta=0.04),
        optim=Optim(lr=1e-5 if adapters else 1e-6, schedule="linear"),
        mesh=Mesh(fsdp=-1) if devices > 1 else Mesh(),
        run=Run(dir=f"runs/{_name(data)}", steps=500, save_every=50),
    )
    validate(cfg)
    docs = {field.path: field.doc for field in describe(Config)}
    notes = {path: docs[path] for path in _COMMENTED if docs.get(path)}
    return python(cfg, f"GRPO of {model} on {data}.", notes), told


def _fit(model: str, size: float | None, adapters: bool, memory: str) -> str:
    if size is None:
        return (
            f"model: the name {model} does not say how large it is; the config trains it whole, "
            f"and whether it does in {memory} is not known"
        )
    whole = "do not train whole" if adapters else "train whole"
    return f"model: {size:.3g} billion parameters {whole} in {memory} by counting" + (
        ": adapters beside a frozen model" if adapters else ""
    )


def _billions(model: str) -> float | None:
    """The size of a checkpoint of this machine by its config, of a hub id by its name
    ("Qwen2-VL-2B"); None where that says none."""
    if Path(model).is_dir() or not is_hub_id(model):
        path = checkpoint_dir(model)  # raises where there is none
        leaves = jax.tree.leaves(abstract_params(arch_from_config(read_config(path))))
        return sum(leaf.size for leaf in leaves) / 1e9
    found = re.search(r"(\d+(?:\.\d+)?)[Bb]\b", Path(model).name)
    return float(found[1]) if found else None


def _name(data: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", Path(data).stem) or "run"
