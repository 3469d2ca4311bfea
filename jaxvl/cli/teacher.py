# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of one's own as a teacher and a scorer of `jaxvl.curate`, which knows no jax."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from jaxvl import vlm
from jaxvl.curate.teachers import Answer
from jaxvl.data.image import load_image
from jaxvl.distributed.mesh import make_mesh


def load(path: str, dtype: str = "bfloat16") -> vlm.VLM:
    """On all devices, each with a part of the rows."""
    return vlm.load(path, dtype=dtype, mesh=make_mesh(data=-1))


def answers(path: str) -> Answer:
    """What the checkpoint says to chat requests."""
    model = load(path)

    def answer(bodies: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
        prompts, images = zip(*(_with_pictures(body) for body in bodies), strict=True)
        replies = model.generate(
            list(prompts),
            list(images),
            max_new_tokens=bodies[0]["max_tokens"],
            temperature=bodies[0]["temperature"],
        )
        return [(reply.text, reply.finish_reason) for (reply,) in replies]

    return answer


def _with_pictures(body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """A chat request as `generate` takes it: messages, and the images apart."""
    images, messages = [], []
    for turn in body["messages"]:
        parts = []
        for part in turn["content"]:
            if part["type"] == "image_url":
                data = part["image_url"]["url"].partition(",")[2]
                images.append(load_image(base64.b64decode(data)))
                part = {"type": "image"}
            parts.append(part)
        messages.append({"role": turn["role"], "content": parts})
    return messages, images
