# SPDX-License-Identifier: Apache-2.0
"""How many programs a run compiles, and when: images of random sizes, questions of any length.

    python scripts/bench/compiles.py --out compiles.json
    python scripts/bench/compiles.py --gpu --out compiles.json

A GRPO run as a config describes it, 4 prompts a step. Programs are counted by jax's own event, one
for every program compiled or taken from the persistent cache; small ones of single operations,
which are compiled when they are first met, are counted apart.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from checkpoint import SHAPES, texts
from grpo_step import checkpoint
from ours import even_tokens, open_loop
from pairs import positive, report

from jaxvl.checkpoints.store import Whole
from jaxvl.cli.runtime import as_command
from jaxvl.config import GRPO, Config, Data, Model, Optim, Reward, Run, Sampling
from jaxvl.data.example import Example
from jaxvl.data.templates import chat_question
from jaxvl.train.grpo import Carry, GRPOLoop
from jaxvl.vlm import load

OURS = (
    "start",
    "decode_steps",
    "resize",
    "rollout",
    "logprobs",
    "update",
)  # jitted functions of a run


@dataclasses.dataclass(frozen=True)
class RandomSizes:
    """Questions of random lengths about images of random sizes, up to `side` pixels a side."""

    count: int
    side: int

    def load(self) -> Sequence[Example]:
        from PIL import Image

        rng = np.random.default_rng(0)
        words = " ".join(next(texts(0)) for _ in range(20)).split()
        found = []
        for i in range(self.count):
            height, width = rng.integers(28, self.side + 1, 2)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            question = " ".join(rng.choice(words, rng.integers(1, 24)))
            picture = Image.fromarray(pixels)
            found.append(Example(id=str(i), question=question, answer="", images=(picture,)))
        return found


class Watch:
    """Names of the programs that were compiled since one last asked."""

    def __init__(self):
        self.names: list[str] = []
        jax.monitoring.register_event_duration_secs_listener(self._see)

    def _see(self, event: str, seconds: float, **of) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.names.append(str(of.get("fun_name", "")))

    def take(self) -> tuple[int, int]:
        """How many of a run's own functions, how many of other operations."""
        names, self.names = self.names, []
        own = sum(name.removeprefix("jit(").removesuffix(")") in OURS for name in names)
        return own, len(names) - own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, help="default 1m, on a GPU 2b")
    parser.add_argument("--steps", type=positive, default=100)
    parser.add_argument("--images", type=positive, default=400)
    parser.add_argument("--side", type=positive, help="of a picture; default 224, on a GPU 616")
    parser.add_argument("--new-tokens", type=positive, help="default 16, on a GPU 256")
    parser.add_argument("--gpu", action="store_true", help="bfloat16 at the 2b shape")
    parser.add_argument("--checkpoint", type=Path, help="folder to keep random checkpoints in")
    parser.add_argument("--out", type=Path, help="JSON file for the table")
    args = parser.parse_args()
    args.dtype = "bfloat16" if args.gpu else "float32"
    side = args.side or (616 if args.gpu else 224)
    tokens, patches = ((384, 768), (1024, 2048)) if args.gpu else ((96, 192), (128, 256))
    watch = Watch()
    with (
        checkpoint(args.shape or ("2b" if args.gpu else "1m"), args) as path,
        tempfile.TemporaryDirectory(prefix="jaxvl-bench-") as folder,
    ):
        cfg = Config(
            model=Model(str(path), args.dtype, remat="block" if args.gpu else "products"),
            data=Data(RandomSizes(args.images, side), chat_question, tokens, patches),
            rewards=(Reward(even_tokens),),
            run=Run(folder, steps=args.steps),
            sampling=Sampling(args.new_tokens or (256 if args.gpu else 16)),
            grpo=GRPO(prompts=4, group=8 if args.gpu else 4, micro_batches=1),
            optim=Optim(lr=1e-6),
        )
        vlm = load(path, args.dtype)
        with jax.set_mesh(vlm.mesh):
            loop, whole, carry = open_loop(cfg, vlm)
            del vlm
            rows = run(loop, whole, carry, args.steps, watch)
    report(rows, args.out)


def run(loop: GRPOLoop, whole: Whole, carry: Carry, steps: int, watch: Watch) -> list[dict]:
    """The table: what was compiled before the first step and in which steps."""
    watch.take()
    start = time.perf_counter()
    loop.compile(whole.state)
    own, other = watch.take()
    rows = [{"when": "before step 1", "programs": own, "other": other, "sizes": "-"}]
    rows[0]["s"] = time.perf_counter() - start
    sizes, last, counted = set(), 0, [own, other]
    collate = loop.stream.collate

    def seen(*arguments, **more):
        arrays = collate(*arguments, **more)
        sizes.add((arrays["tokens"].shape[1], arrays["patches"].shape[1]))
        return arrays

    loop.stream.collate = seen
    for step in range(1, steps + 1):
        start = time.perf_counter()
        carry, *_ = loop.step(step, whole, carry)
        own, other = watch.take()
        counted = [counted[0] + own, counted[1] + other]
        last = step if own else last
        if own or other:
            line = {"when": f"step {step}", "programs": own, "other": other, "sizes": len(sizes)}
            rows.append(line | {"s": time.perf_counter() - start})
    end = {"when": f"all of {steps} steps", "programs": counted[0], "other": counted[1]}
    rows.append(end | {"sizes": len(sizes), "s": "-"})
    rows.append({"when": "last compiled in step", "programs": last, "other": "-", "sizes": "-"})
    rows[-1]["s"] = "-"
    return rows


if __name__ == "__main__":
    as_command(main)
