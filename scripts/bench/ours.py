# SPDX-License-Identifier: Apache-2.0
"""jaxvl at work, one step at a time, to compare others with: `jaxvl.train.grpo.GRPOLoop` as a run
calls it.

It runs as a worker process (see `pairs.Worker`):

    python scripts/bench/ours.py PATH '{"prompts": 4, "group": 8, "new_tokens": 64,
                                        "image_size": 112, "beta": 0.04}'
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Another process may share the device: take its memory as it is needed.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
from checkpoint import questions
from pairs import serve

from jaxvl.checkpoints.store import Whole
from jaxvl.config import GRPO, Config, Data, Model, Optim, Reward, Run, Sampling
from jaxvl.config.validate import validate
from jaxvl.data.example import Example
from jaxvl.data.prompts import round_up
from jaxvl.data.templates import chat_question
from jaxvl.distributed.mesh import make_mesh, put_rows
from jaxvl.models.arch import Arch
from jaxvl.models.inputs import Prompt
from jaxvl.rl import learner
from jaxvl.train.grpo import Carry, GRPOLoop
from jaxvl.train.setup import partition_trainable
from jaxvl.vlm import VLM, load


@dataclasses.dataclass(frozen=True)
class Questions:
    """The bench's questions as a source."""

    count: int
    image_size: int

    def load(self) -> Sequence[Example]:
        return [
            Example(id=str(i), question=text, answer="", images=(image,))
            for i, (text, image) in enumerate(questions(self.count, self.image_size))
        ]


def even_tokens(prompts, completions, completion_ids, **columns) -> list[float]:
    """The share of even token ids: the reward of `peer_trl`."""
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]


def without_stops(path: str) -> VLM:
    """The checkpoint as a run loads it, with rows over all devices; no completion ends early."""
    vlm = load(path, "float32", make_mesh(data=-1))
    return dataclasses.replace(vlm, processor=dataclasses.replace(vlm.processor, stop_ids=()))


def open_loop(cfg: Config, base: VLM) -> tuple[GRPOLoop, Whole, Carry]:
    """A run's loop before its first step, as a run that begins has it; call it under the mesh."""
    vlm, fresh, frozen, dropout = partition_trainable(base, cfg)
    loop = GRPOLoop(cfg, base, vlm, frozen, dropout)
    return loop, *loop.begin(learner.init_state(fresh, loop.tx))


class Ours:
    """A GRPO run on the checkpoint at `path`, with `prompts` * `group` completions a step."""

    def __init__(
        self,
        path: str,
        *,
        prompts: int,
        group: int,
        new_tokens: int,
        image_size: int,
        beta: float = 0.04,
        dtype: str = "float32",
        remat: str = "products",
        micro_batches: int = 1,
    ):
        vlm = without_stops(path)
        self.folder = tempfile.TemporaryDirectory(prefix="jaxvl-bench-")
        source = Questions(prompts, image_size)
        encoded = [vlm.processor.encode(chat_question(e), list(e.images)) for e in source.load()]
        tokens = round_up(max(len(e.tokens) for e in encoded), 16)
        patches = max(len(e.segments) for e in encoded)
        cfg = Config(
            model=Model(path, dtype=dtype, remat=remat),
            data=Data(source, chat_question, (tokens,), (patches,)),
            rewards=(Reward(even_tokens),),
            run=Run(self.folder.name, steps=10_000),
            sampling=Sampling(new_tokens),
            grpo=GRPO(prompts, group, beta=beta, micro_batches=micro_batches),
            optim=Optim(lr=1e-6),
        )
        validate(cfg)
        with jax.set_mesh(vlm.mesh):
            self.loop, self.whole, self.carry = open_loop(cfg, vlm)
        self.steps = 0
        self.flops = step_flops(
            vlm.config,
            prompt_tokens=sum(len(e.tokens) for e in encoded),
            patches=sum(len(e.segments) for e in encoded),
            completion_tokens=prompts * group * new_tokens,
            passes=5 if beta else 4,
        )

    def step(self) -> dict:
        """One whole GRPO step and where its seconds went; "host" is data, rewards and files."""
        self.steps += 1
        loop = self.loop
        start = time.perf_counter()
        with jax.set_mesh(loop.vlm.mesh):
            self.carry, metrics, _ = loop.step(self.steps, self.whole, self.carry)
        seconds = time.perf_counter() - start
        parts = {part: metrics[f"time/{part}"] for part in ("generate", "logprob", "update")}
        return {
            "seconds": seconds,
            **parts,
            "host": seconds - sum(parts.values()),
            "tokens": round(metrics["perf/tokens_per_s"] * metrics["time/total"]),
            "flops": self.flops,
            "peak_mib": peak_mib(),
        }

    def generate(self) -> dict:
        """The sampler alone, the prompts encoded and on the device before."""
        loop = self.loop
        arrays = loop.stream.collate(next(loop.stream), per_row=loop.per_row)
        with jax.set_mesh(loop.vlm.mesh):
            prompt = put_rows(Prompt.from_arrays(arrays), loop.vlm.mesh)
            seconds, rollout = time_of(loop.sample, self.whole.state.params, prompt, loop.key)
        return {"seconds": seconds, "tokens": int(rollout.mask.sum())}

    def matmul_peak(self) -> float:
        return matmul_peak(self.loop.cfg.model.dtype)


def matmul_peak(dtype: str) -> float:
    """FLOP/s of a large square product, the best of ten."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(jnp.matmul)
    time_of(product, x, x)
    return 2 * size**3 / min(time_of(product, x, x)[0] for _ in range(10))


def time_of(call, *arguments) -> tuple[float, Any]:
    """Seconds until what `call` returns is there, and what it returns."""
    start = time.perf_counter()
    result = jax.block_until_ready(call(*arguments))
    return time.perf_counter() - start, result


def step_flops(
    arch: Arch, *, prompt_tokens: int, patches: int, completion_tokens: int, passes: int
) -> float:
    """Multiplications and additions that a GRPO step cannot do without, in its weight products.

    passes * (2 * W_tower * patches + 2 * W_decoder * (prompt + completion tokens)
              + 2 * V * D * completion tokens)

    where W counts the weights that every patch (every token) is multiplied with. Prompts and their
    images are counted once, not once a completion, and padding not at all. A pass is a forward
    pass: sampling takes one, the reference one, the update three (its backward pass counts two);
    what is computed again to save memory is not counted. Attention's own products (of queries and
    keys, of weights and values) are left out: the figure is a little low.
    """
    vision, text = arch.vision, arch.text
    merged = vision.dim * vision.merge_size**2
    tower = (
        vision.patch_values * vision.dim
        + vision.depth * (4 * vision.dim**2 + 2 * vision.dim * vision.hidden)
        + (merged**2 + merged * vision.out_dim) / vision.merge_size**2
    )
    decoder = text.layers * (
        2 * text.dim**2 + 2 * text.dim * text.kv_heads * text.head_dim + 3 * text.dim * text.hidden
    )
    products = (
        tower * patches
        + decoder * (prompt_tokens + completion_tokens)
        + text.vocab * text.dim * completion_tokens
    )
    return passes * 2.0 * products


def peak_mib() -> float:
    """The most memory so far: of the accelerator where there is one, else of this process."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says on Linux begins with the parent's peak
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    serve(lambda: Ours(sys.argv[1], **json.loads(sys.argv[2])))
