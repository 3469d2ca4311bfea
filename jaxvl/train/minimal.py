# SPDX-License-Identifier: Apache-2.0
"""GRPO in one sitting: the quickstart's run with the public functions, one device, nothing hidden.

    python -m jaxvl.train.minimal configs/quickstart_base 20

What `jaxvl.train.grpo` adds is not the algorithm: checkpoints, evaluation, several processes, the
overlap of host and device, and everything that a user can switch on. The numbers of a step are the
same, as long as no prompt is too long.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from einops import rearrange

from jaxvl.config import GRPO, Optim, Reward
from jaxvl.data import pipeline
from jaxvl.data.example import Example
from jaxvl.data.prompts import balanced, collate
from jaxvl.data.scenes import Scenes
from jaxvl.data.templates import chat_question
from jaxvl.distributed.mesh import put_rows
from jaxvl.models.inputs import Prompt
from jaxvl.rewards import accuracy, think_format
from jaxvl.rewards.mix import score
from jaxvl.rl import learner
from jaxvl.rl.advantages import group_advantages
from jaxvl.rl.batch import TrainBatch
from jaxvl.rl.completions import read_completions
from jaxvl.rl.sampler import Sampler
from jaxvl.vlm import VLM, load

TASKS = ("relation", "count", "depth")
PROMPTS, GROUP, TOKENS = 16, 8, 48
CFG = GRPO(prompts=PROMPTS, group=GROUP, beta=0.0, logprob_chunk=384)
OPTIM = Optim(lr=1e-4, warmup_steps=5, b2=0.99)
REWARDS = (Reward(accuracy), Reward(think_format))


def stream(vlm: VLM, seed: int) -> Iterator[list[tuple]]:
    """Lists of (prompt id, example, prompt, encoded prompt), 16 at a time, without end."""
    encoder = vlm.processor.as_bytes()  # an eighth of the float32 that a device makes of them

    def make(position: int, candidates: Iterator[Example]) -> tuple:
        example = next(candidates)
        prompt = chat_question(example)
        return position, example, prompt, encoder.encode(prompt, list(example.images))

    examples = Scenes(size=20_000, tasks=TASKS).load()
    for items in pipeline.batches(
        examples, make, prompts=PROMPTS, seed=seed, shuffle=True, workers=2
    ):
        costs = [len(encoded.tokens) + len(encoded.segments) for *_, encoded in items]
        yield [items[i] for i in balanced(costs, 1)]


def train(path: str, steps: int, seed: int = 0) -> Iterator[dict[str, float]]:
    """Trains the model at `path` for `steps` steps; yields the numbers of each."""
    vlm = load(path, dtype="float32")
    sampler = Sampler(
        vlm.graphdef, vlm.decoding(GROUP, TOKENS, temperature=1.0, top_p=1.0, top_k=0), vlm.dtype
    )
    policy = learner.Policy(vlm.graphdef, vlm.dtype, "products", 1.0, CFG.logprob_chunk)
    tx = learner.optimizer(OPTIM, steps)
    update = learner.make_update(
        learner.grpo_objective(policy, CFG, TOKENS),
        tx,
        learner.schedule(OPTIM, steps),
        live=partial(learner.live_sequences, beta=CFG.beta),
    )
    key, prompts = jax.random.key(seed), stream(vlm, seed)
    with jax.set_mesh(vlm.mesh):
        state = learner.init_state(vlm.params, tx)
        for step in range(1, steps + 1):
            items = next(prompts)

            # Sample: every prompt once a row, its group beside it.
            arrays = collate(
                [encoded for *_, encoded in items],
                [position for position, *_ in items],
                pad_id=vlm.processor.pad_id,
                prompt_bucket=64,
                patch_bucket=64,
                completions_per_row=GROUP,
            )
            prompt = put_rows(Prompt.from_arrays(arrays), vlm.mesh)
            rollout = sampler(state.params, prompt, jax.random.fold_in(key, step))
            rollout = jax.tree.map(np.asarray, rollout)

            # Reward: on the host, text in and numbers out.
            completions = read_completions(rollout, vlm.processor)
            scores = score(
                REWARDS,
                prompts=[prompt for _, _, prompt, _ in items for _ in range(GROUP)],
                completions=[[{"role": "assistant", "content": x}] for x in completions.texts],
                completion_ids=completions.ids,
                columns={"answer": [x.answer for _, x, *_ in items for _ in range(GROUP)]},
            )
            total_PG = rearrange(scores.total_N, "(P G) -> P G", G=GROUP)
            advantages_PG: Any = group_advantages(total_PG, scale=CFG.scale_rewards)

            # Learn: one jitted update of prompt and group as one sequence.
            batch = TrainBatch(
                prompt=Prompt.from_arrays(arrays),
                tokens=rollout.tokens,
                mask=rollout.mask,
                advantages=advantages_PG,
                old_logps=rollout.logps,
                ref_logps=np.zeros_like(rollout.logps),
            )
            batch = jax.tree.map(lambda x: x[None], learner.live_first(batch, CFG))
            batch = put_rows(batch, vlm.mesh, lead=1)  # one micro-batch
            state, stats = update(state, batch, {}, np.float32(CFG.beta))
            yield {"reward": float(total_PG.mean())} | {
                name: float(value) for name, value in jax.device_get(stats).items()
            }


def main() -> None:
    """`python -m jaxvl.train.minimal MODEL STEPS`: a line a step."""
    path, steps = sys.argv[1], int(sys.argv[2])
    for step, metrics in enumerate(train(path, steps), start=1):
        print(f"step {step}/{steps}  reward {metrics['reward']:.3f}  loss {metrics['loss']:.4f}")


if __name__ == "__main__":
    main()
