# SPDX-License-Identifier: Apache-2.0
"""Makes the small base checkpoint that the quickstart trains: python scripts/make_quickstart_base.py

A Qwen2-VL of about two million parameters learns from rendered scenes to see: to name what is in a
picture and to say where it is. Its schooling in answering questions is poor on purpose. Most
question-answer pairs it meets are bare words picked at random; one in ten is worked out between
<think> and <answer> tags, and of those a share ends with an answer picked at random. So it can see,
it knows the form but seldom uses it, and when it does it is often wrong. Teaching it more is left
to reinforcement learning.

Only scenes of the train split are used. The same seed gives the same file on the same machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from jaxvl.config import Optim
from jaxvl.data import prompts, scenes
from jaxvl.data.templates import with_choices
from jaxvl.data.tokenizer import train_tokenizer
from jaxvl.models import hf, qwen_vl
from jaxvl.rl.learner import Policy
from jaxvl.sft import Target, fit, target_batch
from jaxvl.sharding import make_mesh, param_shardings, put_rows

ROWS, DOCS, LENGTH = 32, 8, 64  # pictures a step, documents a picture, tokens a document
WORKED = 0.10  # share of question-answer documents with tags
WORKED_RIGHT = 0.35  # share of those whose answer is right for sure; the rest draw one at random
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


def listed(things) -> str:
    return ", ".join(f"{thing.name} {thing.place}" for thing in things) or "nothing"


def joined(words) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def seeing(rng: np.random.Generator, things) -> tuple[str, str]:
    """A question about what is where, and its true answer."""
    kind = rng.integers(5)
    some = [things[i] for i in rng.permutation(len(things))]
    if kind == 0:
        return f"Where is the {some[0].name}?", some[0].place
    if kind in (1, 2):
        some = some[: rng.integers(1, 4)]
        return f"Where are {joined(['the ' + t.name for t in some])}?", listed(some)
    if kind == 3:
        if rng.random() < 0.5:
            place = "abcd"[rng.integers(4)] + "1234"[rng.integers(4)]
        else:
            place = some[0].place
        found = [t.name for t in things if t.place == place]
        return f"What is at {place}?", found[0] if found else "nothing"
    shape = scenes.SHAPES[rng.integers(3)]
    found = sorted((t for t in things if t.shape == shape), key=lambda t: (t.row, t.column))
    return f"Where are the {scenes.PLURAL[shape]}?", listed(found)


def answering(
    rng: np.random.Generator, question: scenes.Question, worked: float
) -> tuple[str, str]:
    """A question of the benchmark with a poor reply, worked out with the given probability."""
    chance = str(rng.choice(question.choices))
    text = with_choices(question.text, question.choices)
    if rng.random() >= worked:
        return text, chance
    answer = question.answer if rng.random() < WORKED_RIGHT else chance
    return text, f"<think> {listed(question.about)} </think> <answer> {answer} </answer>"


def first_sights(rng: np.random.Generator, most: int, docs: int) -> tuple[Image.Image, list]:
    """A picture of one to `most` things and documents about what is where."""
    while True:
        kinds = scenes.distinct_kinds(rng, int(rng.integers(1, most + 1)))
        things = scenes.scatter(rng, kinds)
        if not scenes.held_out(things):
            return scenes.draw(things, rng), [seeing(rng, things) for _ in range(docs)]


def documents(rng: np.random.Generator, worked: float = WORKED) -> tuple[Image.Image, list]:
    """A picture and DOCS documents about it, three in eight of them benchmark questions."""
    task = str(rng.choice(scenes.TASKS))
    things, question = scenes.make_scene(task, False, rng)
    image = scenes.draw(things, rng)
    docs = [seeing(rng, things) for _ in range(DOCS - 3)] + [answering(rng, question, worked)]
    others = [t for t in scenes.TASKS if t != "count" and (len(things) > 2 or t != "distance")]
    while len(docs) < DOCS:
        more = scenes.ask(str(rng.choice(others)), rng, things)
        if more is not None:
            docs.append(answering(rng, more, worked))
    return image, docs


def vocabulary_texts() -> list[str]:
    rng = np.random.default_rng(0)
    return [text for _ in range(400) for doc in documents(rng)[1] for text in doc]


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
            "depth": 3,
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
