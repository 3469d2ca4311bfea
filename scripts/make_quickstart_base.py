# SPDX-License-Identifier: Apache-2.0
"""Makes the small base that the quickstart trains: python scripts/make_quickstart_base.py

A Qwen2-VL of 1.5 million parameters learns from rendered scenes to see: to name what is in a
picture and to say where it is. Then it learns to work out answers between <think> and <answer>
tags, asked by the words "Show your work.". Last, its answers are spoilt: every answer is now a
choice picked at random. Asked without these words it mostly says it bare, seldom in a worked reply;
and whether asked or not, a worked reply ends in it whatever the thought before it says. So the base
can see, it knows the form but seldom uses it, and its answers are guesses. The rest is left to
reinforcement learning.

Only scenes of the train split are used. The same seed gives the same file on the same machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from jaxvl.cli.runtime import as_command
from jaxvl.config import Optim
from jaxvl.data import prompts, scenes
from jaxvl.data.prompts import Processor
from jaxvl.data.templates import with_choices
from jaxvl.data.tokenizer import train_tokenizer
from jaxvl.distributed.mesh import make_mesh, put_rows
from jaxvl.models import qwen_vl
from jaxvl.models.io import hf
from jaxvl.train.sft import Target, fit, target_batch

DOCS = 8  # documents about a picture of the later stages
ASKED = 0.85  # share of spoilt worked replies whose question asks for them
SHOW = "Show your work. "
TASKS = ("relation", "count", "depth")
VOCABULARY = 512
USER = "<|im_start|>user\n"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def where_are(things) -> str:
    names = [f"the {thing.name}" for thing in things]
    if len(names) == 1:
        return f"Where is {names[0]}?"
    return f"Where are {', '.join(names[:-1])} and {names[-1]}?"


def listed(things) -> str:
    return ", ".join(f"{thing.name} {thing.place}" for thing in things) or "nothing"


def seeing(rng: np.random.Generator, things) -> tuple[str, str]:
    """A question about what is where, and its true answer."""
    kind = rng.integers(5)
    names = [thing.name for thing in things]
    single = [thing for thing in things if names.count(thing.name) == 1]
    some = [single[i] for i in rng.permutation(len(single))]
    if kind < 3 and some:
        some = some[: 1 if kind == 0 else rng.integers(1, 4)]
        return where_are(some), some[0].place if kind == 0 else listed(some)
    if kind == 3:
        if rng.random() < 0.5:
            place = "abcd"[rng.integers(4)] + "1234"[rng.integers(4)]
        else:
            place = things[rng.integers(len(things))].place
        found = [t.name for t in things if t.place == place]
        return f"What is at {place}?", found[0] if found else "nothing"
    name = str(rng.choice(names))
    found = sorted((t for t in things if t.name == name), key=lambda t: (t.row, t.column))
    return f"Where are the {scenes.PLURAL[name]}?", listed(found)


def bare(rng: np.random.Generator, question: scenes.Question) -> tuple[str, str]:
    """A question of the benchmark with an answer out of the air."""
    return with_choices(question.text, question.choices), str(rng.choice(question.choices))


def worked(rng: np.random.Generator, question: scenes.Question) -> tuple[str, str]:
    """A question of the benchmark that asks for a worked reply, and a right one."""
    text = SHOW + with_choices(question.text, question.choices)
    return text, f"<think> {listed(question.about)} </think> <answer> {question.answer} </answer>"


def spoilt(rng: np.random.Generator, question: scenes.Question) -> tuple[str, str]:
    """A question of the benchmark, and a reply with a true thought and an answer out of the air."""
    question = dataclasses.replace(question, answer=str(rng.choice(question.choices)))
    text, reply = worked(rng, question)
    return text if rng.random() < ASKED else text.removeprefix(SHOW), reply


def first_sights(rng: np.random.Generator, most: int, docs: int) -> tuple[Image.Image, list]:
    """A picture of one to `most` things and documents about what is where."""
    while True:
        names = scenes.distinct_names(rng, int(rng.integers(1, most + 1)))
        if most > 1 and rng.random() < 0.3:
            names += [names[0]] * int(rng.integers(1, 4))
        things = scenes.scatter(rng, names)
        if not scenes.held_out(things):
            return scenes.draw(things, rng), [seeing(rng, things) for _ in range(docs)]


def documents(rng: np.random.Generator, answering, answers: int) -> tuple[Image.Image, list]:
    """A picture with all that the benchmark asks about and DOCS documents, `answers` of them
    `answering(rng, question)`."""
    while True:
        one, other, *single = scenes.distinct_names(rng, int(rng.integers(4, 6)))
        names = [one] * int(rng.integers(1, 5)) + [other] * int(rng.integers(0, 3)) + single
        things = scenes.scatter(rng, names)
        if not scenes.held_out(things):
            break
    docs = [seeing(rng, things) for _ in range(DOCS - answers)]
    while len(docs) < DOCS:
        # A count is of the first thing's kind.
        mixed = [things[i] for i in rng.permutation(len(things))]
        question = scenes.ask(str(rng.choice(TASKS)), rng, mixed)
        if question is not None:
            docs.append(answering(rng, question))
    return scenes.draw(things, rng), docs


def vocabulary_texts() -> list[str]:
    rng = np.random.default_rng(0)
    pairs = [doc for _ in range(400) for doc in documents(rng, spoilt, 4)[1]]
    return [f"user\n{question}\nassistant\n{reply}" for question, reply in pairs]


def base_config(tokenizer) -> dict:
    """A Qwen2-VL config in the flat form of the public checkpoints, two million parameters."""
    ids = tokenizer.convert_tokens_to_ids
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"),
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 1,
            "embed_dim": 128,
            "num_heads": 4,
            "mlp_ratio": 3,
            "hidden_size": 128,
            "in_channels": 3,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


@dataclasses.dataclass(frozen=True)
class Stage:
    """`steps` updates on `docs` documents of at most `length` tokens about each of `rows` pictures
    that `make(rng)` draws."""

    steps: int
    rows: int
    docs: int
    length: int
    make: Callable


def sights(most: int, docs: int) -> Callable:
    return functools.partial(first_sights, most=most, docs=docs)


# One thing teaches where things are, several that a name picks one; short documents about many
# pictures do it soonest. Then come lists, and worked replies.
STAGES = (
    Stage(400, 32, 1, 16, sights(1, 1)),
    Stage(700, 32, 1, 16, sights(5, 1)),
    Stage(400, 16, DOCS, 28, sights(5, DOCS)),
    Stage(600, 16, DOCS, 68, functools.partial(documents, answering=worked, answers=6)),
)
# Worked replies are long, so they are kept to themselves.
SPOILING = (
    Stage(1, 16, DOCS, 36, functools.partial(documents, answering=bare, answers=4)),
    Stage(1, 16, DOCS, 68, functools.partial(documents, answering=spoilt, answers=6)),
) * 130
SCHOOL_OPTIM = Optim(lr=8e-4, warmup_steps=50, weight_decay=0.01, b2=0.98)
SPOILING_OPTIM = Optim(lr=4e-4, schedule="cosine", warmup_steps=10, weight_decay=0.01, b2=0.98)


class School:
    """Batches of documents about pictures."""

    def __init__(self, processor: Processor, seed: int):
        self.processor, self.seed = processor, seed
        self.pages = self.documents = 0

    def target(self, question: str, reply: str) -> Target:
        asked = self.processor.tokenize(question + ASSISTANT)
        told = self.processor.tokenize(reply + END)
        return Target(asked + told, [False] * len(asked) + [True] * len(told))

    def page(self, stage: Stage) -> tuple[Image.Image, list[Target]]:
        """A picture and documents about it; one with a document that is too long is not used."""
        rng = np.random.default_rng([self.seed, self.pages])
        self.pages += 1
        while True:
            image, docs = stage.make(rng)
            targets = [self.target(*doc) for doc in docs]
            if max(len(target.tokens) for target in targets) <= stage.length:
                self.documents += len(docs)
                return image, targets

    def batch(self, stage: Stage):
        pages = [self.page(stage) for _ in range(stage.rows)]
        encoded = [self.processor.encode(USER + IMAGE, [image]) for image, _ in pages]
        arrays = prompts.collate(
            encoded,
            range(stage.rows),
            pad_id=self.processor.pad_id,
            prompt_bucket=prompts.round_up(len(encoded[0].tokens), 8),
            patch_bucket=64,
        )
        return target_batch(
            arrays, [targets for _, targets in pages], stage.length, self.processor.pad_id
        )

    def batches(self, stages) -> Iterator:
        for stage in stages:
            for _ in range(stage.steps):
                yield self.batch(stage)


class Sight:
    """The gate: how often the model names the right place after a thing's name, held-out scenes.

    Columns alone are what to look at: a row is easily told once the column is right.
    """

    def __init__(self, school: School, graphdef, mesh):
        rng, pages = np.random.default_rng(7), []
        for _ in range(64):
            things, _ = scenes.make_scene("depth", True, rng)
            image = scenes.draw(things, rng)
            pages.append((image, [self._ask(school, rng, things) for _ in range(4)]))
        processor = school.processor
        arrays = prompts.collate(
            [processor.encode(USER + IMAGE, [image]) for image, _ in pages],
            range(len(pages)),
            pad_id=processor.pad_id,
            prompt_bucket=32,
            patch_bucket=64,
        )
        self.batch = target_batch(arrays, [t for _, t in pages], 40, processor.pad_id)
        self.columns = self._where(processor, [f" {letter}" for letter in "abcd"])
        self.rows = self._where(processor, "1234")
        self.on_mesh = put_rows(self.batch, mesh)

        def best(params, batch):
            model = nnx.merge(graphdef, params)
            hidden = model.completion_hidden(batch.prompt, batch.tokens)
            R, g, C, D = hidden.shape
            return model.text.logits(hidden.reshape(R, g * C, D)).argmax(-1).reshape(R, g, C)

        self.best = jax.jit(best)

    @staticmethod
    def _ask(school: School, rng, things) -> Target:
        some = [things[i] for i in rng.permutation(len(things))[:2]]
        return school.target(where_are(some), listed(some))

    def _where(self, processor: Processor, words) -> np.ndarray:
        ids = [processor.tokenize(word)[-1] for word in words]
        return np.isin(self.batch.tokens, ids) & self.batch.mask

    def __call__(self, params) -> tuple[float, float]:
        """Shares of (columns, rows) that are right, the text before them given."""
        right = np.asarray(self.best(params, self.on_mesh)) == self.batch.tokens
        return float(right[self.columns].mean()), float(right[self.rows].mean())


def write_side_files(path: Path) -> None:
    """Everything of the checkpoint but its weights."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(vocabulary_texts(), VOCABULARY)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(path)
    (path / "config.json").write_text(json.dumps(base_config(tokenizer), indent=2) + "\n")
    image = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "min_pixels": 3136,
        "max_pixels": 12544,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 3,
    }
    (path / "preprocessor_config.json").write_text(json.dumps(image, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("configs/quickstart_base"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gate", type=float, default=0.9, help="columns right, or it is no base")
    args = parser.parse_args()
    write_side_files(args.out)
    config = hf.read_config(args.out)
    arch = hf.arch_from_config(config)
    processor = Processor.from_pretrained(args.out)
    mesh = make_mesh(devices=jax.devices()[:1])
    school = School(processor, args.seed)
    with jax.set_mesh(mesh):
        params = qwen_vl.init_params(arch, jax.random.key(args.seed))
        sight = Sight(school, qwen_vl.graphdef(arch), mesh)
    count = sum(x.size for x in jax.tree.leaves(params))
    print(f"{count:,} parameters, {arch.text.vocab} tokens", flush=True)
    start, losses = time.monotonic(), []

    def on_step(step, state, stats):
        losses.append(stats["loss"])
        if len(losses) % 100 == 0:
            column, row = sight(state.params)
            loss = float(np.mean(jax.device_get(losses[-100:])))
            print(
                f"step {len(losses):5d}  {time.monotonic() - start:5.0f} s  loss {loss:.4f}  "
                f"columns right {column:.3f}  rows right {row:.3f}",
                flush=True,
            )

    for stages, optim in ((STAGES, SCHOOL_OPTIM), (SPOILING, SPOILING_OPTIM)):
        steps = sum(stage.steps for stage in stages)
        params = fit(
            arch,
            params,
            school.batches(stages),
            optim,
            steps,
            mesh,
            remat="products",
            on_step=on_step,
        )
    with jax.set_mesh(mesh):
        column, _ = sight(params)
    hf.save_params(args.out, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), config)
    print(
        f"{args.out}: {school.documents:,} documents about {school.pages:,} pictures, "
        f"columns right {column:.3f}"
    )
    if column < args.gate:
        raise SystemExit(f"it does not see: {column:.3f} of columns right, {args.gate} expected")


if __name__ == "__main__":
    as_command(main)
